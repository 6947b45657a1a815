"""`swift-submit requests`: exceptions from the policy and its next revision, from a file to effect."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from conftest import LiveRegistry, free_port
from policy_folders import changed_policy
from submitting import Desk

from registry.settings import Settings


@pytest.fixture
def governed(tmp_path: Path) -> Iterator[LiveRegistry]:
    """A registry whose policy is changed by proposal."""
    policies = changed_policy(tmp_path)
    live = LiveRegistry(
        Settings(state_dir=tmp_path / "state", port=free_port(), policies_dir=policies, policy_source="registry")
    )
    live.start()
    yield live
    live.stop()


@pytest.fixture
def desk(tmp_path: Path, governed: LiveRegistry) -> Desk:
    return Desk(tmp_path, tmp_path, governed.url, governed.token("li", "retail-ds"))


def test_an_exception_goes_from_file_to_effect(desk: Desk, governed: LiveRegistry) -> None:
    until = (datetime.now(UTC) + timedelta(days=10)).isoformat()
    change = {"kind": "exception", "id": "retail-tries-dpo", "who": ["user:li"], "may": ["submit"], "tag": ["dpo"],
              "until": until}  # fmt: skip
    (desk.root / "e.yaml").write_text(yaml.safe_dump({"change": change, "reason": "a pilot"}))
    refused = desk.cli("can-i", "submit", "dpo")

    opened = desk.json("requests", "propose", "e.yaml")
    shown = desk.cli("requests", "show", opened["id"]).stdout
    review = ["requests", "approve", opened["id"], "--digest", opened["digest"], "--reason", "read it"]
    for name in ("ana", "bo"):
        desk.token = governed.token(name, "security")
        done = desk.cli(*review)
    listed = desk.cli("requests", "list").stdout
    desk.token = governed.token("li", "retail-ds")

    assert (refused.returncode, "retail-tries-dpo" in shown) == (3, True)
    assert "`retail-tries-dpo` is in effect" in done.stdout, done.stderr
    assert "exception" in listed
    assert desk.cli("can-i", "submit", "dpo").returncode == 0


def test_a_draft_is_edited_submitted_and_withdrawn(desk: Desk, governed: LiveRegistry) -> None:
    change = {"kind": "new-tag", "tag": "message-tone", "tag_kind": "business", "parent": "sequence-classification",
              "description": "Good or bad.", "overrides": {}}  # fmt: skip
    (desk.root / "p.yaml").write_text(yaml.safe_dump({"change": change, "reason": "every week"}))
    (desk.root / "edit.yaml").write_text(yaml.safe_dump({"reason": "every day"}))

    drafted = desk.cli("requests", "propose", "--draft", "p.yaml")
    name = drafted.stdout.split()[0]
    stale = desk.cli("requests", "edit", name, "edit.yaml", "--digest", "sha256:" + "0" * 64)
    edited = desk.cli("requests", "edit", name, "edit.yaml")
    opened = desk.cli("requests", "submit", name)
    shown = desk.cli("requests", "show", name).stdout
    mine = desk.cli("requests", "list", "--awaiting-me").stdout
    desk.token = governed.token("ana", "tag-stewards")
    theirs = desk.cli("requests", "list", "--awaiting-me").stdout
    desk.token = governed.token("li", "retail-ds")
    withdrawn = desk.cli("requests", "withdraw", name)

    assert f"requests submit {name}" in drafted.stdout, drafted.stderr
    assert (stale.returncode, edited.returncode) == (8, 0)
    assert "missing 2 of 2 stewards, of group:tag-stewards" in opened.stdout
    assert "rule `everything-else` (compatible change): 2 people, until" in shown
    assert "every day" in shown
    assert (name in mine, name in theirs) == (False, True)
    assert "withdrawn" in withdrawn.stdout


def test_a_policy_is_proposed_from_its_folder_and_shows_what_it_would_change(
    desk: Desk, governed: LiveRegistry, tmp_path: Path
) -> None:
    rule = {"id": "retail-tries-sft", "effect": "allow", "who": ["group:retail-ds"], "may": ["cancel"], "tag": ["sft"],
            "reason": "A pilot."}  # fmt: skip
    folder = changed_policy(tmp_path, rules=[rule], name="next")
    desk.token = governed.token("ana", "security")

    done = desk.cli("requests", "propose-policy", str(folder), "--reason", "a pilot")
    (tmp_path / "empty").mkdir()
    empty = desk.cli("requests", "propose-policy", "empty", "--reason", "a pilot")
    (folder / "rules" / "more.yaml").write_bytes(b"\xff\xfe")
    binary = desk.cli("requests", "propose-policy", str(folder), "--reason", "a pilot")

    assert done.returncode == 0, done.stderr
    assert "rules added: retail-tries-sft" in done.stdout
    assert "replay  of" in done.stdout
    assert (empty.returncode, "model.conf" in empty.stderr) == (6, True)
    assert (binary.returncode, "more.yaml" in binary.stderr) == (6, True)


def test_a_broken_glass_is_ratified_in_the_name_of_who_is_away(desk: Desk, governed: LiveRegistry) -> None:
    change = {"kind": "new-tag", "tag": "message-tone", "tag_kind": "business", "parent": "sequence-classification",
              "description": "Good or bad.", "overrides": {}}  # fmt: skip
    (desk.root / "p.yaml").write_text(yaml.safe_dump({"change": change, "reason": "every week"}))
    desk.token = governed.token("lee", "incident-leads")

    alone = desk.cli("requests", "propose", "p.yaml", "--break-glass", "INC-1")
    broken = desk.cli("requests", "propose", "p.yaml", "--break-glass", "INC-1", "--reason", "it burns")
    name = broken.stdout.split()[0]
    digest = desk.json("requests", "show", name)["digest"]
    ratify = ["requests", "ratify", name, "--digest", digest, "--reason", "it was right"]
    desk.token = governed.token("sten", "tag-stewards", unit="search")
    made = desk.cli("delegations", "make", "user:li", "--days", "3", "--reason", "away")
    desk.token = governed.token("li", "retail-ds")
    first = desk.cli(*ratify, "--for", "user:sten")
    desk.token = governed.token("ana", "tag-stewards", unit="retail")
    second = desk.cli(*ratify)
    listed = desk.cli("delegations", "list", "--to", "user:li")
    desk.token = governed.token("sten", "tag-stewards", unit="search")
    ended = desk.cli("delegations", "revoke", made.stdout.split()[0], "--reason", "back again")

    assert (alone.returncode, "come together" in alone.stderr) == (2, True)
    assert "in effect until" in broken.stdout, broken.stderr
    assert "--for user:sten" in made.stdout, made.stderr
    assert "1 of 2" in first.stdout, first.stderr
    assert "is in effect" in second.stdout, second.stderr
    assert "user:sten" in listed.stdout
    assert "revoked" in ended.stdout, ended.stderr


def test_a_version_is_compared_and_its_impact_shown_before_it_is_agreed_to(
    tmp_path: Path, live_registry: LiveRegistry
) -> None:
    desk = Desk(tmp_path, tmp_path, live_registry.url, live_registry.token("wang", "trainers"))
    profile = desk.json("tags", "show", "cls")["profile"]
    profile["gates"][0]["value"] = 0.7
    profile["parameters"]["seed"]["default"] = 7

    def proposal(profile: dict[str, object]) -> str:
        change = {"kind": "new-version", "tag": "cls", "profile": profile}
        (tmp_path / "v.yaml").write_text(yaml.safe_dump({"change": change, "reason": "a higher bar"}))
        return "v.yaml"

    opened = desk.json("tags", "propose", proposal(profile))
    shown = desk.cli("requests", "show", opened["id"], "--impact").stdout
    for name, unit in (("ana", "retail"), ("bo", "search")):
        desk.token = live_registry.token(name, "tag-stewards", unit=unit)
        desk.cli("requests", "approve", opened["id"], "--digest", opened["digest"], "--reason", "read it")
    told = desk.cli("tags", "diff", "cls").stdout
    back = desk.cli("tags", "diff", "cls", "--from", "2", "--to", "1").stdout
    first = desk.cli("tags", "diff", "cls@1")
    desk.token = live_registry.token("wang", "trainers")
    profile["limits"]["max_gpus"] = 1
    broken = desk.cli("tags", "propose", proposal(profile))
    del profile["gates"][0]["min_n"]
    loose = desk.cli("tags", "propose", proposal(profile))

    assert "against sequence-classification@1:" in shown
    assert "  gates: 0 of the last 0 accepted runs would not have passed" in shown
    assert f"(digest {opened['digest']})" in shown
    assert told.splitlines() == [
        "sequence-classification  1 -> 2  breaking",
        "  breaking    `seed` `default` 42 -> 7: a run that leaves it out trains something else",
        "  tightening  the gate on `macro_f1` is harder: value 0.6 -> 0.7",
    ]
    assert "sequence-classification  2 -> 1  breaking" in back
    assert (first.returncode, "first version" in first.stderr) == (7, True)
    assert (broken.returncode, "keeps BACKWARD compatibility" in broken.stderr) == (8, True), broken.stderr
    assert (loose.returncode, "has no `min_n`" in loose.stderr) == (6, True), loose.stderr


def test_a_draft_is_submitted_and_withdrawn_as_it_was_read(desk: Desk, governed: LiveRegistry) -> None:
    until = (datetime.now(UTC) + timedelta(days=10)).isoformat()
    change = {"kind": "exception", "id": "retail-tries-kto", "who": ["user:li"], "may": ["submit"], "tag": ["dpo"],
              "until": until}  # fmt: skip
    (desk.root / "d.yaml").write_text(yaml.safe_dump({"change": change, "reason": "a pilot", "draft": True}))
    drafted = desk.json("requests", "propose", "d.yaml")

    opened = desk.json("requests", "submit", drafted["id"])
    found = desk.json("requests", "list", "--filter", "kind = exception AND state = open")
    withdrawn = desk.json("requests", "withdraw", drafted["id"])
    misspelt = desk.cli("requests", "list", "--filter", "sate = open")

    assert [each["state"] for each in (drafted, opened, withdrawn)] == ["draft", "open", "withdrawn"]
    assert [each["id"] for each in found] == [drafted["id"]]
    assert "`sate` is not a field of this list" in misspelt.stderr
