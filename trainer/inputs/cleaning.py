"""What becomes of rows that nobody should train on or be judged by: told, dropped and counted, or the run is refused.

The profile says which (`enforcer.columns.CleaningRule`). No row goes silently: what is dropped is a finding, and above
the profile's `max_dropped_share` the run is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from enforcer.columns import CleaningRule
from enforcer.problems import DatasetInvalid
from enforcer.profiles import Profile
from trainer.inputs import columns
from trainer.job import Row


@dataclass(frozen=True)
class Cleaned:
    """`dropped` counts rows by the check that they failed; `findings` says it in words."""

    train: list[Row] = field(repr=False)
    eval: list[Row] = field(repr=False)
    dropped: dict[str, int]
    findings: list[str]


def clean(profile: Profile, train: Sequence[Row], held_out: Sequence[Row]) -> Cleaned:
    """Apply the profile's rules, in their order.

    Raises:
        DatasetInvalid: a rule refuses such rows, more of them would be dropped than the profile allows, or all
            that were held out.
    """
    kept, total = (list(train), list(held_out)), len(train) + len(held_out)
    dropped: dict[str, int] = {}
    findings = []
    for rule in profile.cleaning:
        left = _without(rule, profile, *kept)
        count = sum(map(len, kept)) - sum(map(len, left))
        if not count:
            continue
        said = f"{count:,} of {total:,} rows {_says(rule, profile, train)}"
        if rule.action == "refuse":
            raise DatasetInvalid(f"{said}; this task type takes none: correct or remove them", check=rule.check)
        if rule.action == "drop":
            dropped[rule.check] = dropped.get(rule.check, 0) + count
            kept = left
            findings.append(f"{said} and are left out")
        elif rule.check == "equal":  # preflight tells of duplicates and leaks whatever the rules say
            findings.append(said)
    _refuse_too_many(profile, sum(dropped.values()), total, findings)
    if held_out and not kept[1]:
        raise DatasetInvalid(
            f"cleaning would leave no row to evaluate on: {'; '.join(findings)}. Hold out rows of other texts",
            dropped=sum(dropped.values()),
        )
    return Cleaned(*kept, dropped, findings)


def _without(
    rule: CleaningRule, profile: Profile, train: list[Row], held_out: list[Row]
) -> tuple[list[Row], list[Row]]:
    match rule.check:
        case "duplicate":
            return list({columns.content(row): row for row in reversed(train)}.values())[::-1], held_out
        case "leaked":
            by = columns.subject(profile, train)
            known = {columns.about(row, by) for row in train}
            return train, [row for row in held_out if columns.about(row, by) not in known]
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


def _refuse_too_many(profile: Profile, count: int, total: int, findings: Sequence[str]) -> None:
    if count > profile.max_dropped_share * total:
        raise DatasetInvalid(
            f"cleaning would leave out {count:,} of {total:,} rows, and this task type allows "
            f"{profile.max_dropped_share:.0%}: {'; '.join(findings)}. Clean the data where it is made",
            dropped=count,
        )
