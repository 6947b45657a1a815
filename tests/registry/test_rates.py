"""Budgets: so many at once, then so many a minute, for each principal alone; counted in bounded memory."""

import time

import pytest
from conftest import Registry, ask, redeem, ticket_request
from fastapi.testclient import TestClient
from hypothesis import given, strategies as st

from enforcer.keys import SigningKey
from enforcer.problems import RateLimited
from registry.rates import Rates
from registry.settings import Settings


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(rates: Rates, principal: str = "user:wang", tries: int = 1_000) -> int:
    """How many of these tries were let through."""
    through = 0
    for _ in range(tries):
        try:
            rates.take(principal, "tickets")
            through += 1
        except RateLimited:
            pass
    return through


def test_a_minutes_worth_may_come_at_once_and_refills_evenly(clock: Clock) -> None:
    rates = Rates({"tickets": 30}, clock=clock)

    at_once = taken(rates)
    clock.now += 2.0  # 30 a minute is one in two seconds
    after_two_seconds = taken(rates)
    clock.now += 600.0
    rested = taken(rates)

    assert (at_once, after_two_seconds, rested) == (30, 1, 30)


def test_the_refusal_says_which_budget_and_when_to_return(clock: Clock) -> None:
    rates = Rates({"tickets": 30}, clock=clock)
    taken(rates, tries=30)

    with pytest.raises(RateLimited) as refused:
        rates.take("user:wang", "tickets")

    assert refused.value.facts == {"budget": "tickets", "retry_after_s": 2}
    clock.now += refused.value.facts["retry_after_s"]
    assert taken(rates, tries=1) == 1


@given(st.lists(st.floats(0, 30), max_size=200), st.integers(1, 50))
def test_no_minute_lets_through_more_than_two_budgets_and_no_hour_more_than_its_share(
    pauses: list[float], rate: int
) -> None:
    """A full bucket (rate) and what refills within the span (rate for each minute) is the most there can be."""
    clock = Clock()
    rates, begun, through = Rates({"tickets": rate}, clock=clock), clock.now, 0

    for pause in pauses:
        clock.now += pause
        through += taken(rates, tries=3)

    assert through <= rate + rate * (clock.now - begun) / 60 + 1e-6


def test_one_principals_storm_is_nobody_elses(clock: Clock) -> None:
    rates = Rates({"tickets": 10}, clock=clock)

    assert taken(rates, "user:wang") == 10
    assert taken(rates, "user:li") == 10


def test_memory_is_bounded_and_the_least_recent_makes_room(clock: Clock) -> None:
    rates = Rates({"tickets": 1, "failures": 1}, clock=clock, most=100)
    for number in range(1_000):
        assert taken(rates, f"user:{number}", tries=2) == 1
        rates.remember("10.0.0.1", f"Bearer {number}")

    assert [len(rates._full_at), len(rates._told), len(rates._good)] == [100, 100, 100]
    assert taken(rates, "user:999", tries=1) == 0, "the latest are still counted"


def test_zero_is_no_limit(clock: Clock) -> None:
    assert taken(Rates({"tickets": 0}, clock=clock)) == 1_000


def test_a_request_costs_microseconds() -> None:
    """2 us on an idle machine; the bound leaves a busy one room, and still tells a dictionary from a database."""
    rates = Rates({"tickets": 10**9})
    begun = time.process_time()
    for number in range(20_000):
        rates.take(f"user:{number % 500}", "tickets")

    assert (time.process_time() - begun) / 20_000 < 20e-6


# --- in the service ---------------------------------------------------------------------------------------------------


@pytest.fixture
def strict(tmp_path: object) -> Registry:
    """Small budgets that do not refill within a test."""
    small = {"reads": 3, "tickets": 2, "exports": 1, "public": 2, "failures": 3, "writes": 2}
    limits = {f"{budget}_per_minute": count for budget, count in small.items()}
    return Registry(Settings(state_dir=f"{tmp_path}/state", **limits))  # type: ignore[arg-type]


def statuses(client: TestClient, path: str, times: int) -> list[int]:
    return [client.get(path).status_code for _ in range(times)]


def test_ticket_requests_exports_and_reads_have_budgets_of_their_own(strict: Registry) -> None:
    wang = strict.as_("wang", "trainers")
    auditor = strict.as_("qiao", "auditors")

    tickets = [ask(wang, ticket_request()).status_code for _ in range(3)]

    assert tickets == [201, 201, 429]
    assert statuses(wang, "/v1/tags", 4) == [200, 200, 200, 429]
    assert statuses(auditor, "/v1/audit:export?format=csv", 2) == [200, 429]
    assert statuses(auditor, "/v1/audit", 1) == [200]


def test_a_refused_request_says_when_to_return_and_is_on_record_once(strict: Registry) -> None:
    wang = strict.as_("wang", "trainers")

    replies = [ask(wang, ticket_request()) for _ in range(12)]

    problem = replies[-1].json()
    assert (replies[-1].status_code, problem["code"], problem["budget"]) == (429, "rate-limited", "tickets")
    assert 1 <= int(replies[-1].headers["retry-after"]) == problem["retry_after_s"] <= 60
    (event,) = strict.events("rate-limit.refused")
    assert (event.actor, event.business_unit, event.detail["budget"]) == ("user:wang", "retail", "tickets")
    assert replies[2].json()["decision_id"] == event.id
    assert strict.books.rates.refused == {"tickets": 10}
    assert strict.events("submit.refused") == []


