"""What preflight saw, in lines for people: lengths, what is learned, labels, memory, one row as the model reads it."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

Facts = Mapping[str, Any]
Line = tuple[str, str]
MAX_CHARACTERS = 1_500
LEARNED = ("⟦", "⟧")


def lines(facts: Facts) -> Iterator[Line]:
    yield "rows", _rows(facts)
    yield "lengths", _lengths(facts)
    yield from (("tokens", f"{most}: {count:,} rows") for most, count in (facts.get("lengths") or {}).items())
    if "trained_share" in facts:
        yield "learned", f"{facts['trained_share']:.1%} of {facts['tokens']:,} tokens"
    if "chosen_longer" in facts:
        yield "pairs", f"chosen is longer in {facts['chosen_longer']:.0%}, median ratio {facts['length_ratio']:.2f}"
    yield from (("labels", f"{name}: {count:,}") for name, count in facts.get("labels", {}).items())
    if facts.get("memory"):
        yield "memory", memory(facts["memory"])


def _rows(facts: Facts) -> str:
    dropped = facts.get("dropped") or {}
    left = f"; left out {', '.join(f'{count:,} {why}' for why, count in dropped.items())}" if dropped else ""
    return f"{facts['train_rows']:,} to train on, {facts['eval_rows']:,} held out{left}"


def _lengths(facts: Facts) -> str:
    if not facts.get("lengths"):
        return "not known"
    whole = facts["keeps_99_percent"]
    return f"longest {facts['longest']} tokens; {whole} is the smallest `max_length` that keeps 99 % whole"


def memory(facts: Facts) -> str:
    """The estimate, what the other way of training would take, and what there is."""
    said = f"about {_gigabytes(facts['estimate_bytes'])} (estimate)"
    if "lora_bytes" in facts:
        said += f"; all weights {_gigabytes(facts['full_bytes'])}, an adapter {_gigabytes(facts['lora_bytes'])}"
    if facts.get("room_bytes"):
        said += f"; {facts['where']} has {_gigabytes(facts['room_bytes'])}"
    return said


def row(facts: Facts) -> list[str]:
    """One row decoded from its tokens, what carries loss in brackets."""
    if not (shown := facts.get("row")):
        return []
    text = "".join(part["text"].join(LEARNED if part["trained"] else ("", "")) for part in shown["parts"])
    if len(text) > MAX_CHARACTERS or shown["cut"]:
        text = f"{text[:MAX_CHARACTERS]} …"
    head = f"{shown['where']} as the model reads it; what stands in {' '.join(LEARNED)} is learned:"
    return ["", head, *textwrap.indent(text, "  | ", lambda _: True).splitlines()]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
