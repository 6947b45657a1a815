"""How much memory a run will want, reckoned before it starts. An estimate: the measured peak will stand beside it.

Bytes, all in float32, with P parameters, L of them learned, t tokens in a batch, n layers of width h, v words:

    weights       4 P                  a second time for a frozen reference, and for a teacher its own
    gradients     4 L                  made while activations go, so only the larger of both counts, unless batches are
                                       accumulated
    optimizer     8 L                  AdamW keeps two moments (Loshchilov and Hutter 2019, arXiv:1711.05101)
    activations   88 t h n             22 values a token and layer. 16 are those of Korthikanti et al. 2022
                                       (arXiv:2205.05198, eq. 2: 34 bytes at 2 each, without the two dropout masks and
                                       the attention matrix, which fused attention does not keep); the third matrix of
                                       today's MLPs and the norms' copies are the rest (21.3 measured on a Llama)
                  4 t h n + 88 t h     with gradient checkpointing: each layer's input, and one layer at a time
    adapter       5 t sum(d_in)        dropout keeps a copy and a mask of what goes into each adapted layer
    logits        12 t v               scores of all words, their log-softmax and its gradient; where TRL scores words
                                       in tiles, those of one tile: 14 copies by torch's operations, 2 by its kernel

Of a LoRA adapter of rank r, L = sum r (d_in + d_out) over all linear layers but the output head; their shapes are read
from the headers of the weights. Not reckoned: the libraries themselves, fragmentation, the batch of the evaluation.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.inputs import folders, safetensors
from trainer.inputs.safetensors import Tensor
from trainer.preflight.found import Found

FLOAT = 4
NOT_ADAPTED = ("embed", "wte", "wpe", "lm_head", "output_projection", "classifier", "score")
# The smallest memory that a card of this name is sold with, in GB (10^9), from NVIDIA's data sheets.
CARDS = {"t4": 16, "l4": 24, "a10": 24, "a30": 24, "v100": 16, "l40s": 48, "a100": 40, "h100": 80, "h200": 141}
# Of the sequences that one row becomes.
SEQUENCES = {"dpo": 2, "cpo": 2, "simpo": 2, "orpo": 2, "reward-modeling": 2, "embedding": 2}
REFERENCED = frozenset({"dpo", "kto"})
TILED = frozenset("pre-training sft text-to-sql agent-training dpo kto grpo".split())  # `trl.kernels`
WHOLE = frozenset("cpo simpo orpo gkd".split())
TILE_TOKENS, TILE_WORDS = 4_096, 32_768  # `TOKEN_CHUNK_SIZE`, `_CHUNKED_LOGPROB_CHUNK_SIZE` of TRL 1.16
VALUES = 22  # of a token in a layer


@dataclass(frozen=True)
class Shape:
    """What of a model decides how much memory it takes."""

    parameters: int
    linear: Sequence[tuple[int, int]]  # (out, in) of every layer that an adapter would be put on
    hidden: int
    layers: int
    vocabulary: int

    @classmethod
    def of(cls, folder: Path) -> "Shape | None":
        """None where the config does not say."""
        weights = folders.weights_folder(folder)
        config = folders.config(weights)
        config = {**config, **(config.get("text_config") or {})}
        sizes = [_first(config, names) for names in (("hidden_size", "d_model", "n_embd", "dim"),
                 ("num_hidden_layers", "n_layer", "n_layers", "num_layers"), ("vocab_size",))]  # fmt: skip
        if not all(sizes):
            return None
        tensors = list(safetensors.all_tensors(weights))
        return cls(sum(t.size for t in tensors), [_out_in(t) for t in tensors if _adapted(t)], *sizes)

    def adapter(self, rank: int) -> int:
        return sum(rank * (out + into) for out, into in self.linear)


def estimate(
    recipe: str, arguments: Mapping[str, Any], shape: Shape, tokens: int, *, teacher: Shape | None = None, gpus: int = 0
) -> dict[str, int]:
    """Bytes by what they are for. `tokens` are those of a row's longest sequence."""
    lora = bool(arguments.get("use_lora"))
    learned = shape.adapter(arguments["lora_rank"]) if lora else shape.parameters
    of_batch = arguments["per_device_train_batch_size"] * SEQUENCES.get(recipe, 1) * tokens
    held = shape.layers if not arguments.get("gradient_checkpointing") else 1
    inputs = FLOAT * of_batch * shape.hidden * shape.layers if held == 1 else 0
    copies = sum(into for _, into in shape.linear) * held // shape.layers
    return {
        "weights": FLOAT * (shape.parameters + (learned if lora else 0)),
        "reference": FLOAT * shape.parameters if recipe in REFERENCED and not lora else 0,
        "teacher": FLOAT * teacher.parameters if teacher else 0,
        "gradients": FLOAT * learned,
        "optimizer": 2 * FLOAT * learned,
        "activations": VALUES * FLOAT * of_batch * shape.hidden * held + inputs,
        "adapter": 5 * of_batch * copies if lora and arguments.get("lora_dropout") else 0,
        "logits": _logits(recipe, of_batch, shape.vocabulary, gpus),
    }


