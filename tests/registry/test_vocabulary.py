"""`tagwarden vocabulary`: files of task types become proposals, and the registry's task types a file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import LiveRegistry, free_port

from enforcer import vocabulary as vocabulary_files
from enforcer.problems import RegistryUnreachable
from registry.cli import main
from registry.cli.remote import Remote
from registry.cli.vocabulary_plan import Live, compare, open_all
from registry.settings import CHECKED_OUT_POLICIES, Settings

SHIPPED = str(CHECKED_OUT_POLICIES / "vocabulary")
WORDS = "acorn birch cedar dahlia elder fern ginkgo hazel iris jasmine".split()
OTHERS = [f"{first}{rest}" for first in "bdgklmnprt" for rest in ("ajira", "emolu", "ikopa", "osune", "uvati")]
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
    rows = [entry(f"{word}-{other}") for word in WORDS for other in OTHERS]
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


@pytest.mark.parametrize(
    ("changed", "line", "said"),
    [
        ({"kynd": "head"}, 7, "unknown key `kynd` (did you mean `kind`?)"),
        ({"kind": "purpose"}, 3, "`kind`: write 'objective', 'head', 'use-case' or 'business', not `purpose`"),
        ({"parent": "nothing-such"}, 2, "its parent `nothing-such` is neither in the registry nor above it"),
        ({"parent": "later"}, 2, "its parent `later` is neither in the registry nor above it"),
        ({"parent": None}, 2, "a task type without parent needs a whole `profile`"),
        ({"profile": {"recipe": "x"}}, 7, "`parameters` is missing"),
        ({"aliases": ["cls"]}, 2, "`cls`"),
        ({"name": "seq-cls"}, 2, "is another spelling of `sequence-classification` in the registry"),
        ({"name": "direct-preference-optimisation"}, 2, "direct-preference-optimization"),
        ({"overrides": {"gates": [{"metric": "bleu", "min_n": 9, "value": 1}]}}, 2, "`bleu`"),
        ({"name": "review-sentiment"}, 2, "`description` is `Whether a review speaks well of what it reviews.` in"),
        ({"name": "embedding"}, 2, "its alias `sentence-embedding` is missing; what was an alias is one for ever"),
        ({"compatibility": "BACKWARDS"}, 7, "`compatibility`"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    served: LiveRegistry, tmp_path: Path, changed: dict[str, Any], line: int, said: str
) -> None:
    wrong = {name: value for name, value in (entry("parcel-size") | changed).items() if value is not None}
    file = write(tmp_path / "a.yaml", wrong, entry("later"))
    before = opened(served)

    done = vocabulary(served, "import", file)

    assert done.exit_code == 1, done.output
    assert done.stderr.startswith(f"{file}:{line}: `{wrong['name']}`: ")
    assert said in done.stderr
    assert opened(served) == before


def test_a_name_that_cannot_be_is_found_though_its_parent_is_not_there_yet(
    served: LiveRegistry, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.yaml", entry("parcel-size"), entry("parcel-size-final", parent="parcel-size"))

    before = opened(served)

    done = vocabulary(served, "import", file)

    assert done.exit_code == 1
    assert "`parcel-size-final`: `parcel-size-final`: " in done.stderr, done.stderr
    assert opened(served) == before


def test_all_faults_are_listed_up_to_twenty(served: LiveRegistry, tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", *(entry(f"parcel-{word}", kind="odd") for word in WORDS * 3))

    done = vocabulary(served, "import", file)
    for_programs = vocabulary(served, "import", file, "--json")

    lines = done.stderr.splitlines()
    assert (len(lines), lines[20]) == (22, "and 10 more")
    assert len(json.loads(for_programs.stdout)["faults"]) == 30


def test_a_name_that_stands_twice_names_both_places(served: LiveRegistry, tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, entry("parcel-size")) for name in ("1.yaml", "2.yaml"))

    done = vocabulary(served, "sync", str(tmp_path))

    assert f"{two}:2: `parcel-size`: `parcel-size` stands for `parcel-size` in {one}:2 already" in done.stderr


def test_who_may_not_propose_is_told_so_for_each(served: LiveRegistry, tmp_path: Path) -> None:
    done = vocabulary(served, "import", write(tmp_path / "a.yaml", entry("parcel-size")), groups="nobody")

    assert (done.exit_code, "may not propose" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--server", "http://registry.example.org"], "would be sent your token in clear"),
        (["--server", "http://127.0.0.1:1"], "cannot be reached"),
        (["--reason", "x"], "--reason"),
        (["--token-file", "open.txt"], "has to be yours alone"),
    ],
)
def test_how_it_is_called_wrongly_is_said(
    served: LiveRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("open.txt").write_text("token")
    Path("open.txt").chmod(0o644)
    env = {"SWIFT_SUBMIT_TOKEN": "" if "--token-file" in options else "t", "SWIFT_SUBMIT_SERVER": served.url}
    call = ["vocabulary", "import", write(tmp_path / "a.yaml", entry("parcel-size")), "--reason", "because", *options]

    done = CliRunner().invoke(main, call, env=env)

    assert done.exit_code in (1, 2)
    assert said in done.stderr, done.stderr


# --- what changes -----------------------------------------------------------------------------------------------------


def test_a_changed_parent_is_proposed_and_its_children_follow_when_it_is_approved(
    live_registry: LiveRegistry, tmp_path: Path
) -> None:
    file = tmp_path / "all.yaml"
    exported = vocabulary(live_registry, "export").stdout
    tags = {one["name"]: one for one in yaml.safe_load(exported)["tags"]}
    tags["sequence-classification"]["profile"]["limits"]["max_gpus"] = 1
    tags["sequence-classification"]["compatibility"] = "NONE"
    tags["embedding"]["aliases"].append("vector-making")
    write(file, *tags.values())

    compared = vocabulary(live_registry, "diff", str(file), "--exit-code")
    first = vocabulary(live_registry, "sync", str(tmp_path), "--json")
    again = vocabulary(live_registry, "import", str(file), "--json")
    approve(live_registry)
    behind = vocabulary(live_registry, "export")
    then = vocabulary(live_registry, "sync", str(tmp_path), "--json")
    approve(live_registry)
    last = vocabulary(live_registry, "sync", str(tmp_path))

    children = ["intent-recognition", "product-classification", "review-sentiment"]
    proposed = {("embedding", "alias"), ("sequence-classification", "new-version")}
    held = {(child, "new-version") for child in children}
    assert (compared.exit_code, "tightening  `max_gpus` is lower: 2 -> 1" in compared.stdout) == (1, True)
    assert by_state(first) == {"opened": proposed, "held back": held}
    assert by_state(again) == {"waiting": proposed, "held back": held}
    assert "`product-classification` is made from `sequence-classification@1` still" in behind.stderr
    assert by_state(then) == {"opened": held}
    assert (last.exit_code, last.stdout) == (0, "nothing to do: the registry says all of this\n")


def by_state(done: Result) -> dict[str, set[tuple[str, str]]]:
    steps = told(done)
    return {state: {(tag, kind) for tag, kind, at in steps if at == state} for _, _, state in steps}


def test_what_others_rejected_is_not_proposed_again_and_what_was_withdrawn_is(
    served: LiveRegistry, tmp_path: Path
) -> None:
    folder = str(Path(write(tmp_path / "a.yaml", entry("parcel-size"))).parent)
    author, steward = served.as_("author", "trainers"), served.as_("first", "tag-stewards")

    before = opened(served)
    vocabulary(served, "sync", folder)
    mine = author.get("/v1/proposals?state=open")
    one = mine.json()["items"][0]
    author.post(f"/v1/proposals/{one['id']}:withdraw", headers={"If-Match": "*"})
    anew = vocabulary(served, "sync", folder, "--json")
    two = author.get("/v1/proposals?state=open").json()["items"][0]
    served.review(steward, two, "reject")
    rejected = vocabulary(served, "sync", folder)

    assert (one["reason"], one["id"] != two["id"]) == ("reviewed in Git", True)
    assert told(anew) == [("parcel-size", "new-tag", "opened")]
    assert (rejected.exit_code, rejected.stdout) == (8, f"rejected    new-tag      parcel-size  {two['id']}\n")
    assert opened(served) == before + 2


def test_an_answer_that_got_lost_opens_nothing_twice(served: LiveRegistry, tmp_path: Path) -> None:
    """As if the first had died before it could look: the key is the content's, so the registry knows it again."""
    placed = vocabulary_files.read({"a.yaml": Path(write(tmp_path / "a.yaml", entry("parcel-weight"))).read_text()})
    before = opened(served)
    with Remote(served.url, served.token("author", "trainers")) as remote:
        live = Live(remote)
        for _ in range(2):
            open_all(compare(placed, live), live, "reviewed in Git")

    assert opened(served) == before + 1


