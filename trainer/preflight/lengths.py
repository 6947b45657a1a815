"""How long the rows are in the model's own tokens, against `max_length` and what the model reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from enforcer.profiles import Profile
from trainer.inputs import folders, lengths
from trainer.inputs.lengths import Lengths
from trainer.inputs.places import Places
from trainer.job import Row
from trainer.preflight import reading
from trainer.preflight.found import Found


def look(
    profile: Profile,
    arguments: Mapping[str, Any],
    train: Sequence[Row],
    held_out: Sequence[Row],
    model: Path,
    places: Places,
) -> Found:
    """Lengths; for language models also what is learned, and one row as the model reads it.

    Raises:
        ArgumentInvalid: more tokens than the model reads.
        DatasetInvalid: rows that are too long, of which nothing is learned, or that the chat template refuses.
        ModelInvalid: conversations, and no chat template that can be read.
    """
    limit = arguments.get("max_length")
    if limit is None:
        return Found()
    rows = [*train, *held_out]
    try:
        if not _is_language(profile):
            return _judge(_plain(profile, rows, model), rows, limit, arguments, model, places)
        reader = reading.reader(model)
    except lengths.NoTokenizer as why:
        return _unknown(str(why))
    if isinstance(reader, str):
        return _unknown(reader)
    counts = reading.count(profile, rows, reader, places, limit)
    longest = reading.of_all(counts)
    found = _judge([longest[id(row)] for row in rows], rows, limit, arguments, model, places)
    if reading.carries_loss(train[0]):
        found.add(reading.look(counts, places, limit, cut=bool(arguments.get("truncation"))))
        if profile.loss_mask is not None:
            found.findings += reading.endless(profile, train[0], reader, places)
    found.facts["row"] = reading.shown(profile, train[0], reader, places)
    return found


def _is_language(profile: Profile) -> bool:
    """Whether rows are read as talk: by everything that carries loss on tokens, and by a model that scores answers."""
    return profile.loss_mask is not None or "chosen" in profile.columns


def _plain(profile: Profile, rows: Sequence[Row], model: Path) -> list[int]:
    texts = [name for name, column in profile.columns.items() if column.type == "text" and name in rows[0]]
    return lengths.measure(rows, texts, model, together=profile.recipe == "reranker")


def _unknown(why: str) -> Found:
    return Found([f"text lengths were not checked before the start: {why}"], {"lengths": None})


def _judge(
    counts: Sequence[int], rows: Sequence[Row], limit: int, arguments: Mapping[str, Any], model: Path, places: Places
) -> Found:
    measured = Lengths(sorted(counts))
    over, whole = measured.over(limit), measured.keeping()
    facts: dict[str, Any] = {
        "lengths": measured.histogram(), "longest": measured.longest, "over_max_length": over,
        "keeps_99_percent": whole,
    }  # fmt: skip
    positions = folders.max_positions(model)
    if positions is not None and limit > positions < measured.longest:
        raise ArgumentInvalid(
            f"`max_length`: {limit} is more than the {positions} tokens that this model reads, and the longest text "
            f"has {measured.longest}; set `max_length: {positions}` with `truncation: true`, or take a model that "
            "reads more",
            pointer="/max_length",
        )
    if not over:
        return Found(facts=facts)
    of_all = f"{over:,} of {len(counts):,} rows ({over / len(counts):.1%})"
    share = f"{of_all} are longer than `max_length` {limit}"
    keeps = f"the longest has {measured.longest} tokens, and {whole} is the smallest `max_length` that keeps 99 % whole"
    if not arguments.get("truncation"):
        which = places.some(row for row, count in zip(rows, counts, strict=True) if count > limit)
        raise DatasetInvalid(
            f"{share} ({which}); {keeps}. Raise it, shorten them, or allow `truncation: true`", **facts
        )
    return Found([f"{share} and will be cut; {keeps}"], facts)
