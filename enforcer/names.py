"""What a task type may be called.

The rules, in the order they are tried:
1. Grammar: `^[a-z][a-z0-9]*(-[a-z0-9]+)*$`, 2-48 characters, at most five words.
2. Reserved words may not be a name.
3. Nothing that exists, and no alias of it, may be proposed again.
4. Versions, dates, stages and noise words are not part of a name: the version is a field (`dpo@4`), the stage a state.
5. What is left after noise, abbreviations (`seq` = `sequence`), word order and separators are evened out may not equal
   an existing tag's. Word order counts around `to`: `image-to-text` is not `text-to-image`.

There is no edit distance here on purpose: `dpo cpo ppo kto orpo` are one or two edits apart and all real.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

GRAMMAR = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
MIN_LENGTH, MAX_LENGTH, MAX_WORDS = 2, 48, 5

RESERVED = {
    "all": "policy uses it for every task type",
    "any": "policy uses it for every task type",
    "none": "it means that there is no task type",
    "default": "a run always names its task type",
    "other": "metrics use it for names outside the vocabulary",
    "tag": "it says nothing about the task",
    "task": "it says nothing about the task",
    "task-type": "it says nothing about the task",
}

NOISE = frozenset(
    """v ver version final new newest latest last old older test testing tmp temp copy draft backup bak orig my our dev
    prod production staging stage exp experiment experimental run try trial fix fixed beta alpha rc release updated
    improved better best real true ok good demo sample example wip task type tag job""".split()
)
# Part of honest names (`agent-training`), yet no difference when a tag is all that is left (`dpo-training`).
SOFT_NOISE = frozenset("training train tuning tune finetuning finetune trainer".split())
VERSION = re.compile(r"v?\d+(?:\.\d+)*|(?:v|ver|rev|r|ep|run|exp|try)\d+")

ABBREVIATIONS = {
    "seq": "sequence",
    "cls": "classification",
    "clf": "classification",
    "classifier": "classification",
    "classify": "classification",
    "class": "classification",
    "emb": "embedding",
    "embed": "embedding",
    "rerank": "reranker",
    "reranking": "reranker",
    "ranker": "reranker",
    "pretrain": "pre-training",
    "pretraining": "pre-training",
    "rm": "reward-modeling",
    "reward": "reward",
    "modelling": "modeling",
    "gen": "generation",
    "txt": "text",
    "img": "image",
    "lang": "language",
    "ner": "named-entity-recognition",
    "qa": "question-answering",
}


class Ruling(StrEnum):
    OK = "ok"
    BLOCK = "block"


@dataclass(frozen=True)
class Match:
    """One rule that spoke against a name: which, because of which existing tag, and on what evidence."""

    rule: str
    evidence: str
    tag: str | None = None


@dataclass(frozen=True)
class NameVerdict:
    """What is to be said about a proposed name. `suggestion` is a name or an existing tag to use instead."""

    name: str
    ruling: Ruling
    matches: tuple[Match, ...] = field(default=())
    suggestion: str | None = None

    @property
    def sentence(self) -> str:
        """The refusal in words; empty when the name is fine."""
        if self.ruling is Ruling.OK:
            return ""
        return f"`{self.name}`: " + "; ".join(match.evidence for match in self.matches)


def check_name(name: str, vocabulary: Mapping[str, Iterable[str]]) -> NameVerdict:
    """Rule on a proposed name against the live vocabulary (`{tag: aliases}`)."""
    kebab = to_kebab(name)
    existing = _same_meaning(kebab, vocabulary)
    grammar = _breach_of_grammar(name)
    if grammar:
        return _block(name, [Match("grammar", grammar), *existing], _suggest(kebab, existing))
    if name in RESERVED:
        return _block(name, [Match("reserved", f"the word is reserved: {RESERVED[name]}")], None)
    if existing:
        return _block(name, existing, _suggest(kebab, existing))
    noise = [word for word in re.sub(r"(?<=-)2(?=-)", "to", name).split("-") if _is_noise(word)]
    if noise:
        evidence = f"{_quoted(noise)} is a version, stage or noise word; iterations belong in the version field"
        return _block(name, [Match("noise", evidence)], _suggest(kebab, []))
    return NameVerdict(name, Ruling.OK)


def is_canonical(name: str) -> bool:
    """Whether the grammar alone accepts the name (rule 1)."""
    return _breach_of_grammar(name) is None


def to_kebab(text: str) -> str:
    """The nearest kebab-case reading of any text: `DpoTask` -> `dpo-task`, `text_to_SQL` -> `text-to-sql`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", text[:200])
    return re.sub(r"[^a-z0-9]+", "-", spaced.lower()).strip("-")


