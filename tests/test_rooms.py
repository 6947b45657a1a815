"""The house: each room stands alone, and the light parts stay light.

import-linter reads the source; these tests really import, in a fresh interpreter with the others' packages blocked.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
TRAINING = ["torch", "transformers", "peft", "sentence_transformers", "faiss", "datasets", "numpy"]
WEB = ["fastapi", "starlette", "sqlmodel", "sqlalchemy", "alembic", "uvicorn", "pydantic_settings"]
GATE = ["casbin", "enforcer.policy"]
CLIENT = ["click", "rich", "httpx2"]

ROOMS = {
    "enforcer": (["names", "profiles", "gates", "wire", "problems", "runspec", "tickets", "proofs", "records",
                  "revoked", "keys", "tlog", "tiles", "notes", "dsse", "manifest", "chain", "access_tokens",
                  "exports", "ndjson"],
                 [*TRAINING, *WEB, *CLIENT, "casbin", "registry", "trainer"]),
    "enforcer.policy": (["rules", "conditions", "snapshot", "reference", "identity"],
                        [*TRAINING, *WEB, *CLIENT, "registry", "trainer"]),
    "registry": (["app", "server", "cli"], [*TRAINING, "trainer"]),
    "trainer": (["swift", "client", "auth", "arguments", "preflight", "layout", "job", "card", "launch.local",
                 "launch.worker"],
                [*TRAINING, *WEB, *GATE, "registry"]),
}  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_with_the_others_packages_blocked(room: str) -> None:
    modules, blocked = ROOMS[room]
    program = "\n".join(
        [
            "import sys",
            f"sys.modules.update(dict.fromkeys({blocked!r}))",
            *(f"import {room}.{name}" for name in modules),
        ]
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr


def test_the_contracts_between_rooms_are_kept() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_two_files_know_casbin() -> None:
    """Its language and its reference. Whatever else needs the gate asks the snapshot."""
    importing = re.compile(r"^\s*(import|from) casbin\b", re.MULTILINE)
    rooms = [file for room in ("enforcer", "registry", "trainer") for file in (HERE / room).rglob("*.py")]

    assert {file.relative_to(HERE).as_posix() for file in rooms if importing.search(file.read_text())} == {
        "enforcer/policy/model.py",
        "enforcer/policy/reference.py",
    }
