"""When an exception counts, and whom a list of names means."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import worlds
from pydantic import ValidationError

from enforcer.policy.conditions import Context
from enforcer.policy.decision import Request
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.reference import Reference
from enforcer.policy.revision import Policy
from enforcer.policy.rules import Directory, Rule
from enforcer.policy.snapshot import Snapshot

GRANTED = datetime(2026, 11, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)


def exception(days: float = 30, **changes: Any) -> PolicyException:
    return PolicyException.model_validate(
        {
            "id": "a-pilot",
            "who": ["user:wang"],
            "may": ["submit"],
            "reason": "as agreed",
            "granted_at": GRANTED,
            "until": GRANTED + timedelta(days=days),
            "approved_by": ["user:li", "user:zhao"],
            **changes,
        }
    )


def test_it_is_live_from_its_grant_to_before_its_end() -> None:
    one = exception()

    moments = (GRANTED - TICK, GRANTED, one.until - TICK, one.until, one.until + TICK)

    assert [one.live(moment) for moment in moments] == [False, True, True, False, False]


def test_its_end_is_near_from_a_week_before() -> None:
    one = exception()
    week = one.until - timedelta(days=7)

    assert [one.expiring(at) for at in (week - TICK, week, one.until - TICK, one.until)] == [False, True, True, False]


def test_the_end_of_a_short_one_was_known_when_it_was_granted() -> None:
    assert not any(exception(7).expiring(GRANTED + timedelta(days=day)) for day in range(8))


@pytest.mark.parametrize(
    "changes",
    [
        {"until": GRANTED + timedelta(days=90) + TICK},
        {"until": GRANTED},
        {"until": GRANTED - TICK},
        {"kind": "override", "lifts": "x", "until": GRANTED + timedelta(days=1) + TICK},
        {"approved_by": ["user:li"]},
        {"approved_by": ["user:li", "user:li"]},
        {"approved_by": ["user:li", "user:wang"]},
        {"when": {"until": GRANTED + timedelta(days=2)}},
    ],
)
def test_what_is_no_exception_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        exception(**changes)


def test_who_is_meant_goes_up_through_the_groups_and_not_down() -> None:
    directory = Directory(
        units={"all": None},
        targets={"any": None},
        groups={"nlp": ["trainers"], "trainers": ["staff"], "staff": [], "user:li": ["staff"]},
    )
    principals = ("user:wang", "group:nlp")

    meant = {
        who: directory.covers([who], principals) for who in ("user:wang", "group:nlp", "group:trainers", "group:staff")
    }

    assert meant == dict.fromkeys(meant, True)
    assert not directory.covers(["group:nlp"], ("user:wang", "group:trainers"))
    assert not directory.covers(["user:zhao"], principals)
    assert not directory.covers([], principals)
    assert not directory.covers(["group:staff"], ("user:li",))  # a group that is called like a user is another thing


@pytest.mark.parametrize("lifts", [None, "a-freeze"])
@pytest.mark.parametrize("asking", ["user:boss", "user:wang"])
def test_it_counts_for_the_group_it_is_for_but_not_for_those_who_approved_it(lifts: str | None, asking: str) -> None:
    """Neither while the gate remembers an answer, nor by the reference."""
    ruled = ("group:one",) if lifts else ("group:both",)  # no rule speaks of who gets a grant
    rules = [
        Rule(id="a-freeze", effect="deny", who=ruled, may=("submit",), reason="frozen"),
        Rule(id="trains", effect="allow", who=ruled, may=("submit",), reason="their work"),
    ]
    agreed = exception(who=["group:two"], approved_by=["user:boss", "user:zhao"], lifts=lifts)
    owners = {"a-freeze": "one", "trains": "one"}
    policy = Policy.of(worlds.MODEL, worlds.DIRECTORY, rules, owners=owners, exceptions=[agreed])
    gate, reference = Snapshot(policy, worlds.TAGS), Reference(policy, worlds.TAGS)

    def request(who: str) -> Request:
        return Request((who, "group:one"), "submit", Context(now=GRANTED), "a", "shop-x", "local")

    others = gate.decide(request("user:stranger"))
    decision = gate.decide(request(asking))

    assert others.allowed
    assert decision.allowed == (asking == "user:wang")
    assert reference.ask(request(asking)) == (decision.allowed, decision.rule)
