"""The policy that ships, with something changed: a folder of its own for a registry's `policies_dir`."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from registry.settings import CHECKED_OUT_POLICIES


def changed_policy(
    root: Path, *, offline: list[str] | None = None, rules: list[dict[str, Any]] | None = None, name: str = "policies"
) -> Path:
    """`offline` targets for the directory, and `rules` on top of those that ship."""
    folder = Path(shutil.copytree(CHECKED_OUT_POLICIES, root / name))
    if offline is not None:
        directory = yaml.safe_load((folder / "directory.yaml").read_text())
        (folder / "directory.yaml").write_text(as_yaml({**directory, "offline": offline}))
    if rules is not None:
        (folder / "rules" / "more.yaml").write_text(as_yaml({"owner": "platform-admins", "rules": rules}))
    return folder


def as_yaml(content: Any) -> str:
    """JSON is YAML, and has no anchors, which policy files may not have."""
    return json.dumps(content, indent=1, default=str)
