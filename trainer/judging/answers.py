"""What a trained model and its reference answer to the same prompts: greedy, so the same every time.

Importing this module imports no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enforcer.problems import DatasetInvalid
from trainer.inputs import folders
from trainer.judging.verdicts import Comparison, Message

MAX_NEW_TOKENS = 512
BATCH = 8


@dataclass(frozen=True)
class Speaker:
    """A model folder; of an adapter also the `base` that it stands on."""

    folder: Path
    base: Path | None = None

    @classmethod
    def of(cls, folder: Path, base: Path) -> "Speaker":
        """A model as training saved it."""
        return cls(folder, base if (folder / "adapter_config.json").exists() else None)


def compared(
    model: Speaker, reference: Speaker, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[Comparison]:
    """Both models' answers. One after the other is in memory.

    Raises:
        DatasetInvalid: a prompt leaves no room for an answer, or the chat template refuses it.
    """
    ours, theirs = (_answers(speaker, prompts, max_new_tokens) for speaker in (model, reference))
    return [Comparison(*three) for three in zip(prompts, ours, theirs, strict=True)]


def prompts_of(rows: Iterable[Mapping[str, Any]]) -> list[Sequence[Message]]:
    """The distinct prompts of rows, each as a conversation: `prompt` (a text or turns), or `messages` up to the last
    words of the assistant.

    Raises:
        DatasetInvalid: a row without either, or with turns that are none.
    """
    found: dict[str, Sequence[Message]] = {}
    for number, row in enumerate(rows, start=1):
        turns = _turns(row)
        if not turns:
            raise DatasetInvalid(
                f"row {number} has no prompt; give `prompt`, a text or turns, or `messages` with the user's words",
                row=number,
            )
        found.setdefault(repr(turns), turns)
    return list(found.values())


def _turns(row: Mapping[str, Any]) -> list[Message]:
    asked = row.get("prompt", row.get("messages"))
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}] if asked.strip() else []
    if not isinstance(asked, list) or not all(isinstance(turn, dict) and "role" in turn for turn in asked):
        return []
    while asked and asked[-1]["role"] == "assistant":
        asked = asked[:-1]
    return asked


def _answers(speaker: Speaker, prompts: Sequence[Sequence[Message]], max_new_tokens: int) -> list[str]:
    from trainer.inputs.chat import Reader
    from trainer.recipes import _language

    reader = Reader(speaker.folder)
    # An empty answer at the end: the reader gives what comes before the assistant's last words.
    ids = [reader.prompt({"messages": [*turns, {"role": "assistant", "content": ""}]}) for turns in prompts]
    room = (folders.max_positions(speaker.base or speaker.folder) or 1 << 30) - max_new_tokens
    if too_long := sum(len(of_one) > room for of_one in ids):
        raise DatasetInvalid(
            f"{too_long} of {len(ids)} prompts leave no room for {max_new_tokens} new tokens; shorten them, or ask for "
            "shorter answers (`--max-tokens`)"
        )
    model, tokenizer = _language.load(speaker.folder, speaker.base)
    return _language.answers(model, tokenizer, ids, max_new_tokens=max_new_tokens, batch=BATCH)
