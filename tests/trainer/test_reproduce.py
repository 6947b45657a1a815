"""A run is planned again from what it left, and whatever is not as it was is listed."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import LiveRegistry, free_port
from submitting import Desk

from enforcer.manifest import Environment
from registry.settings import Settings
from trainer import environment, reproduce
from trainer.layout import RunFolder


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Any:
    root = tmp_path_factory.mktemp("reproduce")
    live = LiveRegistry(Settings(state_dir=root / "state", port=free_port()))
    live.start()
    model = Path(shutil.copytree(encoder, root / "my-model"))
    desk = Desk(root, model, live.url, live.token("li", "retail-ds"))
    done = desk.cli("run", desk.config(max_steps=2))
    assert done.returncode == 11, done.stderr  # too short to pass its gate
    yield desk, live
    live.stop()


def planned(desk: Desk, *flags: str) -> tuple[int, dict[str, tuple[str, str]], Any]:
    done = desk.cli("--json", "reproduce", str(desk.run_dirs[0]), *flags)
    told = json.loads(done.stdout)
    return done.returncode, {d["what"]: (d["then"], d["now"]) for d in told["differences"]}, told


def test_nothing_differs_right_after_the_run_and_the_command_asks_for_the_same(desk: Any) -> None:
    who, _ = desk

    code, differences, told = planned(who)

    assert (code, differences, told["registry_asked"]) == (0, {}, True)
    words = shlex.split(told["command"])
    assert words[:2] == ["swift-submit", "run"]
    plan = who.cli("--json", "plan", *words[2:])
    assert plan.returncode == 0, plan.stderr
    spec = json.loads((who.run_dirs[0] / "run-spec.json").read_text())
    assert json.loads(plan.stdout)["plan"]["arguments"] == spec["arguments"]


def test_the_written_config_asks_for_the_same(desk: Any) -> None:
    who, _ = desk

    told = planned(who, "--write", "again.yaml")[2]
    second = who.cli("reproduce", str(who.run_dirs[0]), "--write", "again.yaml")
    plan = who.cli("--json", "plan", "again.yaml")

    assert told["command"] == "swift-submit run again.yaml"
    assert yaml.safe_load((who.root / "again.yaml").read_text("utf-8")) == told["config"]
    assert (plan.returncode, second.returncode) == (0, 6)
    spec = json.loads((who.run_dirs[0] / "run-spec.json").read_text())
    assert json.loads(plan.stdout)["plan"]["arguments"] == spec["arguments"]


def test_other_data_and_another_model_are_named_with_their_digests(desk: Any) -> None:
    who, _ = desk
    data, config = who.root / "train.jsonl", who.model / "config.json"
    kept = data.read_bytes(), config.read_bytes()
    try:
        data.write_bytes(kept[0] + b'{"text": "new", "label": "\xe7\xa7\x91\xe6\x8a\x80"}\n')
        config.write_bytes(kept[1] + b"\n")
        code, changed, _ = planned(who)
        data.unlink()
        missing = planned(who, "--offline")[1]
    finally:
        data.write_bytes(kept[0])
        config.write_bytes(kept[1])

    assert (code, set(changed)) == (1, {f"data train {data}", f"model {who.model}"})
    then, now = changed[f"data train {data}"]
    assert then.startswith("sha256:")
    assert now.startswith("sha256:")
    assert then != now
    assert missing[f"data train {data}"][1].startswith("missing: no such file")


def test_a_registry_that_is_away_is_said_and_is_no_difference(desk: Any) -> None:
    who, live = desk
    live.stop()
    try:
        away = who.cli("reproduce", str(who.run_dirs[0]))
    finally:
        live.start()

    assert away.returncode == 0, away.stderr
    assert "task type and policy were not compared" in away.stderr
    assert "nothing differs" in away.stdout


def test_what_the_policy_says_now_is_a_difference(desk: Any) -> None:
    who, live = desk
    stranger = Desk(who.root, who.model, who.server, live.token("chen", "nobodies", unit="search"))

    code, differences, _ = planned(stranger)

    assert (code, set(differences)) == (1, {"permission"})
    assert "may not submit `sequence-classification`" in differences["permission"][1]


def test_a_folder_whose_files_do_not_belong_together_is_no_run(desk: Any, tmp_path: Path) -> None:
    who, _ = desk
    copy = Path(shutil.copytree(who.run_dirs[0], tmp_path / "run"))
    (copy / "run-spec.json").write_text("{}")

    assert who.cli("reproduce", str(copy), "--offline").returncode == 8
    assert who.cli("reproduce", str(tmp_path), "--offline").returncode == 8


def test_code_packages_python_and_hardware_are_compared(desk: Any) -> None:
    """What a run stood on is compared by name; what is not named, by one digest over all that is installed."""
    who, _ = desk
    again = reproduce.read(RunFolder(who.run_dirs[0]))
    assert again.manifest is not None
    then = again.manifest.environment

    def differs(**changes: Any) -> dict[str, tuple[str, str]]:
        now = Environment(**{**environment.look(0).model_dump(), **changes})
        return {d.what: (d.then, d.now) for d in reproduce._environment(then, now)}

    packages = {name: version for name, version in then.packages.items() if name != "peft"} | {"torch": "9.9"}
    digest = "sha256:" + "0" * 64
    hardware = {**environment.look(0).hardware.model_dump(), "accelerators": ["H100"], "threads": "64"}
    assert differs() == {}
    assert differs(packages=packages)["package torch"] == (then.packages["torch"], "9.9")
    assert differs(packages=packages)["package peft"] == (then.packages["peft"], "not installed")
    assert "other packages" in differs(packages_digest=digest)
    assert differs(python="CPython 3.14.0")["python"] == (then.python, "CPython 3.14.0")
    assert differs(hardware=hardware)["hardware accelerators"] == ("none", "H100")
    assert differs(hardware=hardware)["hardware threads"][1] == "64"


def test_code_that_was_dirty_cannot_be_had_again(desk: Any) -> None:
    who, _ = desk
    spec = reproduce.read(RunFolder(who.run_dirs[0])).spec
    code = spec.inputs.code.model_copy(update={"commit": "a" * 40, "dirty": True})
    dirty = spec.model_copy(update={"inputs": spec.inputs.model_copy(update={"code": code})})

    found = {difference.what: difference.then for difference in reproduce._code(dirty)}

    assert found == {"code": "a" * 40, "code changes": "changes beyond the commit, recorded nowhere"}
