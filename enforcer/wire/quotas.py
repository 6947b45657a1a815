"""What a unit may take, and has taken."""

from datetime import datetime

from enforcer.wire.base import Answer


class QuotaUse(Answer):
    """One quota, and how much of it is taken: runs and GPUs at once, and in this window the GPU hours that ended runs
    used together with the most that open ones may take."""

    id: str
    unit: str
    tag: str
    reason: str
    concurrent: int | None
    runs: int
    max_gpus: int | None
    gpus: int
    window: str | None
    gpu_hours: float | None
    gpu_hours_taken: float
    resets_at: datetime | None


class QuotaList(Answer):
    items: list[QuotaUse]
