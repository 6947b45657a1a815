"""Rows that say the same: within the training rows, and on both sides of the split. As written, and as read.

As written is what cleaning rules act on; as read (`inputs.sameness`) is what a model could still learn by heart.
"""

from collections.abc import Sequence

from enforcer.profiles import Profile
from trainer.inputs import columns, sameness
from trainer.job import Row
from trainer.preflight.found import Found


def look(profile: Profile, train: Sequence[Row], held_out: Sequence[Row]) -> Found:
    found = Found()
    as_written = len(train) - len(set(map(columns.content, train)))
    as_read = len(train) - len(set(map(sameness.key, train)))
    if as_read:
        found.findings.append(
            f"{as_read:,} of {len(train):,} training rows say the same as another one{_how(as_written, as_read)}"
        )
    leaked, leaked_as_read = _leaks(profile, train, held_out)
    if leaked_as_read:
        found.findings.append(
            f"{leaked_as_read:,} of {len(held_out):,} evaluation rows have a training row's "
            f"`{columns.subject(profile, train)}`{_how(leaked, leaked_as_read)}: scores will flatter"
        )
    found.facts = {
        "duplicates": as_written,
        "duplicates_normalised": as_read,
        "leaked": leaked,
        "leaked_normalised": leaked_as_read,
    }
    return found


def _leaks(profile: Profile, train: Sequence[Row], held_out: Sequence[Row]) -> tuple[int, int]:
    if not held_out:
        return 0, 0
    by = columns.subject(profile, train)
    known = {columns.about(row, by) for row in train}
    known_as_read = {sameness.key(text) for text in known}
    asked = [columns.about(row, by) for row in held_out]
    return sum(text in known for text in asked), sum(sameness.key(text) in known_as_read for text in asked)


def _how(as_written: int, as_read: int) -> str:
    """Which of them differ in writing."""
    rest = as_read - as_written
    return f" ({rest:,} of them but for case, white space or width)" if rest else ""
