"""`identity.yaml`: what may be believed at all, and which trust rules would let somebody take over a name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, strategies as st

from enforcer.policy import folder, identity
from enforcer.policy.identity import IdentityPolicy, TrustRule, safe_subject
from enforcer.policy.rules import PolicyInvalid

DIRECTORY = folder.load(Path("policies")).directory
EXAMPLE = Path("policies/identity.example.yaml")
GITHUB, KUBERNETES = yaml.safe_load(EXAMPLE.read_text())["trust_rules"]
ISSUER = {"name": "corp", "issuer": "https://login.example", "audience": "urn:x", "business_unit": "retail"}


def load(tmp_path: Path, **content: Any) -> IdentityPolicy:
    file = tmp_path / "identity.yaml"
    file.write_text(json.dumps(content))
    return identity.load(file, DIRECTORY)


def test_the_example_can_go_live() -> None:
    policy = identity.load(EXAMPLE, DIRECTORY)

    assert [rule.principal for rule in policy.trust_rules] == ["ci:retail-nightly", "workload:search-reindex"]
    assert policy.known_issuers == {
        "https://login.example.com/realms/ml",
        "https://token.actions.githubusercontent.com",
        "https://oidc.cluster.example.com",
    }


def test_the_revision_follows_the_meaning_and_not_the_spelling(tmp_path: Path) -> None:
    first = load(tmp_path, issuers=[ISSUER])
    same = load(tmp_path, issuers=[dict(reversed(ISSUER.items()))])
    other = load(tmp_path, issuers=[{**ISSUER, "audience": "urn:y"}])

    assert first.revision == same.revision != other.revision


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"repository": "example/reviews"}, "pin `repository_id` as well"),
        ({"repository": "example/reviews", "repository_owner": "example", "environment": "prod"}, "`repository_id`"),
        ({"repository_owner": "e", "repository_id": "1", "environment": "p"}, "pin `repository_owner_id` as well"),
        ({"repository_id": "1", "environment": "prod"}, "`repository_owner_id`"),
        ({"repository_id": "1", "repository_owner_id": "2"}, "`job_workflow_ref` or `environment`"),
        ({"repository_id": "1", "repository_owner_id": "2", "ref": "refs/heads/main"}, "`job_workflow_ref`"),
        ({"sub": "repo:example/reviews:ref:refs/heads/main"}, "`repository_id`"),
        ({"job_workflow_ref": "example/reviews/.github/workflows/x.yml@refs/heads/main"}, "`repository_id`"),
    ],
)  # fmt: skip
def test_a_rule_for_github_on_names_alone_is_refused(tmp_path: Path, claims: dict[str, str], says: str) -> None:
    """A repository that is renamed or deleted leaves its name to whoever takes it next; its id is never given again."""
    with pytest.raises(PolicyInvalid, match=says):
        load(tmp_path, trust_rules=[{**GITHUB, "claims": claims}])


def test_github_elsewhere_is_known_by_its_claims(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid, match="`repository_owner_id`"):
        load(tmp_path, trust_rules=[{**GITHUB, "issuer": "https://ghe.example/_services/token",
                                     "claims": {"repository_id": "1", "environment": "prod"}}])  # fmt: skip


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "system:serviceaccount:search:reindex"},
        {"sub": "system:serviceaccount:search:reindex", "kubernetes.io": {"namespace": "search"}},
        {"kubernetes.io": {"serviceaccount": {"uid": "1b0f"}}},
        {"sub": "system:serviceaccount:a:b", "kubernetes.io": {"serviceaccount": {"name": "b"}}},
    ],
)
def test_a_rule_for_kubernetes_on_names_alone_is_refused(tmp_path: Path, claims: dict[str, Any]) -> None:
    with pytest.raises(PolicyInvalid, match="uid"):
        load(tmp_path, trust_rules=[{**KUBERNETES, "claims": claims}])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"claims": {}}, "claims"),
        ({"claims": {"ref": "main"}}, "anybody with a token of that issuer fits"),
        ({"claims": {"project_path": "a/b", "sub": "x"}}, "`project_id`"),
        ({"claims": {"sub": ["x"]}}, "claims"),
        ({"claims": {"sub": 1.5}}, "claims"),
        ({"ttl_s": 901}, "ttl_s"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["*"]}, r"scope `\*`"),
        ({"scopes": ["sumbit"]}, "scope `sumbit`"),
        ({"groups": ["trainerz"]}, "group `trainerz`"),
        ({"business_unit": "retial"}, "unit `retial`"),
        ({"kind": "user"}, "kind"),
        ({"kind": "ci"}, "single_use"),
        ({"id": "Search Reindex"}, "id"),
        ({"issuer": "http://oidc.example"}, "https"),
        ({"issuer": "https://u:p@oidc.example"}, "credentials"),
        ({"audiense": "x"}, "audiense"),
    ],
)
def test_a_mistake_in_a_trust_rule_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyInvalid, match=says):
        load(tmp_path, trust_rules=[{**KUBERNETES, **change}])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"typ": "JWT"}, "an ID token must not pass"),
        ({"typ": "JWT", "login": {"client_id": "urn:x"}}, "an ID token must not pass"),
        ({"business_unit": "Mars"}, "unit `Mars`"),
        ({"business_unit": {"claim": "d", "names": {"Shop": "Mars"}}}, "unit `Mars`"),
        ({"groups": {"names": {"7f": "trainerz"}}}, "group `trainerz`"),
        ({"issuer": "https://login.example?x=1"}, "query"),
        ({"name": "corp:x"}, "name"),
        ({"audience": ""}, "audience"),
    ],
)
def test_a_mistake_in_an_issuer_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyInvalid, match=says):
        load(tmp_path, issuers=[{**ISSUER, **change}])


def test_nothing_stands_twice(tmp_path: Path) -> None:
    for content in (
        {"issuers": [ISSUER, {**ISSUER, "issuer": "https://other.example"}]},
        {"issuers": [ISSUER, {**ISSUER, "name": "other"}]},
        {"trust_rules": [GITHUB, {**KUBERNETES, "id": GITHUB["id"]}]},
    ):
        with pytest.raises(PolicyInvalid, match="stands twice"):
            load(tmp_path, **content)


@pytest.mark.parametrize("text", ["", "[]", "issuers: {", "issuers: 3"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "identity.yaml"
    file.write_text(text)

    with pytest.raises(PolicyInvalid, match=r"identity\.yaml"):
        identity.load(file, DIRECTORY)


# --- which tokens fit -------------------------------------------------------------------------------------------------

RULE = TrustRule.model_validate(KUBERNETES)
FITTING = {
    "sub": "system:serviceaccount:search:reindex",
    "kubernetes.io": {
        "namespace": "search",
        "serviceaccount": {"name": "reindex", "uid": "1b0f6a9e-52a5-4a53-9d0c-6f2b7c1f4a55"},
        "pod": {"name": "reindex-1", "uid": "aa-bb"},
    },
}


def test_a_token_that_says_more_still_fits() -> None:
    assert RULE.first_mismatch(FITTING) is None


def test_a_new_account_of_the_same_name_does_not_fit() -> None:
    claims = copy.deepcopy(FITTING)
    claims["kubernetes.io"]["serviceaccount"]["uid"] = "another"  # type: ignore[index]

    assert RULE.first_mismatch(claims) == "kubernetes.io.serviceaccount.uid"


@pytest.mark.parametrize(("wanted", "said"), [(1, True), (True, 1), ("1", 1), (1, "1"), ("x", ["x"]), ("x", None)])
def test_a_claim_of_another_type_does_not_fit(wanted: Any, said: Any) -> None:
    rule = TrustRule.model_validate({**KUBERNETES, "claims": {"sub": "s", "extra": wanted}, "kind": "workload"})

    assert rule.first_mismatch({"sub": "s", "extra": said}) == "extra"
    assert rule.first_mismatch({"sub": "s", "extra": wanted}) is None


leaves = st.none() | st.booleans() | st.integers() | st.text()
json_values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(json_values, st.sampled_from(["sub", "kubernetes.io"]))
def test_whatever_a_claim_holds_a_rule_never_breaks_and_never_gives_in(value: Any, claim: str) -> None:
    claims = {**FITTING, claim: value}

    assert (RULE.first_mismatch(claims) is None) == (value == FITTING[claim])


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_subjects_are_two_people(one: str, other: str) -> None:
    assert (safe_subject(one) == safe_subject(other)) == (one == other)
    assert ":" not in safe_subject(one)
