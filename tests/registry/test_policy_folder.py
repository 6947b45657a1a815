"""The policy folder as the source: its changes go live, its mistakes do not, and what was superseded stays so."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import AUDIENCE, Registry, ask, free_port, ticket_request
from policy_folders import as_yaml, changed_policy
from revised import an_exception, publish, with_rule

from enforcer.policy.revision import said
from registry import policy_folder
from registry.settings import CHECKED_OUT_POLICIES, Settings

FREEZE = {
    "id": "retail-is-frozen",
    "effect": "deny",
    "who": ["group:trainers"],
    "may": ["submit"],
    "unit": ["retail"],
    "reason": "year's end",
}
SEARCH_FREEZE = {**FREEZE, "id": "search-is-frozen", "unit": ["search"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return changed_policy(tmp_path, rules=[SEARCH_FREEZE])


@pytest.fixture
def registry(tmp_path: Path, folder: Path) -> Registry:
    return Registry(Settings(state_dir=tmp_path / "state", policies_dir=folder))


def write(folder: Path, *rules: dict[str, Any]) -> None:
    (folder / "rules" / "more.yaml").write_text(as_yaml({"owner": "platform-admins", "rules": list(rules)}))


def revisions(registry: Registry) -> list[str]:
    return [event.policy_revision or "" for event in registry.events("policy.published")]


@pytest.fixture
def watcher(registry: Registry) -> policy_folder.Watcher:
    made = policy_folder.Watcher(registry.books.engine, registry.settings)
    made.look()
    return made


def look(watcher: policy_folder.Watcher) -> None:
    """Once to see the change, once more to see that it stands still."""
    watcher.look()
    watcher.look()


def test_a_change_of_the_folder_goes_live_when_it_stands_still(
    registry: Registry, folder: Path, watcher: policy_folder.Watcher
) -> None:
    write(folder, FREEZE)
    watcher.look()
    assert len(revisions(registry)) == 1, "it may be half written"
    watcher.look()
    watcher.look()

    first, second = registry.events("policy.published")
    assert ask(registry.as_("wang", "trainers"), ticket_request()).json()["rule"] == "retail-is-frozen"
    assert (second.actor, second.detail["source"], second.detail["parent"]) == (
        "system:policy", "folder", first.policy_revision
    )  # fmt: skip
    assert second.detail["author"] == "system:operator"


@pytest.mark.parametrize("content", ["rules: [", "owner: x\nrules: []\nrulez: 1", "owner: x\nrules: [{id: x}]"])
def test_a_folder_that_cannot_go_live_changes_nothing_and_is_on_record_once(
    registry: Registry, folder: Path, watcher: policy_folder.Watcher, content: str
) -> None:
    (folder / "rules" / "more.yaml").write_text(content)
    look(watcher)
    Registry(registry.settings)
    policy_folder.Watcher(registry.books.engine, registry.settings).look()

    (refused,) = registry.events("policy.refused")
    assert (refused.outcome, refused.actor) == ("refused", "system:policy")
    assert "rules/more.yaml" in (refused.reason or "")
    assert len(revisions(registry)) == 1
    assert ask(registry.as_("wang", "trainers"), ticket_request()).status_code == 201

    write(folder, FREEZE)
    look(watcher)
    assert len(revisions(registry)) == 2


def test_an_identity_file_that_the_directory_does_not_bear_keeps_the_folder_from_going_live(
    registry: Registry, folder: Path, watcher: policy_folder.Watcher
) -> None:
    shutil.copy(CHECKED_OUT_POLICIES / "identity.example.yaml", folder / "identity.yaml")
    text = (folder / "identity.yaml").read_text()
    (folder / "identity.yaml").write_text(text.replace("retail", "no-such-unit"))
    write(folder, FREEZE)

    look(watcher)

    assert len(revisions(registry)) == 1
    assert "no-such-unit" in (registry.events("policy.refused")[0].reason or "")


def test_an_old_container_that_starts_again_does_not_bring_its_policy_back(
    registry: Registry, tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = changed_policy(tmp_path, rules=[FREEZE], name="newer")
    Registry(registry.settings.model_copy(update={"policies_dir": newer}))

    again = Registry(registry.settings)
    policy_folder.Watcher(again.books.engine, again.settings).look()

    assert len(revisions(registry)) == 2
    assert "was superseded" in caplog.text
    assert ask(again.as_("wang", "trainers"), ticket_request()).status_code == 403


def test_a_revert_that_a_running_service_sees_goes_live(
    registry: Registry, folder: Path, watcher: policy_folder.Watcher
) -> None:
    write(folder, FREEZE)
    look(watcher)

    write(folder, SEARCH_FREEZE)
    look(watcher)

    first, _, third = revisions(registry)
    assert third == first
    assert ask(registry.as_("wang", "trainers"), ticket_request()).status_code == 201


def test_a_process_that_lags_behind_does_not_publish_what_others_have_left(
    registry: Registry, tmp_path: Path, folder: Path, watcher: policy_folder.Watcher
) -> None:
    """It comes from the first to the second state when the third is live already."""
    ahead = changed_policy(tmp_path, rules=[FREEZE], name="ahead")
    leader = Registry(registry.settings.model_copy(update={"policies_dir": ahead}))
    leading = policy_folder.Watcher(leader.books.engine, leader.settings)
    leading.look()
    write(ahead, FREEZE, SEARCH_FREEZE)
    look(leading)

    write(folder, FREEZE)
    look(watcher)

    assert len(revisions(registry)) == 3
    assert registry.policy.revision == revisions(registry)[2]


def test_exceptions_that_were_granted_here_go_on_under_the_next_folder(
    registry: Registry, folder: Path, watcher: policy_folder.Watcher
) -> None:
    li, wu = (
        an_exception(),
        an_exception(id="wu-lifts", who=["user:wu"], lifts="search-is-frozen", approved_by=["a", "b"]),
    )
    publish(registry, registry.policy.with_exceptions([li, wu]))

    write(folder, FREEZE)  # and no rule any more that wu's could lift
    look(watcher)

    assert [exception.id for exception in registry.policy.exceptions] == ["li-trains-dpo"]
    assert registry.events("policy.published")[-1].detail["dropped_exceptions"] == ["wu-lifts"]


def test_an_exception_that_moved_into_the_folder_leaves_with_it(
    registry: Registry, folder: Path, watcher: policy_folder.Watcher
) -> None:
    li = an_exception()
    publish(registry, registry.policy.with_exceptions([li]))
    without = (folder / "exceptions.yaml").read_text()
    (folder / "exceptions.yaml").write_text(as_yaml({"exceptions": [said(li)]}))
    look(watcher)
    assert [exception.id for exception in registry.policy.exceptions] == ["li-trains-dpo"]

    (folder / "exceptions.yaml").write_text(without)
    look(watcher)

    assert registry.policy.exceptions == ()


def test_a_folder_only_seeds_a_registry_whose_policy_is_changed_by_proposals(tmp_path: Path, folder: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", policies_dir=folder, policy_source="registry")
    registry = Registry(settings)

    write(folder, FREEZE)
    Registry(settings)

    assert len(revisions(registry)) == 1


def test_a_folder_that_becomes_the_source_again_undoes_what_proposals_did(tmp_path: Path, folder: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", policies_dir=folder, policy_source="registry")
    registry = Registry(settings)
    publish(registry, with_rule(registry.policy))

    Registry(settings.model_copy(update={"policy_source": "folder"}))

    first, _, third = revisions(registry)
    assert third == first


def test_the_author_of_a_committed_folder_is_its_commit(tmp_path: Path, folder: Path) -> None:
    def git(*command: str) -> str:
        who = ("-c", "user.name=li", "-c", "user.email=li@example.org")
        return subprocess.run(["git", "-C", folder, *who, *command], check=True, capture_output=True, text=True).stdout

    assert policy_folder.author_of(folder) == "system:operator"
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "all of it")
    commit = git("rev-parse", "HEAD").strip()
    inside = folder / "site-packages"
    shutil.copytree(CHECKED_OUT_POLICIES, inside)

    assert policy_folder.author_of(inside) == "system:operator", "it merely lies in somebody's working tree"
    shutil.rmtree(inside)
    assert policy_folder.author_of(folder) == f"git:{commit}"
    write(folder, FREEZE)
    assert policy_folder.author_of(folder) == "system:operator", "no commit has it like this"


def test_a_running_service_follows_its_folder_within_a_second_and_takes_permits_back(
    tmp_path: Path, folder: Path
) -> None:
    environment = {
        **os.environ,
        "TAGWARDEN_STATE_DIR": str(tmp_path / "state"),
        "TAGWARDEN_POLICIES_DIR": str(folder),
        "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    registry = Registry(Settings(state_dir=tmp_path / "state", policies_dir=folder))
    token, port = registry.token("wang", "trainers"), free_port()
    command = [sys.executable, "-m", "registry", "serve", "--port", str(port)]
    service = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"}) as wang:
            _wait_until(lambda: _ready(wang), 30)
            granted = ask(wang, ticket_request(audience=AUDIENCE)).json()  # type: ignore[arg-type]

            write(folder, FREEZE)
            written = time.monotonic()
            _wait_until(lambda: ask(wang, ticket_request()).status_code == 403, 10)  # type: ignore[arg-type]
            live_s = time.monotonic() - written
            _wait_until(lambda: wang.get(f"/v1/tickets/{granted['jti']}").json()["state"] == "revoked", 10)
    finally:
        service.terminate()
        service.wait(timeout=20)

    assert live_s < 5, "a second, on a machine that has nothing else to do"
    assert registry.events("ticket.revoked")[0].rule == "retail-is-frozen"


def _ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def _wait_until(happened: Any, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_publish_makes_a_superseded_folder_live_again(
    registry: Registry, tmp_path: Path, folder: Path, tagwarden: Any
) -> None:
    newer = changed_policy(tmp_path, rules=[FREEZE], name="newer")
    Registry(registry.settings.model_copy(update={"policies_dir": newer}))

    told = [tagwarden("policy", "publish") for _ in range(2)]
    history = tagwarden("policy", "history")
    shown = tagwarden("policy", "show")

    first, _, third = revisions(registry)
    assert told == [f"{first} is live\n", "this policy is live already\n"]
    assert third == first
    assert [line.split()[0] for line in history.splitlines()] == ["3", "2", "1"]
    assert "search-is-frozen" in shown


@pytest.fixture
def tagwarden(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Any:
    from click.testing import CliRunner

    from registry.cli import main

    monkeypatch.setenv("TAGWARDEN_STATE_DIR", str(registry.settings.state_dir))
    monkeypatch.setenv("TAGWARDEN_POLICIES_DIR", str(registry.settings.policies_dir))

    def run(*command: str) -> str:
        done = CliRunner().invoke(main, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return run
