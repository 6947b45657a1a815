"""Exceptions are granted, overridden and told of at once, on either database: none is lost, and none is told twice."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from offices import RULES, Office
from policy_folders import changed_policy

from registry import db, policies
from registry.settings import Settings


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def office(request: pytest.FixtureRequest, tmp_path: Path) -> Office:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    policies_dir = changed_policy(tmp_path, rules=RULES)
    return Office(Settings(state_dir=tmp_path / "state", database_url=url, policies_dir=policies_dir))


def test_whatever_is_granted_at_once_is_in_the_policy(office: Office) -> None:
    wang, boss = office.as_("wang", "trainers"), office.as_("boss", "project-managers")
    first, second = office.admin("li"), office.admin("zhao")
    proposals = [office.propose_exception(wang, id=f"pilot-{n}").json() for n in range(6)]
    for proposal in proposals:
        assert office.review(first, proposal).status_code == 201

    with ThreadPoolExecutor(12) as pool:
        grants = [pool.submit(office.review, second, proposal) for proposal in proposals]
        overrides = [pool.submit(office.override, boss) for _ in range(4)]
        telling = [pool.submit(office.tell) for _ in range(4)]
    statuses = [reply.result().status_code for reply in (*grants, *overrides)]
    assert [one.result() for one in telling] == [None] * 4

    assert statuses == [201] * 10
    with office.books.reading() as session:
        assert len(policies.live(session).exceptions) == 10
    assert office.listed()["counts"] == {"live": 10, "expiring": 0, "ended": 0, "revoked": 0}


def test_many_who_tell_of_an_end_tell_it_once(office: Office) -> None:
    office.grant_exception()
    real = db.utc_now

    with patch.object(db, "utc_now", lambda: real() + timedelta(days=11)), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: office.tell(), range(8)))

    assert len(office.events("exception.ended")) == 1


def test_of_many_who_revoke_one_does(office: Office) -> None:
    office.grant_exception()
    admins = [office.admin(name) for name in ("li", "zhao", "chen", "wu")]

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda admin: office.revoke(admin, "retail-tries-dpo").status_code, admins))

    assert sorted(statuses) == [200, 409, 409, 409]
    assert len(office.events("exception.revoked")) == 1


def test_nothing_is_told_while_somebody_changes_the_policy(office: Office) -> None:
    """What they are about to grant would look as if it had gone."""
    office.grant_exception()
    real = db.utc_now

    with patch.object(db, "utc_now", lambda: real() + timedelta(days=11)), ThreadPoolExecutor(1) as pool:
        with office.books.writing() as session:
            db.queue_for(session, "policy")
            session.connection()
            telling = pool.submit(office.tell)
            with pytest.raises(TimeoutError):
                telling.result(timeout=0.5)
        telling.result(timeout=10)

    assert len(office.events("exception.ended")) == 1
