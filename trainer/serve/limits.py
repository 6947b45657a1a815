"""How much a model server takes at once, and in one request."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Batching:
    max_batch: int = 32  # inputs that the model reads at once
    max_wait_s: float = 0.005
    max_queue: int = 1024  # inputs that may wait


@dataclass(frozen=True)
class Limits:
    max_body_bytes: int = 1024 * 1024
    max_inputs: int = 256  # texts of one request
    max_new_tokens: int = 1024  # of one answer
    batching: Batching = field(default_factory=Batching)