class FailsOnce(Remote):
    """A registry that goes away after the first proposal, once."""

    def post(self, path: str, body: Mapping[str, Any], *, key: str | None = None, **query: Any) -> Any:
        if body.get("change", {}).get("tag") == "parcel-depth" and not query and not hasattr(self, "failed"):
            self.failed = True
            raise RegistryUnreachable("gone")
        return super().post(path, body, key=key, **query)


def test_a_registry_that_goes_away_is_gone_on_with(served: LiveRegistry, tmp_path: Path) -> None:
    file = Path(write(tmp_path / "a.yaml", entry("parcel-width"), entry("parcel-depth")))
    placed, before = vocabulary_files.read({"a.yaml": file.read_text()}), opened(served)
    with FailsOnce(served.url, served.token("author", "trainers")) as remote:
        live = Live(remote)
        with pytest.raises(RegistryUnreachable, match=r"`parcel-depth`: gone \(1 of 2 are proposed; the same command"):
            open_all(compare(placed, live), live, "reviewed in Git")

    again = vocabulary(served, "sync", str(tmp_path), "--json")

    assert [state for _, _, state in told(again)] == ["waiting", "opened"]
    assert opened(served) == before + 2


def test_a_registry_that_asks_to_come_back_later_is_asked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([httpx2.Response(429, headers={"Retry-After": "7"}, json={}), httpx2.Response(200, json={"a": 1})])
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)

    with Remote("http://127.0.0.1:1", "t", transport=httpx2.MockTransport(lambda _: next(answers))) as remote:
        assert remote.get("/v1/tags") == {"a": 1}

    assert slept == [7]
