"""What the check of one name costs, by the number of names that exist, beside rapidfuzz and difflib.

The same names and the same questions for all: names that exist, misspelt, with versions, without separators, extended,
and new ones. The peers only look for what is near (optimal string alignment, difflib's ratio) and know nothing of
noise, abbreviations, order or aliases. CPU microseconds of the asking thread.

    python bench/vocabulary.py [--questions 2000] [--sizes 100 1000 10000]

Exits 1 when a check against 10,000 names costs 2 ms or more.
"""

import argparse
import difflib
import random
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import yaml
from rapidfuzz import process
from rapidfuzz.distance import OSA

from enforcer.names import KnownNames, NameRules, Spelling, check_name

NAMES = Path(__file__).parents[1] / "policies" / "names.yaml"
NOW = datetime(2026, 12, 1, tzinfo=UTC)
BAR_US = 2_000.0
FIELDS = "retail finance search travel music games health energy logistics support sales security hiring law".split()
THINGS = """image text audio video product review intent query document invoice ticket churn topic speech token sentence
passage table graph protein molecule code patent contract dialogue""".split()
DEEDS = """classification detection segmentation generation retrieval ranking matching recognition extraction
summarization translation clustering forecasting answering tagging parsing alignment scoring""".split()


def vocabulary(size: int) -> list[str]:
    """Of three and four words, as business units would make them."""
    made = ["-".join(words) for words in product(FIELDS, THINGS, DEEDS)]
    made += ["-".join(words) for words in product(FIELDS, THINGS, ("pair", "batch"), DEEDS)]
    return random.Random(size).sample(made, size)  # noqa: S311 (the same names for the same size)


def questions(names: Sequence[str], number: int) -> list[str]:
    dice = random.Random(number)  # noqa: S311
    return [_asked(dice.choice(names), dice) for _ in range(number)]


def _asked(name: str, dice: random.Random) -> str:
    at = dice.randrange(1, len(name) - 1)
    return dice.choice(
        [
            name,
            name[:at] + name[at + 1 :],
            name[:at] + name[at] + name[at:],
            f"{name}-v2",
            name.replace("-", ""),
            f"{name}-chinese",
            f"{dice.choice(THINGS)}-quality-{dice.choice(DEEDS)}",
        ]
    )


def measured(ask: Callable[[str], object], asked: Sequence[str]) -> list[float]:
    """CPU microseconds of each, least first."""
    for name in asked[:5]:
        ask(name)
    costs = []
    for name in asked:
        begun = time.thread_time_ns()
        ask(name)
        costs.append((time.thread_time_ns() - begun) / 1_000)
    return sorted(costs)


def row(title: str, costs: list[float]) -> str:
    mean, p50, p99 = sum(costs) / len(costs), costs[len(costs) // 2], costs[int(len(costs) * 0.99)]
    return f"  {title:<34} {mean:>12,.0f} {p50:>12,.0f} {p99:>12,.0f}"


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--questions", type=int, default=2_000)
    options.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000, 10_000])
    given = options.parse_args()
    rules, worst = NameRules.model_validate(yaml.safe_load(NAMES.read_text())), 0.0
    for size in given.sizes:
        names = vocabulary(size)
        asked = questions(names, given.questions)
        begun = time.process_time()
        known = KnownNames.of(rules, [Spelling(name, name) for name in names])
        built = time.process_time() - begun
        begun = time.process_time()
        known.plus([Spelling("one-more", "one-more")])
        more = time.process_time() - begun
        print(f"{size:,} names: index built in {built * 1e3:,.0f} ms, one name more in {more * 1e3:,.1f} ms")
        print(f"  {'CPU us':<34} {'mean':>12} {'p50':>12} {'p99':>12}")
        ours = measured(lambda name, known=known: check_name(name, known, now=NOW), asked)  # type: ignore[misc]
        worst = max(worst, sum(ours) / len(ours))
        print(row("check_name", ours))
        near = measured(lambda name, names=names: _near(name, names), asked[: max(50, 200_000 // size)])  # type: ignore[misc]
        print(row("rapidfuzz process.extract, OSA", near))
        few = asked[: max(10, 20_000 // size)]
        close = measured(lambda name, names=names: difflib.get_close_matches(name, names), few)  # type: ignore[misc]
        print(row(f"difflib, {len(few)} questions", close))
    return int(worst >= BAR_US)


def _near(name: str, names: Sequence[str]) -> object:
    return process.extract(name, names, scorer=OSA.normalized_similarity, score_cutoff=0.8, limit=3)


if __name__ == "__main__":
    sys.exit(main())
