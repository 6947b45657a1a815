"""The policy is changed by proposal: tried by the registry, agreed to by others, live at once, exceptions and all."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from conftest import Registry, ask, ticket_request
from fastapi.testclient import TestClient
from policy_folders import changed_policy

from registry import policies
from registry.settings import Settings

PILOT = {
    "id": "retail-tries-dpo",
    "effect": "allow",
    "who": ["group:retail-ds"],
    "may": ["submit"],
    "tag": ["dpo"],
    "when": {"own_unit": True},
    "reason": "Everybody may try it.",
}
CASE = {
    "says": "retail tries dpo",
    "who": ["group:retail-ds"],
    "do": "submit",
    "tag": "dpo",
    "unit": "retail",
    "own_unit": "retail",
    "target": "local",
    "expect": "allow",
    "because": "retail-tries-dpo",
}


class Office(Registry):
    """A registry whose policy is changed by proposal."""

    def admin(self, name: str) -> TestClient:
        return self.as_(name, "platform-admins", unit="ai")

    def files(self) -> dict[str, str]:
        """The policy that it began with."""
        folder = self.settings.policies_dir
        names = ("model.conf", "directory.yaml", "quotas.yaml", "approvals.yaml")
        found = [*(folder / name for name in names), *folder.glob("rules/*.yaml"), *folder.glob("tests/*.yaml")]
        return {file.relative_to(folder).as_posix(): file.read_text() for file in found if file.exists()}

    def candidate(self, *rules: dict[str, Any], cases: tuple[dict[str, Any], ...] = (CASE,)) -> dict[str, str]:
        """With these rules and cases more."""
        more = {"owner": "platform-admins", "rules": list(rules)}
        return self.files() | {
            "rules/pilot.yaml": yaml.safe_dump(more),
            "tests/pilot.yaml": yaml.safe_dump(list(cases)),
        }

    def propose_policy(self, client: TestClient, files: dict[str, str]) -> httpx2.Response:
        change = {"kind": "policy", "files": files}
        return client.post("/v1/proposals", json={"change": change, "reason": "the pilot went well"})

    def agree(self, proposal: dict[str, Any], *names: str) -> list[httpx2.Response]:
        return [self.review(self.admin(name), proposal) for name in names]


def office_at(root: Path, **settings: Any) -> Office:
    policies_dir = changed_policy(root)
    return Office(
        Settings(state_dir=root / "state", policies_dir=policies_dir, **{"policy_source": "registry", **settings})
    )


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return office_at(tmp_path)


def tries_dpo(office: Office, name: str = "wang") -> int:
    return ask(office.as_(name, "retail-ds"), ticket_request("dpo", arguments={})).status_code


def test_a_policy_that_two_others_agree_to_is_live_at_once(office: Office) -> None:
    reply = office.propose_policy(office.admin("author"), office.candidate(PILOT))
    assert reply.status_code == 201, reply.text
    proposal = reply.json()
    assert tries_dpo(office) == 403

    replies = office.agree(proposal, "li", "zhao")

    assert [(reply.status_code, reply.json()["state"]) for reply in replies] == [(201, "open"), (201, "applied")]
    assert tries_dpo(office) == 201
    (issued,) = office.events("ticket.issued")
    assert (issued.rule, issued.policy_revision) == ("retail-tries-dpo", replies[1].json()["policy_revision"])
    published = office.events("policy.published")[-1]
    assert (published.actor, published.detail["author"], published.proposal_id) == (
        "user:zhao",
        "user:author",
        proposal["id"],
    )


def test_reviewers_see_what_the_registry_found_out(office: Office) -> None:
    assert tries_dpo(office) == 403

    proposal = office.propose_policy(office.admin("author"), office.candidate(PILOT)).json()

    checks = proposal["checks"]
    assert (checks["rules_added"], checks["rules_changed"], checks["rules_removed"]) == (["retail-tries-dpo"], [], [])
    assert checks["tests"] > 10
    assert (checks["replay"]["days"], checks["replay"]["deny_to_allow"], checks["replay"]["allow_to_deny"]) == (
        30,
        1,
        0,
    )
    assert office.admin("li").get(f"/v1/proposals/{proposal['id']}").json()["checks"] == checks


def test_what_was_refused_and_would_be_allowed_needs_one_approval_more(office: Office) -> None:
    assert tries_dpo(office) == 403
    proposal = office.propose_policy(office.admin("author"), office.candidate(PILOT)).json()

    replies = office.agree(proposal, "li", "zhao", "chen")

    assert proposal["approvals_needed"] == 3
    assert any("one approval more" in warning for warning in proposal["checks"]["warnings"])
    assert [reply.json()["state"] for reply in replies] == ["open", "open", "applied"]


def test_nobody_approves_their_own_policy_and_stewards_approve_none(office: Office) -> None:
    author = office.admin("author")
    proposal = office.propose_policy(author, office.candidate(PILOT)).json()

    own, steward = office.review(author, proposal), office.review(office.as_("s", "tag-stewards"), proposal)

    assert (own.status_code, own.json()["code"]) == (403, "self-approval")
    assert (steward.status_code, steward.json()["code"]) == (403, "not-permitted")


def test_trainers_propose_no_policy(office: Office) -> None:
    reply = office.propose_policy(office.as_("wang", "trainers"), office.candidate(PILOT))

    assert (reply.status_code, reply.json()["code"]) == (403, "not-permitted")
    assert [event.actor for event in office.events("policy-write.refused")] == ["user:wang"]


def test_a_policy_from_a_folder_is_changed_there(tmp_path: Path) -> None:
    office = office_at(tmp_path, policy_source="folder")

    reply = office.propose_policy(office.admin("author"), office.candidate(PILOT))

    assert (reply.status_code, reply.json()["code"]) == (409, "policy-comes-from-folder")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tests/pilot.yaml": yaml.safe_dump([{**CASE, "expect": "deny"}])}, "tests/pilot.yaml:"),
        ({"tests/pilot.yaml": yaml.safe_dump([{**CASE, "becuase": "x"}])}, "becuase"),
        ({"rules/pilot.yaml": "owner: platform-admins\nrules:\n  - id: half"}, "rules/pilot.yaml:3"),
        ({"rules/pilot.yaml": "a: &a [*a]"}, "rules/pilot.yaml"),
        ({"rules/pilot.yaml": ": : :\n\t"}, "rules/pilot.yaml"),
        ({"directory.yaml": None}, "directory.yaml"),
        ({"model.conf": None}, "model.conf"),
        ({"model.conf": "[matchers]\nm = __import__('os')"}, "model.conf"),
        ({"model.conf": ""}, "model.conf"),
        ({"rules/pilot.yaml": yaml.safe_dump({"owner": "nobody", "rules": [PILOT]})}, "owner `nobody`"),
        (
            {"rules/pilot.yaml": yaml.safe_dump({"owner": "nlp", "rules": [{**PILOT, "effect": "DENY"}]})},
            "rules/pilot.yaml:",
        ),
        (
            {
                "rules/untested.yaml": yaml.safe_dump(
                    {
                        "owner": "nlp",
                        "rules": [{**PILOT, "id": "no-dpo", "effect": "deny", "unit": "search", "when": {}}],
                    }
                )
            },
            "no case is decided by the deny `no-dpo`",
        ),
    ],
)
def test_a_policy_that_could_not_go_live_is_refused_with_what_is_wrong(
    office: Office, changes: dict[str, str | None], says: str
) -> None:
    files = {name: text for name, text in (office.candidate(PILOT) | changes).items() if text is not None}

    reply = office.propose_policy(office.admin("author"), files)

    assert (reply.status_code, reply.json()["code"]) == (422, "policy-refused"), reply.text
    assert any(says in finding for finding in reply.json()["findings"]), reply.json()["findings"]


def test_a_policy_without_tests_is_refused(office: Office) -> None:
    files = {name: text for name, text in office.candidate(PILOT).items() if not name.startswith("tests/")}

    reply = office.propose_policy(office.admin("author"), files)

    assert (reply.status_code, reply.json()["code"]) == (422, "policy-refused")
    assert "has no tests" in reply.json()["detail"]


@pytest.mark.parametrize(
    "name", ["exceptions.yaml", "../model.conf", "rules/a/b.yaml", "rules/.yaml", "x", "", "rules/A.yaml"]
)
def test_a_file_that_is_no_part_of_a_policy_is_refused(office: Office, name: str) -> None:
    reply = office.propose_policy(office.admin("author"), office.candidate(PILOT) | {name: "{}"})

    assert (reply.status_code, reply.json()["code"]) == (422, "malformed-request")


def test_what_is_live_already_is_no_proposal(office: Office) -> None:
    reply = office.propose_policy(office.admin("author"), office.files())

    assert (reply.status_code, reply.json()["code"]) == (409, "policy-unchanged")


def test_of_two_proposals_of_the_policy_the_second_is_superseded(office: Office) -> None:
    first = office.propose_policy(office.admin("author"), office.candidate(PILOT)).json()
    other = office.candidate({**PILOT, "may": ["submit", "cancel"]})
    second = office.propose_policy(office.admin("another"), other).json()

    office.agree(first, "li", "zhao")

    late = office.review(office.admin("li"), second)
    assert (late.status_code, late.json()["code"]) == (409, "already-decided")
    assert [event.proposal_id for event in office.events("proposal.superseded")] == [second["id"]]


def test_a_policy_is_drafted_edited_and_tried_again_before_others_agree(office: Office) -> None:
    author = office.admin("author")
    change = {"kind": "policy", "files": office.candidate(PILOT)}
    draft = author.post("/v1/proposals", json={"change": change, "reason": "a pilot", "draft": True}).json()
    path = f"/v1/proposals/{draft['id']}"
    wider = office.candidate({**PILOT, "may": ["submit", "cancel"]})

    edit = {"change": {"kind": "policy", "files": wider}}
    edited = author.patch(path, json=edit, headers={"If-Match": "*"}).json()
    opened = author.post(f"{path}:submit", headers={"If-Match": "*"}).json()

    assert (draft["state"], edited["round"], opened["state"]) == ("draft", 2, "open")
    assert edited["checks"]["revision"] != draft["checks"]["revision"]
    assert author.get(f"{path}/files").json()["files"] == wider
    assert office.agree(opened, "li", "zhao")[-1].json()["state"] == "applied"
    assert tries_dpo(office) == 201


def another_goes_live(office: Office) -> str:
    """Its digest."""
    with office.books.writing() as session:
        live = policies.live(session)
        changed = type(live).of(
            live.model, live.directory, live.rules[:-1], owners=live.owners, approvals=live.approvals
        )
        seen = policies.seen(session)
        policies.publish(
            session, changed, source="folder", author="system:operator", approver=None, seen=seen, folder=changed
        )
    return changed.revision


def test_an_open_policy_that_went_stale_is_made_anew_with_its_files(office: Office) -> None:
    """An edit without files would undo what the other one brought."""
    proposal = office.propose_policy(office.admin("author"), office.candidate(PILOT)).json()
    path = f"/v1/proposals/{proposal['id']}"
    now = another_goes_live(office)
    assert [reply.status_code for reply in office.agree(proposal, "li", "zhao")] == [201, 409]

    blind = office.admin("author").patch(path, json={}, headers={"If-Match": "*"})
    edit = {"change": {"kind": "policy", "files": office.candidate(PILOT)}}
    anew = office.admin("author").patch(path, json=edit, headers={"If-Match": "*"}).json()

    assert (blind.status_code, blind.json()["code"], blind.json()["base"]) == (409, "stale-base", {"digest": now})

    assert anew["checks"]["base"] != proposal["checks"]["base"]
    assert [reply.json()["state"] for reply in office.agree(anew, "li", "zhao")] == ["open", "applied"]


def grant_exception(office: Office, **change: Any) -> None:
    body = {
        "kind": "exception",
        "id": "chen-trains-sft",
        "who": ["user:chen"],
        "may": ["submit"],
        "tag": ["sft"],
        "until": "2027-01-15T00:00:00Z",
        **change,
    }
    reply = office.as_("chen", "trainers").post("/v1/proposals", json={"change": body, "reason": "a pilot"})
    assert reply.status_code == 201, reply.text
    assert [reply.status_code for reply in office.agree(reply.json(), "li", "zhao")] == [201, 201]


def test_exceptions_go_on_under_the_new_policy_also_those_granted_meanwhile(office: Office) -> None:
    grant_exception(office)
    proposal = office.propose_policy(office.admin("author"), office.candidate(PILOT)).json()
    grant_exception(office, id="chen-trains-dpo", tag=["dpo"])

    replies = office.agree(proposal, "li", "zhao")

    assert replies[1].json()["state"] == "applied", replies[1].text
    chen = office.as_("chen", "trainers")
    assert [ask(chen, ticket_request(tag, arguments={})).status_code for tag in ("sft", "dpo")] == [201, 201]
    assert tries_dpo(office) == 201


def test_a_policy_without_a_place_for_a_live_exception_is_refused_and_names_it(office: Office) -> None:
    grant_exception(office, who=["group:search-ml"])
    files = {name: text.replace("search-ml", "search-people") for name, text in office.candidate(PILOT).items()}

    reply = office.propose_policy(office.admin("author"), files)

    assert (reply.status_code, reply.json()["code"]) == (422, "policy-refused")
    assert "chen-trains-sft" in reply.json()["detail"]


def test_a_policy_that_was_tried_against_another_one_is_not_applied(office: Office) -> None:
    proposal = office.propose_policy(office.admin("author"), office.candidate(PILOT)).json()
    another_goes_live(office)

    replies = office.agree(proposal, "li", "zhao")

    assert (replies[1].status_code, replies[1].json()["code"]) == (409, "stale-base")
    assert tries_dpo(office) == 403


def test_a_draft_of_a_policy_is_not_laid_over_one_that_went_live_since(office: Office) -> None:
    author = office.admin("author")
    change = {"kind": "policy", "files": office.candidate(PILOT)}
    body = {"change": change, "reason": "a pilot", "base": office.policy.revision}
    draft = author.post("/v1/proposals", json={**body, "draft": True}).json()
    assert draft["base"] == {"digest": body["base"]}
    another_goes_live(office)

    submitted = author.post(f"/v1/proposals/{draft['id']}:submit", headers={"If-Match": "*"})
    again = author.post("/v1/proposals", json=body)

    assert [(reply.status_code, reply.json()["code"]) for reply in (submitted, again)] == [(409, "stale-base")] * 2


def test_weaker_approvals_are_told_and_need_one_approval_more(office: Office) -> None:
    lax = {"rules": [{"id": "one", "thresholds": [{"name": "any", "approve": 1}], "reason": "One is enough."}]}
    files = office.files() | {"approvals.yaml": yaml.safe_dump(lax)}

    proposal = office.propose_policy(office.admin("author"), files).json()

    assert proposal["approvals_needed"] == 3
    weakened = proposal["checks"]["approvals_weakened"]
    assert weakened == proposal["checks"]["warnings"][: len(weakened)]
    assert any("rule `policy` decided and rule `one` would: 1 instead of 2 people" in told for told in weakened)


def test_the_text_of_a_policy_is_for_its_readers_and_its_author(office: Office) -> None:
    files = office.candidate(PILOT)
    proposal = office.propose_policy(office.admin("author"), files).json()
    path = f"/v1/proposals/{proposal['id']}/files"

    assert office.admin("li").get(path).json()["files"] == files
    assert office.as_("author", "project-managers").get(path).status_code == 200
    assert office.as_("wang", "project-managers").get(path).status_code == 403
    listed = office.as_("wang", "project-managers").get("/v1/proposals").json()["items"]
    assert set(listed[0]["change"]["files"].values()) == set(proposal["change"]["files"].values())
    assert "Everybody may try it" not in str(listed)


def test_a_rejected_policy_changes_nothing_and_makes_room(office: Office) -> None:
    proposal = office.propose_policy(office.admin("author"), office.candidate(PILOT)).json()

    rejected = office.review(office.admin("li"), proposal, "reject")

    assert rejected.json()["state"] == "rejected"
    assert (tries_dpo(office), len(office.events("policy.published"))) == (403, 1)
    assert office.propose_policy(office.admin("another"), office.candidate(PILOT)).status_code == 201


def test_what_the_trial_found_is_for_those_who_read_the_policy(office: Office) -> None:
    proposal = office.propose_policy(office.admin("li"), office.candidate(PILOT)).json()
    stranger, trainer = office.as_("wu"), office.as_("chen", "trainers")

    seen = [client.get(f"/v1/proposals/{proposal['id']}").json()["checks"] for client in (stranger, trainer)]
    listed = stranger.get("/v1/proposals").json()["items"][0]["checks"]

    assert (seen[0], listed) == (None, None)
    assert seen[1] == proposal["checks"]