def test_the_next_record_says_how_many_were_left_out(strict: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(strict.books.rates, "_clock", clock)
    wang = strict.as_("wang", "trainers")
    [ask(wang, ticket_request()) for _ in range(7)]
    clock.now += 61

    [ask(wang, ticket_request()) for _ in range(3)]

    assert [event.detail["unrecorded"] for event in strict.events("rate-limit.refused")] == [0, 4]
    counted = strict.books.counts.registry.get_sample_value(
        "tagwarden_refusals_total",
        {"action": "rate-limit", "code": "rate-limited", "task_type": "_other", "business_unit": "_other"},
    )
    assert counted == 6


def test_guessing_is_slow_and_shuts_out_nobody_who_was_in(strict: Registry) -> None:
    """Three failures are free; then even a good token that was never seen from here must wait."""
    inside, late = strict.as_("wang", "trainers"), strict.as_("li", "trainers")
    guesser = strict.anonymous(headers={"Authorization": "Bearer twp_000000000000_" + "a" * 43 + "_00000000"})
    assert statuses(inside, "/v1/tags", 1) == [200]

    guesses = statuses(guesser, "/v1/tags", 6)

    assert guesses == [401, 401, 401, 429, 429, 429]
    assert statuses(inside, "/v1/tags", 1) == [200]
    assert statuses(late, "/v1/tags", 1) == [429]
    refused = [event for event in strict.events() if event.outcome == "refused"]
    assert refused == [], "nobody we know: the service's log, not the audit log"


def test_who_brings_no_credential_guesses_none(strict: Registry, caplog: pytest.LogCaptureFixture) -> None:
    guesser = strict.anonymous(headers={"Authorization": "Bearer guess"})

    assert statuses(strict.anonymous(), "/v1/tags", 10) == [401] * 10
    assert [record for record in caplog.records if "unauthenticated" in record.getMessage()] == []
    assert statuses(guesser, "/v1/tags", 5) == [401, 401, 401, 429, 429]
    told = [record.getMessage() for record in caplog.records if record.name == "registry.app"]
    assert told == [*["refused GET /v1/tags from testclient: unauthenticated"] * 3,
                    "refused GET /v1/tags from testclient: rate-limited"]  # fmt: skip


def test_a_bad_proof_and_a_bad_lease_count_as_guesses(strict: Registry) -> None:
    key, thief = SigningKey.generate(), SigningKey.generate()
    grant = ask(strict.as_("wang", "trainers"), ticket_request(jkt=key.thumbprint)).json()
    lease = strict.anonymous(headers={"Authorization": "Bearer guess"})

    first = redeem(strict, grant, thief).status_code
    beats = [lease.post(f"/v1/runs/{grant['run_id']}/heartbeats", json={"step": 1, "total_steps": 2}) for _ in range(3)]

    assert (first, [beat.status_code for beat in beats]) == (401, [401, 401, 429])


def test_a_run_beats_on_its_own_budget(strict: Registry) -> None:
    """The owner's changes are used up by one run's heartbeats otherwise."""
    trainer, beat = strict.as_("wang", "trainers"), {"step": 1, "total_steps": 2}
    grants = []
    for _ in range(2):
        key = SigningKey.generate()
        grant = ask(trainer, ticket_request(jkt=key.thumbprint)).json()
        grants.append({**grant, **redeem(strict, grant, key).json()})

    def beats(grant: dict[str, str], times: int) -> list[int]:
        client = strict.anonymous(headers={"Authorization": f"Bearer {grant['lease_token']}"})
        return [client.post(f"/v1/runs/{grant['run_id']}/heartbeats", json=beat).status_code for _ in range(times)]

    assert beats(grants[0], 2) == [200, 429]  # redeeming was its first change
    assert beats(grants[1], 1) == [200]


def test_public_keys_are_counted_by_address_and_probes_are_not(strict: Registry) -> None:
    stranger = strict.anonymous()

    assert statuses(stranger, "/.well-known/jwks.json", 3) == [200, 200, 429]
    assert statuses(stranger, "/healthz", 20) == [200] * 20
    assert statuses(stranger, "/readyz", 5) == [200] * 5


def test_an_ipv6_customer_is_one_address() -> None:
    from registry.limits import address

    assert address({"client": ("2001:db8:1:2:aaaa::1", 1)}) == address({"client": ("2001:db8:1:2:bbbb::9", 2)})
    assert address({"client": ("2001:db8:1:3::1", 1)}) != address({"client": ("2001:db8:1:2::1", 1)})
    assert address({"client": ("192.0.2.7", 1)}) == "192.0.2.7"


def test_of_two_credentials_the_one_that_is_tried_is_the_one_that_counts(strict: Registry) -> None:
    good = strict.as_("wang", "trainers")
    assert good.get("/v1/me").status_code == 200
    known = good.headers["authorization"]
    guesses = [("Authorization", "Bearer twp_guess"), ("Authorization", known)]

    said = [strict.anonymous().get("/v1/me", headers=guesses).status_code for _ in range(40)]

    assert said[-1] == 429