def _logits(recipe: str, tokens: int, words: int, gpus: int) -> int:
    if recipe in TILED:
        return (2 if gpus else 14) * FLOAT * min(tokens, TILE_TOKENS) * min(words, TILE_WORDS)
    return 3 * FLOAT * tokens * words if recipe in WHOLE else 0


def peak(parts: Mapping[str, int], arguments: Mapping[str, Any]) -> int:
    """The most that is held at once."""
    passing = parts["activations"] + parts["adapter"] + parts["logits"]
    lasting = sum(parts.values()) - passing - parts["gradients"]
    kept = arguments.get("gradient_accumulation_steps", 1) > 1
    return lasting + (parts["gradients"] + passing if kept else max(parts["gradients"], passing))


def look(
    recipe: str,
    arguments: Mapping[str, Any],
    model: Path,
    tokens: int,
    *,
    gpus: int,
    pool: str,
    teacher: Path | None = None,
) -> Found:
    """The estimate, what it would be the other way (adapter or all weights), and the memory that there is."""
    shape = Shape.of(model)
    if shape is None:
        return Found(facts={"memory": None})
    other = Shape.of(teacher) if teacher else None

    def reckon(**changes: Any) -> tuple[dict[str, int], int]:
        changed = {**arguments, **changes}
        parts = estimate(recipe, changed, shape, tokens, teacher=other, gpus=gpus)
        return {name: size for name, size in parts.items() if size}, peak(parts, changed)

    parts, wanted = reckon()
    facts = {"estimate_bytes": wanted, "parts": parts, "parameters": shape.parameters, "longest_tokens": tokens}
    if "use_lora" in arguments:
        facts |= {"full_bytes": reckon(use_lora=False)[1], "lora_bytes": reckon(use_lora=True)[1]}
    where, room = memory_there(gpus, pool)
    found = Found(facts={"memory": {**facts, "where": where, "room_bytes": room}})
    if room is not None and wanted > room:
        found.findings.append(
            f"the run may want about {gigabytes(wanted)} of memory, and {where} has {gigabytes(room)}: lower "
            f"`per_device_train_batch_size` or `max_length`{_remedies(arguments)}"
        )
    return found


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def memory_there(gpus: int, pool: str) -> tuple[str, int | None]:
    """Where the run will be, and how much memory is free there; None where nobody knows."""
    if not gpus:
        return "this machine", _free_here()
    try:
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        said = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout.split()
        return "a GPU here", min(map(int, said)) << 20
    except (OSError, subprocess.SubprocessError, ValueError):
        card = CARDS.get(pool.lower().split("-")[0])
        return f"a card of pool `{pool}`", None if card is None else card * 10**9


def _free_here() -> int | None:
    """What the kernel could give without swapping, within the limit of this control group."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        group = Path("/sys/fs/cgroup")
        return min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no limit is the word `max`
        return free


def _remedies(arguments: Mapping[str, Any]) -> str:
    more = [
        said
        for name, wanted, said in (
            ("use_lora", True, "train an adapter (`use_lora: true`)"),
            ("gradient_checkpointing", True, "turn on `gradient_checkpointing`"),
        )
        if name in arguments and arguments[name] is not wanted
    ]
    return "".join(f", or {said}" for said in more)


def _first(config: Mapping[str, Any], names: Sequence[str]) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)


def _adapted(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and not any(part in tensor.name for part in NOT_ADAPTED)


def _out_in(tensor: Tensor) -> tuple[int, int]:
    out, into = tensor.shape
    return out, into
