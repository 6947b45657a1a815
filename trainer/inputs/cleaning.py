"""What becomes of rows that nobody should train on or be judged by: told, dropped and counted, or the run is refused.

The profile says which (`enforcer.columns.CleaningRule`). No row goes silently: what is dropped, and what a dataset's
file held that no row came of, is counted and named. Above the profile's `max_dropped_share` the run is refused, unless
whoever asks for it said `allow_row_loss`, which the ticket then binds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from enforcer.columns import CleaningRule
from enforcer.problems import DatasetInvalid
from enforcer.profiles import Profile
from trainer.inputs import columns, label_studio
from trainer.inputs.places import Places
from trainer.job import Row


@dataclass(frozen=True)
class Cleaned:
    """`dropped` counts rows by the check that they failed; `findings` says it in words; `places` knows their lines."""

    train: list[Row] = field(repr=False)
    eval: list[Row] = field(repr=False)
    dropped: dict[str, int]
    findings: list[str]
    places: Places = field(default_factory=Places, repr=False)

    def counts(self) -> dict[str, Any]:
        """What the run record says of the rows."""
        return {"train_rows": len(self.train), "eval_rows": len(self.eval), "dropped": self.dropped}


def clean(
    profile: Profile,
    train: Sequence[Row],
    held_out: Sequence[Row],
    *,
    left_out: Mapping[str, int] | None = None,
    allowed: float | None = None,
) -> Cleaned:
    """Apply the profile's rules, in their order. `left_out` counts what was lost before; `allowed` is the share of rows
    that may be lost where the profile allows less.

    Raises:
        DatasetInvalid: a rule refuses such rows, more of them would be dropped than the profile allows, or all
            that were held out.
    """
    kept, dropped = (list(train), list(held_out)), Counter(left_out or {})
    total = len(train) + len(held_out) + dropped.total()
    findings = [f"{count:,} of {total:,} rows {label_studio.LEFT_OUT[why]}" for why, count in dropped.items()]
    for rule in profile.cleaning:
        left = _without(rule, profile, *kept)
        count = sum(map(len, kept)) - sum(map(len, left))
        if not count:
            continue
        said = f"{count:,} of {total:,} rows {_says(rule, profile, train)}"
        if rule.action == "refuse":
            raise DatasetInvalid(f"{said}; this task type takes none: correct or remove them", check=rule.check)
        if rule.action == "drop":
            dropped[rule.check] += count
            kept = left
            findings.append(f"{said} and are left out")
        elif rule.check == "equal":  # preflight tells of duplicates and leaks whatever the rules say
            findings.append(said)
    if train and not kept[0]:
        raise DatasetInvalid(f"cleaning would leave no row to train on: {'; '.join(findings)}", dropped=dropped.total())
    if held_out and not kept[1]:
        raise DatasetInvalid(
            f"cleaning would leave no row to evaluate on: {'; '.join(findings)}. Hold out rows of other texts",
            dropped=dropped.total(),
        )
    _refuse_too_many(
        profile,
        {
            "rows": (dropped.total(), total),
            "training rows": (len(train) - len(kept[0]), len(train)),
            "held-out rows": (len(held_out) - len(kept[1]), len(held_out)),
        },
        findings,
        allowed,
    )
    return Cleaned(*kept, dict(dropped), findings)


def _without(
    rule: CleaningRule, profile: Profile, train: list[Row], held_out: list[Row]
) -> tuple[list[Row], list[Row]]:
    match rule.check:
        case "duplicate":
            return list({columns.content(row): row for row in reversed(train)}.values())[::-1], held_out
        case "leaked":
            by = columns.subject(profile, train) if train else ""  # then nothing is known
            known = {columns.about(row, by) for row in train}
            return train, [row for row in held_out if not known or columns.about(row, by) not in known]
        case "equal":
            train, held_out = ([row for row in rows if not _equal(rule, row)] for rows in (train, held_out))
            return train, held_out


def _equal(rule: CleaningRule, row: Row) -> bool:
    """Spaces around a text make no difference between an answer that was chosen and one that was rejected."""
    said = [str(row[name]).strip() for name in rule.columns if name in row]
    return len(said) > 1 and len(set(said)) == 1


def _says(rule: CleaningRule, profile: Profile, train: Sequence[Row]) -> str:
    match rule.check:
        case "duplicate":
            return "say the same as another training row"
        case "leaked":
            return f"are held out and have a training row's `{columns.subject(profile, train)}`"
        case "equal":
            return f"have the same {' and '.join(f'`{name}`' for name in rule.columns)}"


def _refuse_too_many(
    profile: Profile, lost: Mapping[str, tuple[int, int]], findings: Sequence[str], allowed: float | None
) -> None:
    """Judge each kind of rows by itself (lost, of how many): many that stay of one do not make up for another."""
    share = max(profile.max_dropped_share, allowed or 0)
    which, (count, total) = max(lost.items(), key=lambda item: item[1][0] / max(1, item[1][1]))
    if count > share * total:
        raise DatasetInvalid(
            f"cleaning would leave out {count:,} of {total:,} {which} ({count / total:.1%}), and "
            f"{'this task type' if share == profile.max_dropped_share else '`allow_row_loss`'} allows {share:.0%}: "
            f"{'; '.join(findings)}. Clean the data where it is made, or say "
            f"`allow_row_loss: {_up(count / total)}`, which the ticket will hold",
            dropped=count,
            total=total,
        )


def _up(share: float) -> float:
    """The next whole percent."""
    return min(1.0, ceil(share * 100 - 1e-9) / 100)
