"""Conversations continued: the run's own chat template, then transformers' `generate` on a batch.

One batch is generated to its end, so a request waits for the batch before it; an engine that admits requests between
two tokens is what `swift-submit deploy --render vllm` is for. Requests share a batch when they sample alike; one with a
`seed` has a batch of its own, or its answer would depend on its neighbours.
"""

import copy
import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from trainer.inputs import folders
from trainer.recipes import _language
from trainer.serve.accepted import Servable
from trainer.serve.engines._texts import device
from trainer.serve.problems import InputRefused
from trainer.serve.saying import Piece, Prompt, Words


class Chat:
    """`defaults` are the sampling settings of the model's own `generation_config.json`."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, defaults: dict[str, Any]) -> None:
        self._model, self._tokenizer = model.to(device()), tokenizer
        self._reader = copy.deepcopy(tokenizer)
        self._defaults = defaults
        self._ends = _language.ends(model, tokenizer)
        self.max_tokens: int = model.config.max_position_embeddings

    def read(self, messages: Sequence[dict[str, Any]], tools: Any) -> list[int]:
        """The prompt in tokens.

        Raises:
            InputRefused: the template refuses the conversation, or there is none.
        """
        if self._reader.chat_template is None:
            if len(messages) > 1 or tools:
                raise InputRefused(
                    "this model has no chat template: send one message, which it continues", param="messages"
                )
            return [*self._reader(messages[0]["content"])["input_ids"]]
        try:
            read = self._reader.apply_chat_template(
                list(messages), tools=tools, add_generation_prompt=True, tokenize=True, return_dict=True
            )
        except Exception as error:  # a template raises what it likes: undefined names, TypeErrors, its own refusals
            raise InputRefused(
                f"the model's chat template refuses this conversation: {error}", param="messages"
            ) from error
        return [*read["input_ids"]]

    def count(self, items: Sequence[Prompt]) -> list[int]:
        return [len(prompt.ids) for prompt in items]

    def key(self, item: Prompt) -> Hashable:
        return (item.temperature, item.top_p) if item.seed is None else id(item)

    @torch.inference_mode()
    def answer(self, items: Sequence[Prompt]) -> Sequence[None]:
        """What is said goes to each prompt's `tell`."""
        ids_BT, seen_BT = _language.padded(
            [prompt.ids for prompt in items], self._tokenizer.pad_token_id, self._model.device, left=True
        )
        if items[0].seed is not None:
            torch.manual_seed(items[0].seed)
        self._model.generate(
            input_ids=ids_BT, attention_mask=seen_BT, max_new_tokens=max(prompt.max_new_tokens for prompt in items),
            pad_token_id=self._tokenizer.pad_token_id, eos_token_id=self._ends, use_cache=True,
            stopping_criteria=[_Listener(items, self._decode, set(self._ends))], **self._sampling(items[0]),
        )  # fmt: skip
        return [None] * len(items)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _sampling(self, asked: Prompt) -> dict[str, Any]:
        """As vLLM reads the same: the request, else the model's own settings, else temperature 1 over all words."""
        temperature = self._defaults.get("temperature", 1.0) if asked.temperature is None else asked.temperature
        if temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        top_p = self._defaults.get("top_p", 1.0) if asked.top_p is None else asked.top_p
        return {
            "do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": self._defaults.get("top_k", 0)
        }  # fmt: skip


class _Listener(StoppingCriteria):  # type: ignore[misc]
    """Hears every token: tells its words, and says which rows are done."""

    def __init__(self, items: Sequence[Prompt], decode: Any, ends: set[int]) -> None:
        self._items, self._ends = items, ends
        self._words = [Words(decode, prompt.stops) for prompt in items]
        self._said = [0] * len(items)
        self._done = [False] * len(items)

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        for i, token in enumerate(input_ids[:, -1].tolist()):
            if not self._done[i]:
                self._hear(i, token)
        return torch.tensor(self._done, device=input_ids.device)

    def _hear(self, i: int, token: int) -> None:
        prompt, words = self._items[i], self._words[i]
        self._said[i] += 1
        text = "" if token in self._ends else words.add(token)
        ended = token in self._ends or words.stopped
        if not ended and self._said[i] < prompt.max_new_tokens and not prompt.gone.is_set():
            if text:
                prompt.tell(Piece(text))
            return
        self._done[i] = True
        prompt.tell(Piece(text + words.rest(), "stop" if ended else "length", self._said[i]))


def load(run: Servable, base: Path | None) -> Chat:
    model, tokenizer = _language.load(run.folder.model, base)
    settings = (run.folder.model if base is None else folders.weights_folder(base)) / "generation_config.json"
    return Chat(model, tokenizer, json.loads(settings.read_text("utf-8")) if settings.is_file() else {})
