"""Every spelling that means something already, indexed by the forms under which a new name is compared.

Built once for a vocabulary and never changed; `plus` makes another one that knows more, at the price of copying.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from typing import Self, TypeVar

from enforcer.names import readings, slips
from enforcer.names.rules import NameRules

Tags = tuple[str, ...]
Key = TypeVar("Key", str, tuple[str, ...])
MOST_CORRECTIONS = 8  # of one name, when several of its words are misspelt in several ways


@dataclass(frozen=True)
class Spelling:
    """A tag's name (`tag` is itself), an alias of one, or a reserved word (no `tag`), reserved `until` then."""

    text: str
    tag: str | None
    reason: str = ""
    until: datetime | None = None


@dataclass(frozen=True)
class KnownNames:
    """`close` and `words` hold what a spelling, or a long word of one, becomes with one letter left out."""

    rules: NameRules
    spellings: Mapping[str, Spelling] = field(default_factory=dict)
    stems: Mapping[Tags, Tags] = field(default_factory=dict)
    orders: Mapping[Tags, Tags] = field(default_factory=dict)
    squeezed: Mapping[str, Tags] = field(default_factory=dict)
    skeletons: Mapping[str, Tags] = field(default_factory=dict)
    close: Mapping[str, Tags] = field(default_factory=dict)
    words: Mapping[str, Tags] = field(default_factory=dict)

    @classmethod
    def of(cls, rules: NameRules, spellings: Iterable[Spelling]) -> Self:
        return cls(rules).plus(spellings)

    def plus(self, more: Iterable[Spelling]) -> Self:
        """These and more. A spelling that is known already takes the new meaning, if it was reserved before."""
        spellings, stems, orders = dict(self.spellings), dict(self.stems), dict(self.orders)
        squeezed, skeletons = dict(self.squeezed), dict(self.skeletons)
        close, words = dict(self.close), dict(self.words)
        for one in more:
            spellings[one.text] = one
            if one.tag is None:
                continue
            means = (one.tag,)
            said = readings.words(one.text)
            stem, flat = readings.stems(readings.core(said, self.rules), self.rules), one.text.replace("-", "")
            if stem:
                _add(stems, stem, means)
                _add(orders, readings.in_any_order(stem), means)
            _add(squeezed, readings.squeezed(one.text), means)
            _add(skeletons, readings.skeleton(one.text), means)
            if len(flat) >= slips.SHORTEST:
                for less in slips.less_one(flat):
                    _add(close, less, (one.text,))
            for word in {word for word in said if len(word) >= slips.SHORTEST and word not in words}:
                for less in slips.less_one(word):
                    _add(words, less, (word,))
        return type(self)(self.rules, spellings, stems, orders, squeezed, skeletons, close, words)

    def a_slip_from(self, said: list[str]) -> Iterator[tuple[str, str]]:
        """Tags whose name or alias is one slip away from the letters of these words, with the slip in words. A word
        more or less is none, were it of one letter: `p-list-mle` is not `list-mle`."""
        flat = "".join(said)
        for text in dict.fromkeys(text for less in slips.less_one(flat) for text in self.close.get(less, ())):
            slip = slips.one_slip(flat, text.replace("-", ""))
            if slip and not _a_word_more(said, text.split("-")):
                yield self._tag(text), f"`{text}`, {slip}"

    def corrected(self, said: list[str]) -> Iterator[list[str]]:
        """The words with one slip in each long word put right, where known names have such words."""
        choices = [self._meant(word) for word in said]
        if all(choice == [word] for choice, word in zip(choices, said, strict=True)):
            return
        for at, chosen in enumerate(product(*choices)):
            if at == MOST_CORRECTIONS:
                return
            yield list(chosen)

    def _meant(self, word: str) -> list[str]:
        if len(word) < slips.SHORTEST - 1 or word in self.rules.abbreviations or word in self.words.get(word, ()):
            return [word]
        found = dict.fromkeys(known for less in slips.less_one(word) for known in self.words.get(less, ()))
        return [known for known in found if slips.one_slip(word, known)] or [word]

    def _tag(self, text: str) -> str:
        tag = self.spellings[text].tag
        assert tag is not None, "reserved words are in no index of slips"
        return tag

    def canonical(self, name: str) -> str:
        """The tag that an alias stands for; any other name as it is."""
        known = self.spellings.get(name)
        return known.tag if known and known.tag else name


def _a_word_more(one: list[str], other: list[str]) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return any(longer[:at] + longer[at + 1 :] == shorter for at in range(len(longer)))


def _add(index: dict[Key, Tags], key: Key, means: Tags) -> None:
    held = index.get(key)
    if held is None:
        index[key] = means
    elif means[0] not in held:
        index[key] = held + means
