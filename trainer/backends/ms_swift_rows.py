"""Rows as ms-swift reads them, one JSON object a line.

Prompts come rendered by the model's own chat template, and its template `dummy` adds nothing to them: what ms-swift
renders by a template of its own is not always what the model is asked with later.

    pre-training             {"messages": [{"role": "assistant", "content": text}]}
    sft                      {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", ...}]}
    dpo                      the same, and "rejected_response"
    sequence-classification  {"messages": [{"role": "user", "content": text}], "label": id, [ids] or number}
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from enforcer.problems import DatasetInvalid
from trainer.inputs.chat import Reader
from trainer.job import Job, Row

Written = dict[str, Any]


def written(recipe: str, job: Job, reader: Reader) -> list[Written]:
    """The training rows.

    Raises:
        DatasetInvalid: a row is too long and `truncation` is off, or ms-swift would learn something else from it.
    """
    _refuse_overlong(job, [length for row in job.train_rows for length in _lengths(row, job, reader)])
    return [WRITERS[recipe](row, job, reader) for row in job.train_rows]


def _text(row: Row, _job: Job, _reader: Reader) -> Written:
    return {"messages": [{"role": "assistant", "content": row["text"]}]}


def _answer(row: Row, _job: Job, reader: Reader) -> Written:
    asked, answer = _parts(row, reader)
    return _asked(asked, answer)


def _pair(row: Row, _job: Job, reader: Reader) -> Written:
    asked, chosen = _parts({"prompt": row["prompt"], "completion": row["chosen"]}, reader)
    _, rejected = _parts({"prompt": row["prompt"], "completion": row["rejected"]}, reader)
    return {**_asked(asked, chosen), "rejected_response": rejected}


def _labelled(row: Row, job: Job, _reader: Reader) -> Written:
    number = {name: i for i, name in enumerate(job.arguments["label_names"])}
    label: Any
    match job.arguments["problem_type"]:
        case "single-label":
            label = number[row["label"]]
        case "multi-label":
            label = sorted(number[name] for name in row["labels"])
        case _:
            label = float(row["score"])
    return {"messages": [{"role": "user", "content": row["text"]}], "label": label}


WRITERS: Mapping[str, Callable[[Row, Job, Reader], Written]] = {
    "pre-training": _text,
    "sft": _answer,
    "dpo": _pair,
    "sequence-classification": _labelled,
}


def _asked(prompt: str, answer: str) -> Written:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def _parts(row: Row, reader: Reader) -> tuple[str, str]:
    """What stands before the answer, and the answer up to the end token, which ms-swift puts behind it itself."""
    end = reader.special.get("eos_token", "")
    if "messages" not in row and reader.template is None:
        return row["prompt"], row["completion"].removesuffix(end)
    messages = row.get("messages") or [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["completion"]},
    ]
    text, spans = reader.spans(messages, row.get("tools"))
    if len(spans) != 1:
        raise DatasetInvalid(
            f"a conversation has {len(spans)} turns of the assistant, and rendered rows of ms-swift have one answer; "
            "split it, or train with `backend: hugging-face`"
        )
    ((start, stop),) = spans
    answer, _, behind = text[start:stop].rpartition(end) if end else (text[start:stop], "", "")
    return _without_bos(text[:start], reader), text[start:stop] if behind.strip() or not answer else answer


def _without_bos(text: str, reader: Reader) -> str:
    """The template may write the token that ms-swift puts in front, as the tokenizer does."""
    bos = reader.special.get("bos_token", "")
    first = reader.tokenizer.encode("a").ids[:1]
    return text.removeprefix(bos) if bos and first == [reader.tokenizer.token_to_id(bos)] else text


def _lengths(row: Row, job: Job, reader: Reader) -> list[int]:
    if "chosen" in row:
        return [len(reader.answer(row["prompt"], row[which]).ids) for which in ("chosen", "rejected")]
    if "label_names" in job.arguments:
        return [len(reader.tokenizer.encode(row["text"]).ids)]
    return [len(reader.row(row, job.loss_mask or "assistant").ids)]


def _refuse_overlong(job: Job, lengths: Sequence[int]) -> None:
    limit = job.arguments["max_length"]
    longer = sum(length > limit for length in lengths)
    if longer and not job.arguments["truncation"]:
        raise DatasetInvalid(
            f"{longer} texts are longer than `max_length` {limit} ({max(lengths)} tokens) and `truncation` is off; "
            "raise `max_length`, shorten the rows, or allow `truncation`"
        )
