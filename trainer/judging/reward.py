"""A reward model as the judge: the answer with the greater reward wins, and which one is shown first plays no part.

The model is that of a `reward-modeling` run. Importing this module imports no torch.
"""

# ruff: noqa: N806 -- names end in their shape: B answers, T tokens

from collections.abc import Sequence
from math import isnan
from typing import Any

from trainer.judging.answers import BATCH, Speaker
from trainer.judging.verdicts import Comparison, Judged, Verdict


class RewardModel:
    """One judge. `name` is how it is recorded, `digest` that of its folder."""

    def __init__(self, speaker: Speaker, name: str, digest: str) -> None:
        self._speaker, self._name, self._digest = speaker, name, digest

    def describe(self) -> dict[str, Any]:
        return {"kind": "reward-model", "model": self._name, "digest": self._digest}

    def compare(self, comparisons: Sequence[Comparison]) -> list[Judged]:
        rewards = self._rewards([(c, answer) for c in comparisons for answer in (c.model, c.reference)])
        pairs = zip(comparisons, rewards[::2], rewards[1::2], strict=True)
        return [Judged(c, verdict, verdict) for c, ours, theirs in pairs for verdict in [_verdict(ours, theirs)]]

    def _rewards(self, asked: Sequence[tuple[Comparison, str]]) -> list[float]:
        import torch

        from trainer.inputs.chat import Reader
        from trainer.recipes import _language, reward_modeling

        if not asked:
            return []
        reader = Reader(self._speaker.folder)
        model, tokenizer = reward_modeling.load(self._speaker.folder, self._speaker.base)
        ids = [_read(reader, comparison, answer) for comparison, answer in asked]
        rewards: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(ids), BATCH):
                ids_BT, attention_BT = _language.padded(
                    ids[start : start + BATCH], tokenizer.pad_token_id, model.device
                )
                rewards += model(input_ids=ids_BT, attention_mask=attention_BT).logits.squeeze(-1).tolist()
        return rewards


def _read(reader: Any, comparison: Comparison, answer: str) -> Sequence[int]:
    """As the reward model learned to read answers: behind their prompt."""
    turns = comparison.prompt
    if len(turns) == 1 and turns[0]["role"] == "user":
        return list(reader.answer(turns[0]["content"], answer).ids)
    return list(reader.conversation([*turns, {"role": "assistant", "content": answer}]).ids)


def _verdict(ours: float, theirs: float) -> Verdict:
    said = f"{ours:.6g} against {theirs:.6g}"
    if isnan(ours) or isnan(theirs):
        return Verdict(None, said)
    return Verdict("tie" if ours == theirs else "model" if ours > theirs else "reference", said)
