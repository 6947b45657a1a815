"""The books of the policy: revisions kept as rows, published by compare-and-swap, followed by every process."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Registry
from revised import an_exception, publish, with_rule
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from enforcer.policy.quotas import Quota
from enforcer.policy.revision import Policy
from enforcer.policy.rules import PolicyInvalid
from enforcer.problems import PolicyMoved, PolicyUnchanged, UnknownPolicy
from registry import db, policies
from registry.settings import Settings


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    made = Registry(Settings(state_dir=tmp_path / "state", database_url=url))
    yield made
    made.books.engine.dispose()


def test_a_revision_is_read_back_as_it_was_kept(registry: Registry) -> None:
    policy = with_rule(
        registry.policy,
        when={"max_gpus": 4, "hours": "08:00-20:00", "weekdays": ["mon"], "zone": "Asia/Shanghai"},
        level={"admission": "warn"},
        overridable=True,
    )

    publish(registry, policy)

    assert registry.policy == policy


def test_a_revision_that_differs_by_an_exception_copies_no_rules(registry: Registry) -> None:
    count = text("select count(*) from policy_rule")
    with registry.books.engine.connect() as connection:
        before = connection.execute(count).scalar()

    publish(registry, registry.policy.with_exceptions([an_exception()]))

    with registry.books.engine.connect() as connection:
        assert connection.execute(count).scalar() == before


def test_what_is_read_beside_a_known_revision_is_what_is_read_anew(registry: Registry) -> None:
    """Rules are taken over only where everything but the exceptions is the same."""
    known = registry.policy
    quota = Quota(id="small", unit="retail", concurrent=1, reason="a pilot")
    owners = {**known.owners, known.rules[0].id: "security"}
    others = [
        known.with_exceptions([an_exception()]),
        with_rule(known),
        Policy.of(known.model + "\n# a word\n", known.directory, known.rules, owners=known.owners),
        Policy.of(known.model, known.directory, known.rules, owners=known.owners, quotas=[quota]),
        Policy.of(known.model, known.directory, known.rules, owners=owners),
    ]
    with db.writing(registry.books.engine) as session:
        for other in others:
            policies.keep(session, other)

    with db.reading(registry.books.engine) as session:
        for other in others:
            assert policies.load(session, other.revision, known) == policies.load(session, other.revision) == other
    assert len({other.revision for other in others}) == len(others)


def test_whoever_saw_an_older_head_does_not_publish(registry: Registry) -> None:
    seen = publish(registry, with_rule(registry.policy))
    publish(registry, with_rule(registry.policy, "search-is-frozen", unit="search"))

    with pytest.raises(PolicyMoved, match="make yours from it"):
        publish(registry, with_rule(registry.policy, "finance-is-frozen", unit="finance"), seen=seen)

    assert len(registry.events("policy.published")) == 3


def test_of_two_publishers_at_once_one_wins(registry: Registry) -> None:
    policy = registry.policy
    candidates = [with_rule(policy, f"freeze-{number}") for number in range(6)]
    with db.reading(registry.books.engine) as session:
        seen = policies.seen(session)
    start = threading.Barrier(len(candidates))

    def race(candidate: Policy) -> str:
        start.wait()
        try:
            publish(registry, candidate, seen=seen)
        except PolicyMoved:
            return "moved"
        return candidate.revision

    with ThreadPoolExecutor(len(candidates)) as pool:
        outcomes = list(pool.map(race, candidates))

    assert outcomes.count("moved") == len(candidates) - 1
    assert registry.policy.revision in outcomes


def test_what_is_live_is_not_published_again(registry: Registry) -> None:
    with pytest.raises(PolicyUnchanged):
        publish(registry, registry.policy)


def test_a_policy_that_does_not_compile_is_not_published(registry: Registry) -> None:
    policy = registry.policy
    candidate = Policy.of("[matchers]", policy.directory, policy.rules, owners=policy.owners)

    with pytest.raises(PolicyInvalid):
        publish(registry, candidate)

    assert registry.policy == policy


def test_the_database_itself_refuses_self_approval_a_misspelt_effect_and_every_change(registry: Registry) -> None:
    publish(registry, with_rule(registry.policy))
    with pytest.raises(DBAPIError, match=r"(?i)check|nobody_approves"):
        publish(registry, with_rule(registry.policy, "another"), approver="user:li")
    with pytest.raises(DBAPIError, match=r"(?i)check|proposal_is_approved"):
        publish(registry, with_rule(registry.policy, "another"), approver=None)

    for statement, why in (
        ("update policy_rule set effect = 'DENY'", "never changed"),
        ("delete from policy_rule", "never changed"),
        ("update policy_revision set model = ''", "never changed"),
        ("update policy_publication set approver = 'user:li'", "never changed"),
        (
            "insert into policy_rule select rule_set, ordinal + 10000, rule_id, owner, 'DENY', who, may, tag, unit, "
            "target, conditions, level, overridable, reason from policy_rule",
            "(?i)check",
        ),
    ):
        with pytest.raises(DBAPIError, match=why), registry.books.engine.begin() as connection:
            connection.execute(text(statement))


def test_rows_that_do_not_say_what_their_digest_says_are_no_policy(registry: Registry) -> None:
    revision = registry.policy.revision
    with registry.books.engine.begin() as connection:
        connection.execute(
            text(
                "insert into policy_revision select 'sha256:other', model, directory, rule_set, "
                "exceptions, quotas, approvals, kept_at from policy_revision limit 1"
            )
        )

    with db.reading(registry.books.engine) as session:
        with pytest.raises(PolicyInvalid, match=f"rows of revision sha256:other say {revision}"):
            policies.load(session, "sha256:other")
        with pytest.raises(UnknownPolicy):
            policies.load(session, "sha256:none")
