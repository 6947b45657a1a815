"""Rows as the model will read them: rendered by its own chat template, counted in its own tokens, and how many of those
are learned. Nothing is sampled: what does not fit, and what teaches nothing, is found row by row.

`inputs.chat.Reader` says what a row's tokens are; here they are only counted, many rows at once, and without a list of
them for each row. A test holds the counts against the reader's own. A second or two for 10,000 rows, where importing
torch takes five.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enforcer.problems import DatasetInvalid, NotConfigured
from enforcer.profiles import Profile
from trainer.inputs.chat import Reader, Span
from trainer.inputs.places import Places
from trainer.job import Row
from trainer.preflight.found import Found

BATCH = 2_048
SHOWN_TOKENS = 400
TO_THE_END = 1 << 62
ANSWERS = ("completion", "chosen", "rejected")


@dataclass(frozen=True)
class Text:
    """One sequence that the model reads, and the places in it that are learned."""

    row: Row
    text: str
    learned: Sequence[Span]
    special: bool  # whether the tokenizer adds its special tokens; a template brings its own


@dataclass(frozen=True)
class Count:
    """Tokens of one sequence, and those that carry loss: of all, and within `max_length`."""

    row: Row
    tokens: int
    learned: int
    kept: int


def count(profile: Profile, rows: Sequence[Row], reader: Reader, places: Places, limit: int) -> list[Count]:
    """Count every sequence of every row. A pair of answers makes two sequences.

    Raises:
        DatasetInvalid: the template refuses a row; names it, and the place in it.
        ModelInvalid: the model has no template, or it hides where the assistant speaks.
    """
    counts: list[Count] = []
    for start in range(0, len(rows), BATCH):
        texts = [text for row in rows[start : start + BATCH] for text in _texts(profile, row, reader, places)]
        for special in (False, True):
            part = [text for text in texts if text.special is special]
            encoded = reader.tokenizer.encode_batch([text.text for text in part], add_special_tokens=special)
            counts += [_count(text, encoding, limit) for text, encoding in zip(part, encoded, strict=True)]
    return counts


def look(counts: Sequence[Count], places: Places, limit: int, *, cut: bool) -> Found:
    """How much of all tokens is learned.

    Raises:
        DatasetInvalid: rows of which nothing is learned, or nothing within `max_length`.
    """
    barren = [one for one in counts if not one.learned]
    if barren:
        raise _barren(barren, places, "no token of it is learned; give it an answer of the assistant, or leave it out")
    if cut and (lost := [one for one in counts if not one.kept]):
        why = f"nothing to learn is left of it within `max_length` {limit}; raise that, or shorten what comes before"
        raise _barren(lost, places, why)
    tokens, learned = sum(one.tokens for one in counts), sum(one.learned for one in counts)
    return Found(facts={"tokens": tokens, "trained_tokens": learned, "trained_share": round(learned / tokens, 4)})


def shown(profile: Profile, row: Row, reader: Reader, places: Places) -> dict[str, Any]:
    """One row decoded from its tokens, in parts that are learned and parts that are not."""
    text = next(_texts(profile, row, reader, places))
    encoding = reader.tokenizer.encode(text.text, add_special_tokens=text.special)
    parts: list[tuple[bool, list[int]]] = []
    for token, (start, end) in list(zip(encoding.ids, encoding.offsets, strict=True))[:SHOWN_TOKENS]:
        learns = start < end and any(first <= start < last for first, last in text.learned)
        if not parts or parts[-1][0] is not learns:
            parts.append((learns, []))
        parts[-1][1].append(token)
    decoded = [
        {"trained": learns, "text": reader.tokenizer.decode(ids, skip_special_tokens=False)} for learns, ids in parts
    ]
    return {"where": places.where(row), "parts": decoded, "cut": len(encoding.ids) > SHOWN_TOKENS}


def endless(profile: Profile, row: Row, reader: Reader, places: Places) -> list[str]:
    """That what is learned does not end in a token at which generation stops."""
    text = next(_texts(profile, row, reader, places))
    first, last = text.learned[-1]
    if text.text[first:last].rstrip().endswith(tuple(reader.ends)):
        return []
    which = f"any of its end tokens ({', '.join(f'`{end}`' for end in sorted(reader.ends))})"
    where = "the chat template writes it (inside of `{% generation %}`, where it has that)"
    return [
        f"what this model learns to say does not end in {which if reader.ends else 'an end token: it names none'}, so "
        f"it never learns to stop; see that {where} and that `eos_token` or `generation_config.json` names it"
    ]


def carries_loss(row: Row) -> bool:
    """Whether a row says what is learned; where answers are sampled, it only asks."""
    return any(name in row for name in (*ANSWERS, "messages", "text"))


def reader(model: Path) -> Reader | str:
    """The model's reader, or why there is none here: its packages, or a fast tokenizer."""
    from trainer.inputs.folders import weights_folder

    if not (weights_folder(model) / "tokenizer.json").is_file():
        return "the model folder has no `tokenizer.json`"
    try:
        return Reader(model)
    except NotConfigured as missing:
        return missing.detail


