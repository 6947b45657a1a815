"""What every plain script reads and prints. Nothing of tagwarden is imported here."""

import json
import sys
import time
from pathlib import Path

from transformers import TrainerCallback

ASKED = json.loads(Path(sys.argv[1]).read_text())
ROWS = [json.loads(line) for line in Path(ASKED["dataset"]).read_text("utf-8").splitlines()]


def arguments(**more):
    """The trainer's arguments: those of the config, and the defaults of the task type's profile."""
    return {
        "output_dir": ASKED["output_dir"], "max_steps": ASKED["max_steps"], "seed": ASKED["seed"], "logging_steps": 1,
        "per_device_train_batch_size": ASKED["per_device_train_batch_size"], "save_strategy": "no", "report_to": "none",
        "bf16": False, "dataloader_pin_memory": False, **more,
    }  # fmt: skip


class Clock(TrainerCallback):
    def on_train_begin(self, *_, **__):
        Path("/proc/self/clear_refs").write_text("5")

    def on_log(self, _args, _state, _control, logs=None, **_):
        if logs and "loss" in logs:
            print("step", time.time(), logs["loss"], flush=True)

    def on_train_end(self, *_, **__):
        status = Path("/proc/self/status").read_text().splitlines()
        print("peak", next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), flush=True)
