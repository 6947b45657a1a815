"""How much of the texts the model's tokenizer has no tokens for: Chinese before a tokenizer of English words.

All such tokens are one to the model, so what they said is lost. Bytes and byte fallback leave none unknown.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from enforcer.profiles import Profile
from trainer.inputs import lengths, special_tokens
from trainer.job import Row
from trainer.preflight.found import Found

MUCH = 0.05
LOOKED_AT = 1_000  # rows, evenly over all of them


def look(profile: Profile, rows: Sequence[Row], model: Path) -> Found:
    try:
        tokenizer = lengths.tokenizer(model)
    except lengths.NoTokenizer:  # is told where lengths are counted
        return Found()
    unknown = special_tokens.unknown(model, tokenizer)
    if unknown is None:
        return Found()
    names = [name for name, column in profile.columns.items() if column.type in ("text", "texts", "messages")]
    some = rows[:: -(-len(rows) // LOOKED_AT)]
    texts = list({text for row in some for name in names for text in _texts(row.get(name))})
    counted = [(e.ids.count(unknown), len(e.ids)) for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    share = sum(lost for lost, _ in counted) / max(1, sum(tokens for _, tokens in counted))
    found = Found(facts={"unknown_share": round(share, 4)})
    if share > MUCH:
        found.findings.append(
            f"{share:.0%} of the tokens are unknown to this model's tokenizer, so it cannot tell them apart; take a "
            "model that was made for texts like these"
        )
    return found


def _texts(value: Any) -> Iterator[str]:
    for part in value if isinstance(value, list) else [value]:
        text = part.get("content") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text
