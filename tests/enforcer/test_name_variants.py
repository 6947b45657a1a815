"""How many variants of real names are caught, and how many real names are taken for variants.

Each list of `real_names.yaml` is the vocabulary once. Variants are made with a seed: one slip of the hand, other
separators, versions, noise words, words turned round. A variant is caught when it is blocked and its tag named (with a
word that nobody knows for noise: when it has to say why). A real name that is held against the others of its list is a
false alarm when it is blocked; that it extends one of them, and has to say why, is none, and counted by itself.
"""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from enforcer.names import KnownNames, NameRules, Spelling, Verdict, check_name

HERE = Path(__file__).parent
NOW = datetime(2026, 12, 1, tzinfo=UTC)
RULES = NameRules.model_validate(yaml.safe_load((HERE.parents[1] / "policies" / "names.yaml").read_text()))
FILE = yaml.safe_load((HERE / "real_names.yaml").read_text())
LISTS = {name: one["names"].split() for part in ("tuned", "held_out") for name, one in FILE[part].items()}
BESIDE = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wertyuioposdfghjklkxcvbnmn", strict=True))  # one key further


def slips(name: str, dice: random.Random) -> Iterator[str]:
    """One of each kind, at a letter; a letter is never exchanged for the same, nor next to a digit."""
    plain = [mark.isalpha() for mark in name]
    near_digit = [any(c.isdigit() for c in name[max(0, at - 1) : at + 3]) for at in range(len(name))]
    places = [at for at in range(len(name)) if plain[at] and not near_digit[at]]
    swaps = [at for at in places if at + 1 < len(name) and name[at + 1].isalpha() and name[at] != name[at + 1]]
    if swaps:
        at = dice.choice(swaps)
        yield name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    for make in (_leave_out, _repeat, _hit_beside):
        if places:
            yield make(name, dice.choice(places))


def _leave_out(name: str, at: int) -> str:
    return name[:at] + name[at + 1 :]


def _repeat(name: str, at: int) -> str:
    return name[:at] + name[at] + name[at:]


def _hit_beside(name: str, at: int) -> str:
    return name[:at] + BESIDE[name[at]] + name[at + 1 :]


def separators(name: str, dice: random.Random) -> Iterator[str]:
    if "-" in name:
        camel = name.title().replace("-", "")
        yield from (name.replace("-", ""), name.replace("-", "_"), camel, name.replace("-", "", 1))


def versions(name: str, dice: random.Random) -> Iterator[str]:
    yield f"{name}-v{dice.randrange(1, 20)}"
    yield f"{name}-{dice.randrange(2019, 2027)}"
    yield f"{name}-v2-{dice.randrange(9)}"


def known_noise(name: str, dice: random.Random) -> Iterator[str]:
    yield from (f"{name}-{dice.choice(sorted(RULES.noise))}", f"{dice.choice(['my', 'new', 'old', 'tmp'])}-{name}")


def unknown_noise(name: str, dice: random.Random) -> Iterator[str]:
    yield f"{name}-{dice.choice(['zhang', 'retail', 'rerun', 'tryout', 'q3', 'lite', 'plus', 'pilot'])}"


def turned_round(name: str, dice: random.Random) -> Iterator[str]:
    words = name.split("-")
    if len(words) == 2 and words[0] != words[1]:
        yield "-".join(reversed(words))


def look_alikes(name: str, dice: random.Random) -> Iterator[str]:
    for plain, alike in (("l", "1"), ("o", "0"), ("m", "rn"), ("a", "а"), ("e", "е")):
        if plain in name:
            yield name.replace(plain, alike, 1)


MAKERS: dict[str, Callable[[str, random.Random], Iterator[str]]] = {
    "slips": slips, "separators": separators, "versions": versions, "known noise": known_noise,
    "unknown noise": unknown_noise, "words turned round": turned_round, "look-alikes": look_alikes,
}  # fmt: skip


def caught(name: str, variant: str, known: KnownNames, enough: set[Verdict]) -> bool:
    """It is not let through, and the answer names what it is a variant of."""
    verdict = check_name(variant, known, now=NOW)
    return verdict.verdict in enough and name in {match.tag for match in verdict.matches}


def measure(kind: str, vocabulary: list[str]) -> tuple[int, list[str]]:
    """How many variants were made, and those that got away."""
    dice = random.Random(20261124)
    known = KnownNames.of(RULES, [Spelling(name, name) for name in vocabulary])
    long_enough = [name for name in vocabulary if kind != "slips" or sum(map(str.isalpha, name)) >= 6]
    made = [(name, variant) for name in long_enough for variant in MAKERS[kind](name, dice)]
    enough = {Verdict.BLOCK, Verdict.JUSTIFY} if kind == "unknown noise" else {Verdict.BLOCK}
    new = [(name, variant) for name, variant in made if variant not in known.spellings]
    return len(new), [variant for name, variant in new if not caught(name, variant, known, enough)]


def among_themselves(vocabulary: list[str]) -> tuple[set[str], set[str]]:
    """The names that are taken for another of the list, and those that have to say why they extend one."""
    found: dict[Verdict, set[str]] = {verdict: set() for verdict in Verdict}
    for name in vocabulary:
        others = KnownNames.of(RULES, [Spelling(other, other) for other in vocabulary if other != name])
        found[check_name(name, others, now=NOW).verdict].add(name)
    return found[Verdict.BLOCK], found[Verdict.JUSTIFY]


def all_figures() -> Iterator[str]:
    """For enforcer/README.md: `python tests/enforcer/test_name_variants.py`."""
    for title, vocabulary in LISTS.items():
        blocked, asked = among_themselves(vocabulary)
        yield f"{title}: {len(vocabulary)} names, {len(blocked)} false alarms, {len(asked)} asked why"
        for kind in MAKERS:
            made, missed = measure(kind, vocabulary)
            yield f"  {kind}: {made - len(missed)}/{made} {' '.join(missed)}"


# Beside a digit a letter is a name of its own (`f1`, `r2`, `3d`), and `2` in the middle of a name reads as `to`.
GOT_AWAY = {
    "slips": {"f1-acro", "f1-nacro", "text-ot-3d"},
    "words turned round": {"generation-text2text", "loss-matryoshka2d"},
}
# A letter or a plural apart and both real; or ending in a word that says which try it is. The first pair is told apart
# by `distinct_from`, the others need another name.
FALSE_ALARMS = {
    "scores": {"r2"},
    "estimators": {
        "dbscan", "hdbscan", "extra-tree-classifier", "extra-trees-classifier", "extra-tree-regressor",
        "extra-trees-regressor", "fixed-threshold-classifier", "select-k-best",
    },
}  # fmt: skip


@pytest.mark.parametrize("title", LISTS)
@pytest.mark.parametrize("kind", MAKERS)
def test_variants_of_real_names_are_caught(kind: str, title: str) -> None:
    made, missed = measure(kind, LISTS[title])

    assert made > len(LISTS[title]) / 6
    assert set(missed) <= GOT_AWAY.get(kind, set())


@pytest.mark.parametrize("title", LISTS)
def test_real_names_are_not_taken_for_each_other(title: str) -> None:
    blocked, _ = among_themselves(LISTS[title])

    assert blocked == FALSE_ALARMS.get(title, set())


if __name__ == "__main__":
    print("\n".join(all_figures()))
