"""What the process that trains holds of its machine, as numbers that travel with a heartbeat.

    resources/rss_bytes         memory resident now (Linux; other systems do not say it without a library)
    resources/gpu_bytes         memory that torch holds on the GPUs, once it uses any
    resources/cpu_share         processors kept busy since the last look: 1.0 is one of them; ended children count
    resources/disk_free_bytes   what is left on the disk of the run folder

Of several processes that train together, those are the numbers of the first. Never imports torch: it looks whether the
recipe has, and wakes no GPU that nobody uses.
"""

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

RSS, GPU, CPU, DISK = (f"resources/{name}" for name in ("rss_bytes", "gpu_bytes", "cpu_share", "disk_free_bytes"))


class Resources:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = _cpu_s(), time.monotonic()

    def now(self) -> dict[str, float]:
        """What can be had; a number that cannot is left out."""
        found: dict[str, float] = {CPU: self._cpu_share()}
        with contextlib.suppress(OSError):  # proc_pid_statm(5): the second is resident, in pages
            found[RSS] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        with contextlib.suppress(OSError):
            found[DISK] = shutil.disk_usage(self._folder).free
        torch = sys.modules.get("torch")
        with contextlib.suppress(AttributeError, RuntimeError):  # half imported; a device that failed
            if torch is not None and torch.cuda.is_initialized():
                found[GPU] = sum(torch.cuda.memory_reserved(one) for one in range(torch.cuda.device_count()))
        return found

    def _cpu_share(self) -> float:
        (cpu_s, at), self._before = self._before, (_cpu_s(), time.monotonic())
        return (self._before[0] - cpu_s) / max(self._before[1] - at, 1e-3)


def _cpu_s() -> float:
    return sum(os.times()[:4])
