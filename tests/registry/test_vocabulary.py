"""`tagwarden vocabulary`: files of task types become proposals, and the registry's task types a file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import LiveRegistry, free_port

from registry.cli import main
from registry.settings import CHECKED_OUT_POLICIES, Settings

SHIPPED = str(CHECKED_OUT_POLICIES / "vocabulary")
STRICT = [{"metric": "macro_f1", "op": ">=", "value": 0.95, "min_n": 300, "confidence": 0.95}]


def serve(root: Path) -> Iterator[LiveRegistry]:
    live = LiveRegistry(Settings(state_dir=root, port=free_port()))
    live.start()
    yield live
    live.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """For all that changes no task type."""
    yield from serve(tmp_path_factory.mktemp("served"))


def vocabulary(registry: LiveRegistry, *arguments: str, user: str = "author", groups: str = "trainers") -> Result:
    if arguments[0] in ("import", "sync"):
        arguments = (*arguments, "--reason", "reviewed in Git")
    env = {"SWIFT_SUBMIT_SERVER": registry.url, "SWIFT_SUBMIT_TOKEN": registry.token(user, groups)}
    return CliRunner().invoke(main, ["vocabulary", *arguments], env=env)


def told(done: Result) -> list[tuple[str, str, str]]:
    """Of `--json`: what becomes of each change."""
    assert done.exit_code in (0, 5, 8), done.output
    return [(step["tag"], step["change"], step["state"]) for step in json.loads(done.stdout)["steps"]]


def entry(name: str, **more: Any) -> dict[str, Any]:
    parent = {"parent": "sequence-classification", "overrides": {}}
    return {"name": name, "kind": "business", "description": f"What {name} is.", **parent, **more}


def write(path: Path, *entries: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump({"tags": list(entries)}, sort_keys=False))
    return str(path)


def approve(registry: LiveRegistry) -> None:
    """Whatever is open, by two who were not its authors."""
    for steward in ("first", "second"):
        client = registry.as_(steward, "tag-stewards", "unit-owners")
        for proposal in client.get("/v1/proposals?state=open").json()["items"]:
            assert registry.review(client, proposal).status_code == 201


def opened(registry: LiveRegistry) -> int:
    return len(registry.events("proposal.opened"))


# --- out and in again -------------------------------------------------------------------------------------------------


def test_the_shipped_files_with_their_anchors_say_what_a_fresh_registry_says(served: LiveRegistry) -> None:
    done = vocabulary(served, "sync", SHIPPED)

    assert (done.exit_code, done.output) == (0, "nothing to do: the registry says all of this\n")


def test_what_was_exported_has_nothing_to_do_and_comes_out_byte_for_byte(
    served: LiveRegistry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = vocabulary(served, "export").stdout_bytes
    (tmp_path / "policies").mkdir()
    for file in CHECKED_OUT_POLICIES.iterdir():
        if file.name != "vocabulary":
            (tmp_path / "policies" / file.name).symlink_to(file)
    (tmp_path / "policies" / "vocabulary").mkdir()
    (tmp_path / "policies" / "vocabulary" / "all.yaml").write_bytes(first)
    done = vocabulary(served, "import", str(tmp_path / "policies" / "vocabulary" / "all.yaml"))

    other = LiveRegistry(Settings(state_dir=tmp_path / "other", port=free_port(), policies_dir=tmp_path / "policies"))
    other.start()
    second = vocabulary(other, "export").stdout_bytes
    other.stop()

    assert (done.exit_code, "nothing to do" in done.output) == (0, True)
    assert first.startswith(b"tags:\n  - name: cpo\n")
    assert b"&" not in first.replace(b"&&", b"")
    assert second == first  # it seeds a registry, too


def test_imported_and_approved_it_comes_out_as_it_went_in(live_registry: LiveRegistry, tmp_path: Path) -> None:
    """Two registries: what one has more than the other travels as a file, round by round, parents first."""
    deep = {"kind": "business", "parent": "mail-topic", "description": "No: it \"is\" \u00fc\u4e2d, # not a comment.",
            "overrides": {"gates": STRICT, "parameters": {"max_length": {"maximum": 2048}}}}  # fmt: skip
    distinct = [{"tag": "dpo", "because": "it says who spoke, and prefers nothing"}]
    more = [entry("mail-topic", aliases=["post-topic"], compatibility="FULL"), {"name": "mail-mood", **deep},
            entry("dpo-speaker", distinct_from=distinct)]  # fmt: skip
    file = write(tmp_path / "more.yaml", *more)

    first = vocabulary(live_registry, "sync", str(tmp_path), "--json")
    again = vocabulary(live_registry, "sync", str(tmp_path), "--json", user="somebody-else")
    approve(live_registry)
    then = vocabulary(live_registry, "sync", str(tmp_path), "--json")
    approve(live_registry)
    last = vocabulary(live_registry, "sync", str(tmp_path))
    out = vocabulary(live_registry, "export")
    Path(file).write_bytes(out.stdout_bytes)
    nothing = vocabulary(live_registry, "import", file)

    assert (first.exit_code, told(first)) == (5, [("mail-topic", "new-tag", "opened"), ("mail-mood", "new-tag",
            "held back"), ("dpo-speaker", "new-tag", "opened")])  # fmt: skip
    assert (again.exit_code, [state for _, _, state in told(again)]) == (5, ["waiting", "held back", "waiting"])
    assert (then.exit_code, told(then)) == (5, [("mail-mood", "new-tag", "opened")])
    assert (last.exit_code, opened(live_registry)) == (0, 3)
    assert "nothing to do" in nothing.output, nothing.output
    exported = {one["name"]: one for one in yaml.safe_load(out.stdout)["tags"]}
    assert exported["mail-mood"] == {"name": "mail-mood", **deep}
    assert exported["mail-topic"] == {name: value for name, value in more[0].items() if name != "overrides"} | {
        "overrides": {}
    }
    assert exported["dpo-speaker"]["distinct_from"] == distinct
    assert vocabulary(live_registry, "export").stdout_bytes == out.stdout_bytes


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_one_bad_row_of_five_hundred_opens_nothing_and_is_named(served: LiveRegistry, tmp_path: Path) -> None:
    rows = [entry(f"{word}-{number}") for number in range(50) for word in WORDS]
    rows[321]["overrides"] = {"parameters": {"max_length": {"maximum": 99_999}}}
    file = write(tmp_path / "many.yaml", *rows)
    line = Path(file).read_text().splitlines().index(f"- name: {rows[321]['name']}") + 1
    before = opened(served)

    done = vocabulary(served, "import", file)

    assert (done.exit_code, done.stdout) == (1, "")
    first, *more = done.stderr.splitlines()
    assert first.startswith(f"{file}:{line}: `{rows[321]['name']}`: a child may only narrow what it inherits")
    assert more == ["Error: nothing was proposed; mend these first"]
    assert opened(served) == before


WORDS = "acorn birch cedar dahlia elder fern ginkgo hazel iris jasmine".split()
