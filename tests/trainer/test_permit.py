"""What a registry, a network or a clock that cannot be trusted does to a permit: nothing runs, and it is told why."""

import json
import time
from collections.abc import Callable
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tiny import LABELS, labelled_rows

from enforcer.keys import KeySet, SigningKey
from enforcer.problems import NotConfigured, RegistryUnreachable, TicketInvalid
from registry import db
from trainer import contract
from trainer.arguments import TrainingArguments
from trainer.client import Registry
from trainer.contract import ApprovalPending
from trainer.run import handover, permit
from trainer.settings import Settings

Middle = Callable[[httpx2.Request, dict[str, Any]], None]


LEFT_OUT = ("content-length", "host")  # the app is always called by its own name


@pytest.fixture
def ask(registry: Any, encoder: Path, tmp_path: Path) -> Any:
    """Ask the real app for a permit, through a middle that may change requests and answers."""

    def obtain(
        change_request: Middle | None = None,
        change_answer: Middle | None = None,
        clock_s: float = 0,
        task_type: str = "sequence-classification",
        **known: Any,
    ) -> permit.Permit:
        client = registry.anonymous()

        def through(request: httpx2.Request) -> httpx2.Response:
            body = json.loads(request.content) if request.content else None
            if change_request and body:
                change_request(request, body)
            headers = {name: value for name, value in request.headers.items() if name not in LEFT_OUT}
            answer = client.request(
                request.method, request.url.raw_path.decode(), headers=headers, content=body and json.dumps(body)
            )
            told = answer.json()
            if change_answer:
                change_answer(request, told)
            date = formatdate(time.time() + clock_s, usegmt=True)
            return httpx2.Response(answer.status_code, json=told, headers={"Date": date})

        settings = Settings(
            **{"server": registry.settings.issuer, "issuer": registry.settings.issuer,
               "token": registry.token("li", "retail-ds"), **known}
        )  # fmt: skip
        args = TrainingArguments(
            task_type=task_type, model_name_or_path=str(encoder), label_names=list(LABELS),
            max_length=32, max_steps=5, output_dir=tmp_path / "out",
        )  # fmt: skip
        with Registry(settings, transport=httpx2.MockTransport(through)) as asked:
            found, checked = contract.look(asked, args, labelled_rows(40, 1))
            return permit.obtain(asked, args, found, checked)

    return obtain


def tickets_only(change: Callable[[dict[str, Any]], object]) -> Middle:
    return lambda request, body: change(body) if request.url.path == "/v1/tickets" else None  # type: ignore[return-value]


def test_an_honest_answer_makes_a_permit(ask: Any) -> None:
    given = ask()

    ticket = given.verify()
    assert ticket.spec.arguments["max_steps"] == 5
    assert ticket.claims.cnf.jkt == given.key.thumbprint
    assert (given.folder.root / "permit.json").exists() is False, "the key is in memory until it is handed over"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda body: body["arguments"].update(max_steps=500),
            "argument `max_steps`: `5` was asked for, `500` was signed",
        ),
        (lambda body: body["arguments"].update(seed=1), "argument `seed`: `42` was asked for, `1` was signed"),
        (lambda body: body["inputs"]["model"].update(digest="sha256:" + "b" * 64), "inputs"),
        (lambda body: body["inputs"]["datasets"][0].update(rows=1), "inputs"),
        (lambda body: body.update(gpus=1), "GPUs: `0` was asked for, `1` was signed"),
        (lambda body: body.update(jkt="A" * 43), "key"),
    ],
)
def test_a_ticket_for_something_else_than_was_asked_is_refused(ask: Any, change: Any, what: str) -> None:
    with pytest.raises(TicketInvalid) as refused:
        ask(change_request=tickets_only(change))

    assert refused.value.facts["step"] == 12
    assert what in refused.value.detail


def test_a_ticket_for_another_machine_is_refused(ask: Any) -> None:
    with pytest.raises(TicketInvalid, match="it is for `urn:swift:exec:local:elsewhere`, this is"):
        ask(change_request=tickets_only(lambda body: body.update(audience="urn:swift:exec:local:elsewhere")))


def test_a_specification_that_was_not_signed_is_refused(ask: Any) -> None:
    def edit(answer: dict[str, Any]) -> None:
        answer["run_spec"] = answer["run_spec"].replace('"max_steps":5', '"max_steps":6')

    with pytest.raises(TicketInvalid) as refused:
        ask(change_answer=tickets_only(edit))

    assert refused.value.facts["step"] == 11


