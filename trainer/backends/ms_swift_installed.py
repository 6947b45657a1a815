"""The ms-swift that this machine has: its interpreter, its packages, the environment that it runs in.

It pins other releases of transformers, trl and peft than ours, so it is never imported here: it is started.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enforcer.problems import NotConfigured
from enforcer.runspec import digest
from trainer import environment
from trainer.settings import HERE

LOOK = (
    "import json, platform; from importlib.metadata import distributions; "
    "print(json.dumps({'python': platform.python_version(), "
    "'packages': {d.metadata['Name'].lower().replace('_', '-'): d.version for d in distributions()}}))"
)
# ms-swift reads hyper-parameters from the environment (INFONCE_TEMPERATURE, CELOSS_PARALLEL_SIZE, ...) and writes down
# none of them. So nothing that is not named here comes to it from outside.
PASSED = """PATH HOME LANG LC_ALL TMPDIR LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES CUDA_HOME NVIDIA_VISIBLE_DEVICES
    OMP_NUM_THREADS MKL_NUM_THREADS""".split()
OFFLINE = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "MODELSCOPE_OFFLINE": "1",
    "USE_HF": "1", "HF_HOME": "cache", "MODELSCOPE_CACHE": "cache", "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Installed:
    python: Path
    python_version: str
    packages: Mapping[str, str]

    @property
    def version(self) -> str:
        return self.packages["ms-swift"]

    def document(self) -> dict[str, object]:
        """What a run says of it: as the manifest does of our own interpreter."""
        lines = "".join(f"{name}=={self.packages[name]}\n" for name in sorted(self.packages))
        matter = [*environment.THAT_MATTER, "ms-swift", "trl"]
        return {
            "python": self.python_version,
            "packages": {name: self.packages[name] for name in matter if name in self.packages},
            "packages_digest": digest(lines.encode()),
        }


def find() -> Installed:
    """Raises `NotConfigured`: this machine names no interpreter, or none that has ms-swift."""
    named = os.environ.get(HERE["ms_swift"])
    if not named:
        raise NotConfigured(
            f"`backend: ms-swift` runs in an interpreter of its own, and this machine names none; set "
            f"`{HERE['ms_swift']}` to the python of an environment with `pip install ms-swift`",
            setting=HERE["ms_swift"],
        )
    try:
        said = subprocess.run(
            [named, "-P", "-c", LOOK], capture_output=True, timeout=60, check=True, text=True, env=variables({})
        )
        found = json.loads(said.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NotConfigured(
            f"`{HERE['ms_swift']}`: `{named}` does not answer as a Python of 3.11 or later does: {error}",
            setting=HERE["ms_swift"],
        ) from error
    if "ms-swift" not in found["packages"]:
        raise NotConfigured(
            f"`{HERE['ms_swift']}`: `{named}` has no ms-swift; `{named} -m pip install ms-swift`",
            setting=HERE["ms_swift"],
        )
    return Installed(Path(named), found["python"], found["packages"])


def variables(given: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of its process."""
    return {name: os.environ[name] for name in PASSED if name in os.environ} | OFFLINE | dict(given)
