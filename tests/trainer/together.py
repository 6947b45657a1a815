"""What two processes do together, started by `torchrun`; the first one prints what came out as JSON.

gradients MODEL     one batch, read whole and shared: loss and gradients of both
train MODEL FOLDER ARGUMENTS     the recipe `sft`
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.functional import cross_entropy


def gradients(folder: str) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    from trainer.recipes import _ulysses

    distributed.init_process_group("gloo")
    size, place = distributed.get_world_size(), distributed.get_rank()
    torch.manual_seed(3)
    ids = torch.randint(3, 200, (3, 37))
    labels = torch.where(torch.rand(ids.shape) < 0.6, ids, -100)
    labels[0, 30:], ids[0, 30:] = -100, 0  # padding
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    count = (labels[:, 1:] != -100).sum()

    def loss_of(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits.transpose(1, 2), wanted, ignore_index=-100, reduction="sum") / count

    whole = loss_of(model(input_ids=ids).logits[:, :-1], labels[:, 1:])
    whole.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()

    _ulysses.join(size)
    model.set_attn_implementation(_ulysses.NAME)
    mine = _ulysses.share({"input_ids": ids, "labels": labels}, size, place, 0)
    part = loss_of(model(input_ids=mine["input_ids"], position_ids=mine["position_ids"]).logits, mine["shift_labels"])
    part.backward()
    total = part.detach().clone()
    distributed.all_reduce(total)
    worst = 0.0
    for name, weight in model.named_parameters():
        distributed.all_reduce(weight.grad)
        worst = max(worst, float((weight.grad - expected[name]).abs().max() / expected[name].abs().max()))
    return {"whole": float(whole), "shared": float(total), "worst": worst, "tensors": len(expected)}


def train(model: str, folder: str, arguments: str) -> dict[str, Any]:
    from tiny import losses, make_job

    from trainer.job import Helped
    from trainer.recipes import sft

    try:
        outcome = sft.train(make_job(Path(folder) / os.environ["RANK"], Path(model), json.loads(arguments)))
    except Helped:
        return {}
    scores = {name: score.value for name, score in outcome.scores.items()}
    return {"losses": losses(outcome), "scores": scores, "parallel": outcome.details.get("parallel")}


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    first = {"gradients": gradients, "train": train}[sys.argv[1]](*sys.argv[2:])
    if os.environ["RANK"] == "0":
        print("\n" + json.dumps(first), flush=True)