def test_a_key_set_of_somebody_else_is_refused(ask: Any) -> None:
    foreign = SigningKey.generate(dev=True).public_jwk()

    def swap(request: httpx2.Request, answer: dict[str, Any]) -> None:
        if request.url.path.endswith("jwks.json"):
            answer["keys"] = [foreign]

    with pytest.raises(TicketInvalid, match="signed with a key that this verifier does not know"):
        ask(change_answer=swap)
    assert len(KeySet.from_jwks({"keys": [foreign]})) == 1


def test_a_key_set_that_is_none_is_an_unusable_registry(ask: Any) -> None:
    def spoil(request: httpx2.Request, answer: dict[str, Any]) -> None:
        if request.url.path.endswith("jwks.json"):
            del answer["keys"]

    with pytest.raises(RegistryUnreachable, match="has no usable key set"):
        ask(change_answer=spoil)


@pytest.mark.parametrize(
    ("minutes", "says"), [(10, "600 s behind the registry's"), (-90, "5400 s ahead of the registry's")]
)
def test_a_clock_that_makes_the_ticket_unusable_is_named(
    ask: Any, monkeypatch: pytest.MonkeyPatch, minutes: int, says: str
) -> None:
    real = db.utc_now
    monkeypatch.setattr(db, "utc_now", lambda: real() + timedelta(minutes=minutes))
    if minutes < 0:
        monkeypatch.setattr("registry.identity.MAX_LIFE", timedelta(days=90))

    with pytest.raises(TicketInvalid) as refused:
        ask(clock_s=minutes * 60)

    assert refused.value.facts["step"] == 10
    assert says.split(" s ")[1] in refused.value.detail
    assert "timedatectl set-ntp true" in refused.value.detail


def test_a_registry_known_by_another_name_is_told_with_the_setting(ask: Any) -> None:
    with pytest.raises(TicketInvalid, match="set `SWIFT_SUBMIT_ISSUER` to it"):
        ask(issuer="http://127.0.0.1:1")


def test_a_development_key_is_refused_from_any_other_machine(ask: Any) -> None:
    with pytest.raises(TicketInvalid, match="only a registry on loopback may use one"):
        ask(server="https://registry.example.org")


def test_a_permit_file_is_ours_alone_and_comes_back_as_it_was(ask: Any) -> None:
    given = handover.write(ask())
    assert given.file is not None

    taken = handover.read(given.file)

    assert given.file.stat().st_mode & 0o777 == 0o600
    assert taken.key.thumbprint == given.key.thumbprint
    assert (taken.folder, taken.model) == (given.folder, given.model)
    assert taken.settings.token is None, "a worker has no API token"
    given.file.chmod(0o644)
    with pytest.raises(NotConfigured, match="can be read by others"):
        handover.read(given.file)


def test_a_worker_knows_by_itself_which_machine_it_is_on(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = handover.write(ask())
    assert given.file is not None
    document = json.loads(given.file.read_text())
    given.file.write_text(json.dumps({**document, "audience": given.verify().claims.aud}))
    monkeypatch.setattr("trainer.run.permit.local_audience", lambda: "urn:swift:exec:local:elsewhere")

    with pytest.raises(TicketInvalid, match="this is `urn:swift:exec:local:elsewhere`"):
        handover.read(given.file).verify()


def test_a_run_folder_is_ours_alone(ask: Any) -> None:
    folder = ask().folder

    assert folder.root.stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o077 for file in (folder.ticket, folder.run_spec)] == [0, 0]


def test_a_task_type_that_is_proposed_is_found_behind_any_number_of_other_proposals(
    ask: Any, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = registry.as_("author", "trainers")
    for tag in ("message-tone", "legal-clauses"):
        assert registry.propose(author, tag).status_code == 201
    monkeypatch.setattr("trainer.client.PAGE", 1)

    with pytest.raises(ApprovalPending, match=r"`message-tone` is proposed .* waits for 2 more approvals"):
        ask(task_type="message-tone")


def test_a_permit_that_was_redeemed_is_gone(tmp_path: Path) -> None:
    with pytest.raises(TicketInvalid, match="a permit is deleted once its ticket is redeemed"):
        handover.read(tmp_path / "permit.json")
