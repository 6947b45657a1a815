"""The verdict on a proposed name: its layers in the order of `enforcer.names`."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from enforcer.names import readings
from enforcer.names.known import KnownNames
from enforcer.names.rules import VERSION

GRAMMAR = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
MIN_LENGTH, MAX_LENGTH, MAX_WORDS = 2, 48, 5
LOOSE = re.compile(r"v\d+")  # is a version wherever it stands; `r2-score` may be honest


class Verdict(StrEnum):
    OK = "ok"
    JUSTIFY = "justify"
    BLOCK = "block"


@dataclass(frozen=True)
class Match:
    """One rule that spoke up: which, because of which existing tag, on what evidence; and what follows from it alone
    (`OK` where the author has answered it)."""

    rule: str
    evidence: str
    tag: str | None = None
    verdict: Verdict = Verdict.BLOCK


@dataclass(frozen=True)
class NameVerdict:
    """What is to be said about a proposed name. `suggestion` is a name or an existing tag to use instead."""

    name: str
    verdict: Verdict
    matches: tuple[Match, ...] = field(default=())
    suggestion: str | None = None

    @property
    def sentence(self) -> str:
        """What speaks against the name, in words; empty when it is fine."""
        against = [match.evidence for match in self.matches if match.verdict is not Verdict.OK]
        return f"`{self.name}`: " + "; ".join(against) if against else ""


def check_name(
    name: str,
    known: KnownNames,
    *,
    now: datetime,
    parent: str | None = None,
    distinct_from: Mapping[str, str] | None = None,
) -> NameVerdict:
    """Rule on a proposed name. `distinct_from` says of existing tags why the name means another thing."""
    kebab = readings.to_kebab(readings.fold(name))
    said_of = {known.canonical(tag): because for tag, because in (distinct_from or {}).items()}
    found = list(_same_meaning(kebab, known, now))
    found += _nearly(kebab, known, {match.tag for match in found})
    if not name.isascii():
        found = [_in_another_script(match) for match in found]
    found = [_answered(match, known.canonical(parent) if parent else None, said_of) for match in found]
    grammar = _breach_of_grammar(name)
    if grammar:
        found.insert(0, Match("grammar", grammar))
    elif not any(match.verdict is Verdict.BLOCK for match in found):
        found += _noise(name, known)
    return _verdict(name, kebab, known, found, now)


def is_canonical(name: str) -> bool:
    """Whether the grammar alone accepts the name."""
    return _breach_of_grammar(name) is None


def _breach_of_grammar(name: str) -> str | None:
    if not MIN_LENGTH <= len(name) <= MAX_LENGTH:
        return f"a name has {MIN_LENGTH} to {MAX_LENGTH} characters, this one has {len(name)}"
    if not GRAMMAR.fullmatch(name):
        return "a name is lower-case words of letters and digits joined by single hyphens, and starts with a letter"
    if name.count("-") >= MAX_WORDS:
        return f"a name has at most {MAX_WORDS} words"
    return None


# --- layers 2 to 7: it is what exists already -------------------------------------------------------------------------


def _same_meaning(kebab: str, known: KnownNames, now: datetime) -> Iterator[Match]:
    """Each tag once, by the first rule that names it. What stands there letter for letter ends the search."""
    exact = known.spellings.get(kebab)
    if exact is not None and (exact.until is None or now < exact.until):
        yield _taken(kebab, exact.tag, exact.reason)
        return
    seen: set[str] = set()
    for rule, evidence, tags in _alike(kebab, known):
        for tag in tags:
            if tag not in seen:
                seen.add(tag)
                yield Match(rule, evidence.format(tag=tag), tag)


def _taken(kebab: str, tag: str | None, reason: str) -> Match:
    if tag is None:
        return Match("reserved", f"the word is reserved: {reason}")
    if tag == kebab:
        return Match("exists", f"`{tag}` exists already", tag)
    return Match("alias", f"it is an alias of `{tag}`", tag)


def _alike(kebab: str, known: KnownNames) -> Iterator[tuple[str, str, Iterable[str]]]:
    rules, cores = known.rules, list(_cores(kebab, known))
    for core in cores:
        exact = known.spellings.get("-".join(core))
        if exact is not None and exact.tag:
            if len(core) < len(readings.words(kebab)):
                yield "noise", "without its version and noise words it is `{tag}`", (exact.tag,)
            else:
                yield "stems", "with its words apart it is `{tag}`", (exact.tag,)
    for core in cores:
        yield "stems", "it says the same words as `{tag}`", known.stems.get(readings.stems(core, rules), ())
    for core in cores:
        mixed = readings.in_any_order(readings.stems(core, rules))
        yield "order", "it says the words of `{tag}` in another order", known.orders.get(mixed, ())
    for flat in [readings.squeezed(kebab), *(readings.squeezed("".join(core)) for core in cores)]:
        yield "separators", "it is `{tag}` with other separators", known.squeezed.get(flat, ())
    for letters in [kebab, *("".join(core) for core in cores)]:
        alike = known.skeletons.get(readings.skeleton(letters), ())
        yield "confusable", "its letters look like those of `{tag}`", alike


def _cores(kebab: str, known: KnownNames) -> Iterator[list[str]]:
    """The words that say something, in every reading of a `2` inside."""
    seen = []
    for two in ("to", "2"):
        said = readings.words(kebab, two=two)
        for soft in (False, True):
            core = readings.core(said, known.rules, soft=soft)
            if core and core not in seen:
                seen.append(core)
                yield core


def _in_another_script(match: Match) -> Match:
    return Match("confusable", f"some of its letters only look like Latin ones; {match.evidence}", match.tag)


# --- layers 8 and 9: it comes near ------------------------------------------------------------------------------------


def _nearly(kebab: str, known: KnownNames, seen: set[str | None]) -> list[Match]:
    found: list[Match] = []
    for tag, how in _misspelt(kebab, known):
        if tag not in seen:
            seen.add(tag)
            found.append(Match("typo", f"it is a slip away from {how}", tag))
    for tag, text in _extended(kebab, known):
        if tag not in seen:
            seen.add(tag)
            called = f"`{text}`" if text == tag else f"`{text}`, an alias of `{tag}`"
            found.append(Match("extends", f"it extends {called}", tag, Verdict.JUSTIFY))
    return found


def _misspelt(kebab: str, known: KnownNames) -> Iterator[tuple[str, str]]:
    cores = list(_cores(kebab, known))
    for said in [kebab.split("-"), *cores]:
        yield from known.a_slip_from(said)
    for core in cores:
        for meant in known.corrected(core):
            for tag in known.orders.get(readings.in_any_order(readings.stems(meant, known.rules)), ()):
                yield tag, f"`{tag}`, read as `{'-'.join(meant)}`"


def _extended(kebab: str, known: KnownNames) -> Iterator[tuple[str, str]]:
    """Tags whose name or alias stands in it, whole and with words around; of nested ones the longest."""
    whole = kebab.split("-")[: 2 * MAX_WORDS]
    without_noise = [word for word in whole if not known.rules.is_noise(word)]
    yield from _standing_in(whole, known)
    if without_noise != whole:
        yield from _standing_in(without_noise, known)


def _standing_in(said: list[str], known: KnownNames) -> Iterator[tuple[str, str]]:
    taken: list[tuple[int, int]] = []
    for length in range(len(said) - 1, 0, -1):
        for start in range(len(said) - length + 1):
            if any(first <= start and start + length <= last for first, last in taken):
                continue
            part = said[start : start + length]
            for tag in _named(part, known):
                taken.append((start, start + length))
                yield tag, "-".join(part) if "-".join(part) in known.spellings else tag


def _named(part: list[str], known: KnownNames) -> tuple[str, ...]:
    exact = known.spellings.get("-".join(part))
    if exact is not None:
        return (exact.tag,) if exact.tag else ()
    stem = readings.stems(part, known.rules)
    found = known.stems.get(stem, ())
    if len(part) == 1:  # only as the tag's own name: with an alias `cls`, every `...-classification` would extend it
        return tuple(tag for tag in found if readings.stems(tag.split("-"), known.rules) == stem)
    return found


def _answered(match: Match, parent: str | None, distinct_from: Mapping[str, str]) -> Match:
    if match.tag is None or match.rule not in ("typo", "extends"):
        return match
    if match.rule == "extends" and match.tag == parent:
        return Match(match.rule, f"{match.evidence}, its parent", match.tag, Verdict.OK)
    if match.tag in distinct_from:
        because = f"{match.evidence}; said to be distinct: {distinct_from[match.tag]}"
        return Match(match.rule, because, match.tag, Verdict.OK)
    return match


# --- what the name is by itself ---------------------------------------------------------------------------------------


def _noise(name: str, known: KnownNames) -> list[Match]:
    """Versions, stages and noise, where no existing tag is left without them."""
    said = name.split("-")
    noise = [word for word in said if LOOSE.fullmatch(word)]
    noise += [said[0]] if said[0] in known.rules.never_first else []
    noise += [said[-1]] if said[-1] in known.rules.noise or VERSION.fullmatch(said[-1]) else []
    if not noise:
        return []
    quoted = ", ".join(f"`{word}`" for word in dict.fromkeys(noise))
    return [Match("noise", f"{quoted} is a version, stage or noise word; iterations belong in the version field")]


def _verdict(name: str, kebab: str, known: KnownNames, found: list[Match], now: datetime) -> NameVerdict:
    verdict = max((match.verdict for match in found), key=list(Verdict).index, default=Verdict.OK)
    suggestion = None if verdict is Verdict.OK else _suggestion(name, kebab, known, found, now)
    return NameVerdict(name[: readings.LONGEST], verdict, tuple(found), suggestion)


def _suggestion(name: str, kebab: str, known: KnownNames, found: list[Match], now: datetime) -> str | None:
    for match in found:
        if match.tag and match.verdict is not Verdict.OK:
            return match.tag
    plain = _plain(kebab, known)
    if plain == name or not is_canonical(plain):
        return None
    verdict = check_name(plain, known, now=now)
    return plain if verdict.verdict is Verdict.OK else verdict.suggestion


def _plain(kebab: str, known: KnownNames) -> str:
    """The name without what a name may not have: noise and versions at its ends, versions inside."""
    said = kebab.split("-")
    while said and known.rules.is_noise(said[-1]):
        said.pop()
    while said and (said[0] in known.rules.never_first or VERSION.fullmatch(said[0])):
        said.pop(0)
    return "-".join(word for word in said if not LOOSE.fullmatch(word))
