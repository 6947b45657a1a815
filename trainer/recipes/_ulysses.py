"""Texts shared by P processes: each holds 1/P of the tokens of every row, and 1/P of the heads while it attends.

Around attention, all-to-all turns "all heads of my tokens" into "my heads of all tokens" and back (DeepSpeed-Ulysses,
Jacobs et al. 2023, arXiv:2309.14509, section 3.1). Everything else in a transformer works on each token by itself. The
loss is a sum over tokens, so with the labels of its own tokens each process has its part of it, and what
DistributedDataParallel does for batches it does for these parts: a test holds loss and gradients against one process.

Shapes: B rows, T tokens of a row, P processes, H heads, G heads of keys and values, E width of a head.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.data import DataLoader
from transformers import AttentionInterface, AttentionMaskInterface
from trl import SFTTrainer

from enforcer.problems import ModelInvalid

NAME = "ulysses"
OTHERWISE = ("sliding_window", "softcap", "s_aux", "position_bias")
Collator = Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]
_group: distributed.ProcessGroup | None = None


class SharingTrainer(SFTTrainer):  # type: ignore[misc]
    """An `SFTTrainer` whose rows are shared by `size` neighbouring processes. Other neighbourhoods take other rows."""

    data_collator: Collator

    def __init__(self, *, size: int, **given: Any) -> None:
        super().__init__(**given)
        self.size = size
        world, rank = distributed.get_world_size(), distributed.get_rank()
        join(size)
        self.neighbourhoods, self.neighbourhood, self.place = world // size, rank // size, rank % size
        self.data_collator = self._share(self.data_collator)

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = super().get_train_dataloader()
        shard: Any = loader.batch_sampler  # accelerate's, which deals the batches out: to neighbourhoods, here
        shard.num_processes, shard.process_index = self.neighbourhoods, self.neighbourhood
        return loader

    def _share(self, collate: Collator) -> Collator:
        return lambda rows: share(collate(rows), self.size, self.place, self.processing_class.pad_token_id)


def share(batch: Mapping[str, Tensor], size: int, place: int, filler: int) -> dict[str, Tensor]:
    """The tokens at `place` of a batch that is padded at the end, with the labels that follow them.

    No attention mask: a token sees those before it, and padding stands behind all of them.
    """
    ids_BT, labels_BT = batch["input_ids"], batch["labels"]
    length = ids_BT.shape[1]
    short = -length % size
    following_BT = pad(labels_BT[:, 1:], (0, 1 + short), value=-100)
    ids_BT = pad(ids_BT, (0, short), value=filler)
    positions_BT = torch.arange(length + short).expand_as(ids_BT)
    mine = slice(place * ids_BT.shape[1] // size, (place + 1) * ids_BT.shape[1] // size)
    return {
        "input_ids": ids_BT[:, mine],
        "shift_labels": following_BT[:, mine],
        "labels": following_BT[:, mine],
        "position_ids": positions_BT[:, mine],
    }


def join(size: int) -> None:
    """Make the groups of neighbours, and let models attend in them under the name `ulysses`."""
    global _group
    world, rank = distributed.get_world_size(), distributed.get_rank()
    groups = [distributed.new_group(range(start, start + size)) for start in range(0, world, size)]
    _group = groups[rank // size]
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)


def attention(
    module: nn.Module, query_BHTE: Tensor, key_BGTE: Tensor, value_BGTE: Tensor, _mask: Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Causal attention over the whole of a text of which this process holds a part; returns (B, T/P, H, E).

    Raises:
        ModelInvalid: the model attends otherwise, to the nearest tokens only, say.
    """
    if odd := [name for name in OTHERWISE if more.get(name) is not None]:
        raise ModelInvalid(f"this model attends with `{odd[0]}`, which is not shared; take `sequence_parallel_size: 1`")
    size = distributed.get_world_size(_group)
    if key_BGTE.shape[1] % size:  # fewer heads of keys than processes: each query head gets its own
        times = query_BHTE.shape[1] // key_BGTE.shape[1]
        key_BGTE, value_BGTE = (states.repeat_interleave(times, dim=1) for states in (key_BGTE, value_BGTE))
    query, key, value = (_exchange(states, 1, 2) for states in (query_BHTE, key_BGTE, value_BGTE))
    attended = scaled_dot_product_attention(
        query, key, value, is_causal=True, dropout_p=dropout if module.training else 0.0, scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return _exchange(attended, 2, 1).transpose(1, 2).contiguous(), None


def _exchange(states: Tensor, split: int, join: int) -> Tensor:
    exchanged: Tensor = _Exchange.apply(states, split, join)  # type: ignore[no-untyped-call]
    return exchanged


class _Exchange(torch.autograd.Function):
    """Split one axis among the group and join another from it. Its gradient goes the way back."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, split: int, join: int) -> Tensor:
        ctx.axes = (join, split)
        parts = [part.contiguous() for part in states.chunk(distributed.get_world_size(_group), dim=split)]
        got = [torch.empty_like(parts[0]) for _ in parts]
        distributed.all_to_all(got, parts, group=_group)
        return torch.cat(got, dim=join)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _exchange(gradient, *ctx.axes), None, None