def _breach_of_grammar(name: str) -> str | None:
    if not MIN_LENGTH <= len(name) <= MAX_LENGTH:
        return f"a name has {MIN_LENGTH} to {MAX_LENGTH} characters, this one has {len(name)}"
    if not GRAMMAR.fullmatch(name):
        return "a name is lower-case words of letters and digits joined by single hyphens, and starts with a letter"
    if name.count("-") >= MAX_WORDS:
        return f"a name has at most {MAX_WORDS} words"
    return None


def _same_meaning(kebab: str, vocabulary: Mapping[str, Iterable[str]]) -> list[Match]:
    """Rules 3 to 5: the existing tags that this name only says again, exact matches first."""
    # A `2` inside may mean `to` (`text-2-sql`) or a version (`dpo-2-new`): both readings count.
    readings = (_words(kebab), _words(kebab, two="2"))
    cores = {_core(words, soft) for words in readings for soft in (frozenset(), SOFT_NOISE)}
    stems, squeezed = _stems(kebab), _squeezed(kebab)
    found: list[Match] = []
    for tag, aliases in vocabulary.items():
        spellings = [tag, *aliases]
        if kebab == tag:
            found.insert(0, Match("exists", f"`{tag}` exists already", tag))
        elif kebab in spellings:
            found.insert(0, Match("alias", f"it is an alias of `{tag}`", tag))
        elif cores & set(spellings):
            found.append(Match("noise", f"without its version and noise words it is `{tag}`", tag))
        elif stems in map(_stems, spellings):
            found.append(Match("stems", f"it says the same words as `{tag}`", tag))
        elif squeezed in map(_squeezed, spellings):
            found.append(Match("separators", f"it is `{tag}` with other separators", tag))
    return found


def _core(words: list[str], soft: frozenset[str] = frozenset()) -> str:
    return "-".join(word for word in words if not _is_noise(word) and word not in soft)


def _words(kebab: str, two: str = "to") -> list[str]:
    """Words for comparison only: glued numbers stand alone, `dpo2` is `dpo 2` and `text2sql` is `text to sql`."""
    words = [part for word in kebab.split("-") for part in re.findall(r"v\d+|\d+|[a-z]+", word)]
    return [(two if word == "2" and 0 < at < len(words) - 1 else word) for at, word in enumerate(words)]


def _stems(kebab: str) -> tuple[str, ...]:
    words = [_singular(word) for word in _core(_words(kebab)).split("-")]
    flat = [part for word in words for part in ABBREVIATIONS.get(word, word).split("-")]
    # Around `to` the order is the meaning.
    return tuple(flat) if "to" in flat else tuple(sorted(flat))


def _squeezed(kebab: str) -> str:
    return _singular(kebab.replace("-", ""))


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _is_noise(word: str) -> bool:
    return word in NOISE or VERSION.fullmatch(word) is not None


def _suggest(kebab: str, existing: list[Match]) -> str | None:
    if existing:
        return existing[0].tag
    core = _core(_words(kebab))
    return core if core not in RESERVED and is_canonical(core) else None


def _block(name: str, matches: list[Match], suggestion: str | None) -> NameVerdict:
    return NameVerdict(name[:200], Ruling.BLOCK, tuple(matches), suggestion)


def _quoted(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
