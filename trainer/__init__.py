"""The work: `from trainer import SwiftTrainer, TrainingArguments`. Both are loaded on first use (PEP 562)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.arguments import TrainingArguments
    from trainer.swift import SwiftTrainer

__all__ = ["SwiftTrainer", "TrainingArguments"]

_HOMES = {"SwiftTrainer": "trainer.swift", "TrainingArguments": "trainer.arguments"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `trainer` has no attribute `{name}`")
    return getattr(importlib.import_module(_HOMES[name]), name)
