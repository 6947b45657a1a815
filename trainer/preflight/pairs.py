"""What is wrong with pairs that is not wrong with either text: an answer chosen for its length, a negative that is a
positive, a judgement that contradicts another.

The length of a pair is that of its answers in characters: which of two is longer hardly ever depends on the tokenizer.
Longer answers being chosen is what preference training then learns (Singhal et al. 2023, arXiv:2310.03716).
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from enforcer.profiles import Profile
from trainer.inputs import sameness
from trainer.job import Row
from trainer.preflight.found import Found, quoted, some

FEW_PAIRS = 30
BIASED = 0.7  # with 30 pairs and no bias, such a share comes by chance once in 70 times (binomial)


def look(profile: Profile, rows: Sequence[Row]) -> Found:
    found = Found()
    if {"chosen", "rejected"} <= profile.columns.keys():
        found.add(_answers(rows))
    if {"anchor", "positive", "negative"} <= profile.columns.keys() and any("negative" in row for row in rows):
        found.add(_false_negatives(rows))
    if judged := next(
        (name for name, c in profile.columns.items() if c.type in ("label", "labels", "flag", "score")), None
    ):
        found.add(_contradictions(rows, judged))
    return found


def _answers(rows: Sequence[Row]) -> Found:
    pairs = [(_text(row["chosen"]), _text(row["rejected"])) for row in rows]
    same = sum(sameness.normalised(chosen) == sameness.normalised(rejected) for chosen, rejected in pairs)
    longer = sum(len(chosen) > len(rejected) for chosen, rejected in pairs) / len(pairs)
    ratio = median(len(chosen) / max(1, len(rejected)) for chosen, rejected in pairs)
    found = Found(
        facts={"chosen_is_rejected": same, "chosen_longer": round(longer, 4), "length_ratio": round(ratio, 4)}
    )
    if same:
        found.findings.append(
            f"in {same:,} of {len(pairs):,} rows `chosen` says what `rejected` says: nothing to prefer"
        )
    if len(pairs) >= FEW_PAIRS and not 1 - BIASED < longer < BIASED:
        which, share = ("longer", longer) if longer >= BIASED else ("shorter or as long", 1 - longer)
        found.findings.append(
            f"the chosen answer is the {which} one in {share:.0%} of the pairs (median ratio {ratio:.2f}), so length "
            "alone may be learned; compare answers of like length"
        )
    return found


def _false_negatives(rows: Sequence[Row]) -> Found:
    """A `negative` that is a `positive` of the same anchor, in any row: it would be pushed away and drawn near."""
    belong: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        belong[sameness.key(row["anchor"])].add(sameness.key(row["positive"]))
    wrong = [
        f"{quoted(negative)} for {quoted(row['anchor'])}"
        for row in rows
        for negative in _texts(row.get("negative"))
        if sameness.key(negative) in belong[sameness.key(row["anchor"])]
    ]
    found = Found(facts={"false_negatives": len(wrong)})
    if wrong:
        found.findings.append(
            f"{len(wrong):,} negatives are a positive of the same anchor: {some(wrong, len(wrong))}; take them out"
        )
    return found


def _contradictions(rows: Sequence[Row], judged: str) -> Found:
    """The same words, judged differently."""
    verdicts: dict[str, set[str]] = defaultdict(set)
    first: dict[str, Row] = {}
    for row in rows:
        words = sameness.key({name: value for name, value in row.items() if name != judged})
        verdicts[words].add(str(row.get(judged)))
        first.setdefault(words, row)
    torn = [words for words, said in verdicts.items() if len(said) > 1]
    found = Found(facts={"contradictions": len(torn)})
    if torn:
        shown = (
            f"{quoted(_text(next(iter(first[words].values()))))} as {', '.join(sorted(verdicts[words]))}"
            for words in torn
        )
        found.findings.append(
            f"{len(torn):,} texts have more than one `{judged}`: {some(shown, len(torn))}; decide which it is"
        )
    return found


def _text(value: Any) -> str:
    """A text, or all that is said in a conversation."""
    if isinstance(value, list):
        return "\n".join(str(turn.get("content") or "") if isinstance(turn, dict) else str(turn) for turn in value)
    return str(value)


def _texts(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
