"""What a run stands on besides its inputs: packages, Python, the machine. Looked up without torch, so that a run and a
later plan to repeat it see the same."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distributions, version

from enforcer.manifest import Environment, Hardware
from enforcer.runspec import digest

# Those whose version may change what is trained, or what is said about it.
THAT_MATTER = """tagwarden torch transformers tokenizers safetensors accelerate peft datasets sentence-transformers
    scikit-learn faiss-cpu numpy""".split()


def look(gpus: int) -> Environment:
    """This environment; accelerators are looked at only when the run is given some."""
    packages = installed()
    lines = "".join(f"{name}=={packages[name]}\n" for name in sorted(packages))
    return Environment(
        packages={name: packages[name] for name in THAT_MATTER if name in packages},
        packages_digest=digest(lines.encode()),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        hardware=Hardware(
            cpu=_cpu(),
            cpus=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            threads=os.environ.get("OMP_NUM_THREADS"),
            accelerators=_accelerators() if gpus else [],
        ),
    )


def installed() -> dict[str, str]:
    """Every distribution that this interpreter can import: normalised name (PEP 503) -> version."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:  # the first on the path is the one that is imported
            found.setdefault(name.lower().replace("_", "-").replace(".", "-"), distribution.version)
    return found


def our_version() -> str:
    try:
        return version("tagwarden")
    except PackageNotFoundError:
        return "0"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _accelerators() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []
