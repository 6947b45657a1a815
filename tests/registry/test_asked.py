"""What the gate was asked is recorded so that it can be asked again, exactly."""

from datetime import timedelta

from conftest import Registry

from enforcer.policy.conditions import Context
from enforcer.policy.decision import Request
from registry import audit, db
from registry.identity import Actor

WANG = Actor("user:wang", ("trainers",), "retail")


def question(registry: Registry) -> Request:
    with registry.books.reading() as session:
        gate = registry.books.gate(session)
    context = Context(
        now=db.utc_now() - timedelta(days=3),
        gpus=2,
        model="Qwen/Qwen3-0.6B",
        unit="retail",
        own_units=gate.units_below(WANG.business_unit),
        change_ticket="CHG-7",
        point="trainer",
    )
    return Request(WANG.principals, "submit", context, "sequence-classification", "retail", "k8s/t4")


def test_the_question_of_an_event_is_the_one_that_was_asked(registry: Registry) -> None:
    asked = question(registry)
    with registry.books.writing() as session:
        gate = registry.books.gate(session)
        decision = gate.decide(asked)
        event = audit.record(session, "ticket.issued", WANG, detail={"asked": audit.asked(decision, WANG)})
        event_id = event.id

    event = next(event for event in registry.events("ticket.issued") if event.id == event_id)

    assert audit.request_of(event, gate) == asked
    assert gate.decide(asked) == decision
    assert event.detail["asked"]["matched"] == [["trainers-train-classifiers", "allow", "enforce", None]]


def test_an_event_without_a_question_has_none_to_ask_again(registry: Registry) -> None:
    with registry.books.writing() as session:
        event = audit.record(session, "tag.created", WANG)

        assert audit.request_of(event, registry.books.gate(session)) is None
