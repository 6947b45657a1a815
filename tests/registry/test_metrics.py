"""What Prometheus gets to see: counted by the process, read from the books, and nothing that a caller could grow."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from conftest import Registry, ask, redeem, ticket_request
from fastapi.testclient import TestClient
from offices import OfficeInTime, an_office
from prometheus_client.parser import text_string_to_metric_families
from revised import with_rule
from sqlmodel import col, select, update
from stewards import KNOWN, World, new_tag, new_version
from webhook_house import House

from enforcer.keys import SigningKey
from registry import db, policies, runs, server, webhook_delivery
from registry.identity import Actor
from registry.settings import Settings
from registry.tables import Run, Tag

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[OfficeInTime]:
    with an_office(tmp_path) as made:
        yield made


def scraper(registry: Registry) -> TestClient:
    return registry.as_("service:prometheus", "monitoring", unit="all")


def scrape(registry: Registry) -> Series:
    answer = scraper(registry).get("/metrics")
    assert answer.status_code == 200, answer.text
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.documentation for family in families), "promtool asks for a help text"
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def test_tickets_and_refusals_are_counted_by_what_the_registry_knows(registry: Registry) -> None:
    wang, there = registry.as_("wang", "trainers"), {"task_type": "sequence-classification", "business_unit": "retail"}
    for _ in range(3):
        assert ask(wang, ticket_request()).status_code == 201
    key = SigningKey.generate()
    granted = ask(wang, ticket_request(jkt=key.thumbprint)).json()
    assert redeem(registry, granted, key).status_code == 200
    assert ask(wang, ticket_request("dpo", arguments={})).status_code == 403

    series = scrape(registry)

    assert value(series, "tagwarden_tickets_issued_total", **there) == 4
    refused = {"action": "submit", "code": "not-permitted", "task_type": "dpo", "business_unit": "retail"}
    assert value(series, "tagwarden_refusals_total", **refused) == 1
    running = {"task_type": "sequence-classification", "state": "running"}
    assert value(series, "tagwarden_runs", **running) == 1
    assert value(series, "tagwarden_log_pending_events") > 0
    assert value(series, "tagwarden_policy_unusable") == 0


def test_made_up_names_make_no_series(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")

    def try_it(number: int) -> None:
        assert ask(wang, ticket_request(f"made-up-{number}")).status_code == 404
        assert ask(wang, ticket_request(business_unit=f"unit-{number}")).status_code in {403, 422}

    try_it(0)
    before = scrape(registry)
    for number in range(1, 30):
        try_it(number)
    after = scrape(registry)

    assert before.keys() == after.keys()
    assert "made-up" not in scraper(registry).get("/metrics").text
    unknown = [labels for (name, labels) in after if name == "tagwarden_refusals_total"]
    assert all(("task_type", "_other") in labels or ("business_unit", "_other") in labels for labels in unknown)


def test_the_sampled_check_and_the_shadow_show(tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state", policy_check_every=1))
    candidate = with_rule(registry.policy, tag="sequence-classification")
    with registry.books.writing() as session:
        policies.watch(session, candidate, Actor("system:operator", (), "all"))
    assert ask(registry.as_("wang", "trainers"), ticket_request()).status_code == 201
    registry.books.watch.wait()
    server.follow_policy(registry.books)

    series = scrape(registry)

    assert value(series, "tagwarden_policy_checks_total", result="same") >= 1
    assert value(series, "tagwarden_policy_checks_total", result="differs") == 0
    other = {"task_type": "sequence-classification", "outcome": "allow->deny"}
    assert value(series, "tagwarden_policy_shadow_decisions", **other) == 1


def test_an_exception_that_ends_within_a_week_shows_before_it_does(office: OfficeInTime) -> None:
    office.grant_exception()
    fresh = scrape(office)
    office.ahead = timedelta(days=4)
    office.tell()

    near = scrape(office)

    count, end = "tagwarden_policy_exceptions", "tagwarden_policy_exception_next_end_timestamp_seconds"
    assert [value(fresh, count, state=state) for state in ("live", "expiring")] == [1, 0]
    assert [value(near, count, state=state) for state in ("live", "expiring")] == [0, 1]
    assert value(near, end) == value(fresh, end)


def test_a_run_counts_while_it_may_still_go_on(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    wang, key = registry.as_("wang", "trainers"), SigningKey.generate()
    granted = [ask(wang, ticket_request(jkt=key.thumbprint)).json() for _ in range(2)]
    assert redeem(registry, granted[0], key).status_code == 200
    of_state = {state: {"task_type": "sequence-classification", "state": state} for state in ("permitted", "lost")}
    assert value(scrape(registry), "tagwarden_runs", **of_state["permitted"]) == 1
    now = db.utc_now()

    monkeypatch.setattr(db, "utc_now", lambda: now + timedelta(days=1))
    server.mark_lost(registry.books)
    next_day = scrape(registry)
    monkeypatch.setattr(db, "utc_now", lambda: now + timedelta(days=8))
    next_week = scrape(registry)

    assert value(next_day, "tagwarden_runs", **of_state["lost"]) == 1
    assert [labels for name, labels in next_day if name == "tagwarden_runs"] == [frozenset(of_state["lost"].items())]
    assert not [labels for name, labels in next_week if name == "tagwarden_runs"]


def test_runs_that_ended_cost_a_scrape_nothing(registry: Registry) -> None:
    query = select(Run.id).where(*runs.in_flight(db.utc_now()))
    with registry.books.reading() as session:
        sql = query.compile(session.connection(), compile_kwargs={"literal_binds": True})
        plan = session.connection().exec_driver_sql(f"explain query plan {sql}").all()

    assert any("runs_alive" in step.detail for step in plan), plan


@pytest.mark.parametrize("version", ["abc", "1.0.0.0.0.x", "9.9.9", "1.0.0\x7f"])
def test_a_format_that_there_is_not_is_the_plain_one(registry: Registry, version: str) -> None:
    answer = scraper(registry).get("/metrics", headers={"Accept": f"application/openmetrics-text; version={version}"})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_only_who_may_reads_them(registry: Registry) -> None:
    assert registry.anonymous().get("/metrics").status_code == 401
    assert registry.as_("wang", "trainers").get("/metrics").status_code == 403
    by_address = scraper(registry).get("/metrics", headers={"Host": "10.0.0.7:8710"})
    assert by_address.status_code == 200


def test_a_scraper_that_asks_for_openmetrics_gets_it(registry: Registry) -> None:
    answer = scraper(registry).get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_webhooks_that_fail_fall_behind_or_refuse_are_told(registry: Registry) -> None:
    house = House(registry, registry.as_("ops", "platform-admins", unit="all"))
    house.hook(kinds=["test.down"])
    house.hook(kinds=["test.poison"])
    house.happen("test.poison")
    house.receiver.script = [422] * webhook_delivery.PARK_AFTER
    for _ in range(webhook_delivery.PARK_AFTER):
        house.turn(minutes=16)
    house.receiver.down = True
    house.happen("test.down", "test.other")
    house.turn()

    series = scrape(registry)

    assert value(series, "tagwarden_webhooks_failing") == 1
    assert value(series, "tagwarden_webhook_events_behind") == 2
    assert value(series, "tagwarden_webhook_deliveries_parked") == 1


def test_what_is_agreed_to_or_provisional_and_not_settled_is_told(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    try:
        world.registry.approve_tag(KNOWN)
        incident = {"incident": "INC-4711", "reason": "trainings fail everywhere"}
        broken = world.propose("lee", new_version(1), break_glass=incident).json()
        begins = (db.utc_now() + timedelta(hours=1)).isoformat()
        later = world.propose("ann", new_tag("apple-sorting"), not_before=begins).json()
        for steward in ("sue", "sid"):
            assert world.review(steward, world.get(later["id"])).status_code == 201
        world.ahead = timedelta(hours=2)

        during = scrape(world.registry)
        with world.registry.books.writing() as session:  # somebody changed what it changed, past all that forbids it
            session.exec(update(Tag).where(col(Tag.name) == KNOWN).values(version=1))
        world.ahead = timedelta(hours=73)
        world.tend()
        after = scrape(world.registry)
    finally:
        world.close()

    assert value(during, "tagwarden_proposals_approved", state="all") == 1
    assert value(during, "tagwarden_proposals_approved", state="due") == 1
    assert value(after, "tagwarden_proposals_approved", state="all") == 0
    undone = "tagwarden_proposal_next_undone_timestamp_seconds"
    assert value(during, undone) == datetime.fromisoformat(broken["provisional_until"]).timestamp()
    states = ("in-effect", "not-reverted")
    assert [value(during, "tagwarden_proposals_provisional", state=state) for state in states] == [1, 0]
    assert [value(after, "tagwarden_proposals_provisional", state=state) for state in states] == [0, 1]
    assert not [name for name, _ in after if name == undone]


def test_every_alert_watches_something_that_exists(office: OfficeInTime) -> None:
    """A metric that is spelled otherwise than in the exposition would never fire."""
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    watched = {name for rule in rules for name in re.findall(r"tagwarden_\w+", rule["expr"])}
    known = set(re.findall(r"^# TYPE (\w+)", scraper(office).get("/metrics").text, re.MULTILINE))

    assert len(watched) > 8
    # The first only where the check is on, the second only while something is in effect provisionally.
    only_then = {"tagwarden_policy_checks_total", "tagwarden_proposal_next_undone_timestamp_seconds"}
    assert watched - known - only_then == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian package `prometheus`)")
def test_promtool_has_nothing_to_say(registry: Registry) -> None:
    text = scraper(registry).get("/metrics").text
    metrics = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
    rules = subprocess.run(["promtool", "test", "rules", "alerts.test.yml"], cwd=DEPLOY, capture_output=True)

    assert (metrics.returncode, metrics.stderr) == (0, "")
    assert rules.returncode == 0, rules.stdout