def _texts(profile: Profile, row: Row, reader: Reader, places: Places) -> Iterator[Text]:
    try:
        yield from _of_row(profile, row, reader)
    except DatasetInvalid as refusal:
        pointer = "/messages" if "messages" in row else ""
        raise places.fault(row, pointer, refusal.detail) from refusal


def _of_row(profile: Profile, row: Row, reader: Reader) -> Iterator[Text]:
    if "messages" in row:
        text, learned = reader.spans(row["messages"], row.get("tools"))
        yield Text(row, text, _all(profile) or learned, special=False)
    elif answers := [row[name] for name in ANSWERS if name in row]:
        for answer in answers:
            yield _answered(row, row.get("prompt"), answer, reader, _all(profile))
    elif "text" in row:
        yield Text(row, _ended(row["text"], reader), [(0, TO_THE_END)], special=True)
    else:  # a prompt whose answer is sampled: all that is known of its length, and nothing of it carries loss by itself
        asked = [{"role": "user", "content": row["prompt"]}]
        if reader.template is None:
            yield Text(row, row["prompt"], [(0, TO_THE_END)], special=True)
        else:
            yield Text(row, reader.render(asked, add_generation_prompt=True), [(0, TO_THE_END)], special=False)


def _answered(row: Row, prompt: str | None, answer: str, reader: Reader, all_of_it: list[Span]) -> Text:
    if reader.template is None:
        before = prompt or ""
        return Text(row, _ended(before + answer, reader), all_of_it or [(len(before), TO_THE_END)], special=True)
    asked = [] if prompt is None else [{"role": "user", "content": prompt}]
    text, learned = reader.spans([*asked, {"role": "assistant", "content": answer}])
    return Text(row, text, all_of_it or learned, special=False)


def _all(profile: Profile) -> list[Span]:
    return [(0, TO_THE_END)] if profile.loss_mask == "all" else []


def _ended(text: str, reader: Reader) -> str:
    end = reader.special.get("eos_token", "")
    return text if text.endswith(end) else text + end


def _count(text: Text, encoding: Any, limit: int) -> Count:
    tokens = len(encoding.ids)
    bounds = [_tokens_between(encoding, first, last, len(text.text), tokens) for first, last in text.learned]
    learned = sum(max(0, end - start) for start, end in bounds)
    kept = sum(max(0, min(end, limit) - start) for start, end in bounds)
    return Count(text.row, tokens, learned, kept)


def _tokens_between(encoding: Any, first: int, last: int, length: int, tokens: int) -> tuple[int, int]:
    """The tokens that begin within these characters: from, and up to. Only both ends are asked for: a list of all
    offsets costs half of what the tokens did."""
    return _first_from(encoding, first, length, tokens), _first_from(encoding, last, length, tokens)


def _first_from(encoding: Any, at: int, length: int, tokens: int) -> int:
    """The first token that begins at or after a character. Special tokens that are added have no characters."""
    while at < length:  # characters that belong to no token, as spaces that a tokenizer drops
        token = encoding.char_to_token(at)
        if token is not None:
            start, _ = encoding.token_to_chars(token)
            while start < at:  # it began before; a character of several bytes may be several tokens
                token += 1
                if token >= tokens or (chars := encoding.token_to_chars(token)) is None:
                    return int(token)
                start, _ = chars
            return int(token)
        at += 1
    return _end(encoding, tokens)


def _end(encoding: Any, tokens: int) -> int:
    """Behind the last token that has characters."""
    while tokens and encoding.token_to_chars(tokens - 1) is None:
        tokens -= 1
    return tokens


def _barren(counts: Sequence[Count], places: Places, why: str) -> DatasetInvalid:
    rows = list({id(one.row): one.row for one in counts}.values())
    if len(rows) > 1:
        why = f"{why} ({len(rows):,} rows are like it: {places.some(rows)})"
    return places.fault(rows[0], "/messages" if "messages" in rows[0] else "", why, rows=len(rows))


def of_all(counts: Sequence[Count]) -> Mapping[int, int]:
    """The tokens of each row's longest sequence, by the row's identity."""
    longest: dict[int, int] = {}
    for one in counts:
        longest[id(one.row)] = max(one.tokens, longest.get(id(one.row), 0))
    return longest
