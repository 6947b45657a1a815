"""Every trainer watches the log; a strict worker starts nothing whose issuance is not proven."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from conftest import LiveRegistry
from trees import Log

from enforcer import notes, tlog, wire
from enforcer.keys import KeySet, SigningKey
from enforcer.notes import COSIGNATURE, NoteKey
from enforcer.problems import LogInconsistent, LogShorter, NotConfigured, RegistryUnreachable, TicketInvalid
from registry import log as registry_log
from trainer.client import Registry
from trainer.run import checkpoints, handover
from trainer.run.permit import Permit
from trainer.settings import Settings, load


class Told:
    """A registry that shows the log it is told to show."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.settings = Settings(server="http://registry.example", issuer="http://registry.example")
        self.away = False
        self.retired: list[SigningKey] = []

    def log_keys(self) -> bytes:
        return json.dumps({"keys": [self.log.signing.public_jwk()]}).encode()

    def retired_keys(self) -> bytes:
        return json.dumps({"keys": [{**key.public_jwk(), "purpose": "log"} for key in self.retired]}).encode()

    def consistency(self, old: int, size: int) -> wire.ConsistencyProof:
        if self.away:
            raise RegistryUnreachable("away")
        proof = [base64.b64encode(node).decode() for node in self.log.tree(size).consistency(old)]
        return wire.ConsistencyProof(old=old, size=size, proof=proof)


def folder() -> Path:
    return platformdirs.user_state_path("swift-submit") / "checkpoints" / "registry.example"


def kept() -> str:
    return (folder() / "newest").read_text()


def test_the_newest_head_is_kept_whatever_order_they_come_in() -> None:
    told: Any = Told(Log())

    for size in (0, 5, 300, 7, 300):
        checkpoints.witness(told, told.log.note(size))

    assert kept() == told.log.note(300)


@pytest.mark.parametrize("size", [3, 5, 9])
def test_a_fork_is_said_and_both_heads_are_kept(size: int) -> None:
    told: Any = Told(Log())
    checkpoints.witness(told, told.log.note(5))
    honest, told.log = told.log, Log(signing=told.log.signing, salt=b"other")

    with pytest.raises(LogInconsistent, match="contradicts itself") as caught:
        checkpoints.witness(told, told.log.note(size))

    evidence = Path(caught.value.facts["evidence"])
    assert (evidence / "kept").read_text() == honest.note(5)
    assert (evidence / "given").read_text() == told.log.note(size)
    assert kept() == honest.note(5)


def test_a_registry_whose_log_got_shorter_is_found_out() -> None:
    told: Any = Told(Log())
    checkpoints.witness(told, told.log.note(9))

    def refuse(old: int, size: int) -> wire.ConsistencyProof:
        raise LogShorter("this log has 4 entries, not 9")

    told.consistency = refuse
    with pytest.raises(LogInconsistent, match="cannot show that its log continues what it signed"):
        checkpoints.witness(told, told.log.note(4))


def test_a_registry_that_does_not_answer_proves_nothing_and_stops_nothing() -> None:
    told: Any = Told(Log())
    checkpoints.witness(told, told.log.note(5))
    told.away = True

    checkpoints.witness(told, told.log.note(9))

    assert kept() == told.log.note(5)


def test_another_key_is_not_taken_for_the_logs() -> None:
    told: Any = Told(Log())
    checkpoints.witness(told, told.log.note(5))
    told.log = Log()

    with pytest.raises(LogInconsistent, match="other keys than before"):
        checkpoints.witness(told, told.log.note(9))


def test_a_new_key_is_taken_when_the_old_one_is_among_those_that_are_over() -> None:
    told: Any = Told(Log())
    checkpoints.witness(told, told.log.note(5))
    told.retired, told.log = [told.log.signing], Log()

    checkpoints.witness(told, told.log.note(9))

    assert kept() == told.log.note(9)


def test_a_head_signed_by_nobody_is_refused() -> None:
    told: Any = Told(Log())

    with pytest.raises(LogInconsistent, match="a head of its log does not hold"):
        checkpoints.witness(told, Log().note(5))


# --- strict workers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def strict(live_registry: LiveRegistry, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Permit:
    """A permit that was submitted with proof, and a worker that requires it."""
    return submit(live_registry, encoder, tmp_path, "required")


def submit(live: LiveRegistry, encoder: Path, tmp_path: Path, log_proof: Any, **settings: Any) -> Permit:
    from submitting import Desk

    from trainer import contract
    from trainer.arguments import TrainingArguments
    from trainer.run import permit

    desk = Desk(tmp_path, encoder, live.url, live.token("wang", "trainers"))
    args = TrainingArguments(**desk.arguments())
    given = Settings(server=live.url, issuer=live.url, token=desk.token, log_proof=log_proof, **settings)
    with Registry(given) as registry:
        found, checked = contract.look(registry, args)
        return permit.obtain(registry, args, found, checked)


def test_a_strict_worker_takes_a_ticket_whose_issuance_is_proven(strict: Permit) -> None:
    assert strict.verify().claims.decision_id
    assert strict.folder.issued_proof.read_text().startswith("c2sp.org/tlog-proof@v1\nextra ")
    assert tlog.open_checkpoint(strict.folder.checkpoint.read_text(), checkpoints.pinned_keys(strict.settings))
    assert handover.read(handover.write(strict).file).settings.log_proof == "required"  # type: ignore[arg-type]


def test_without_the_proof_nothing_starts(strict: Permit) -> None:
    strict.folder.issued_proof.unlink()

    with pytest.raises(TicketInvalid, match="requires proof of its issuance") as caught:
        strict.verify()
    assert caught.value.facts["step"] == 15


def test_the_proof_of_another_ticket_is_none(
    strict: Permit, live_registry: LiveRegistry, encoder: Path, tmp_path: Path
) -> None:
    other = submit(live_registry, encoder, tmp_path, "required")
    shutil.copy(other.folder.issued_proof, strict.folder.issued_proof)

    with pytest.raises(TicketInvalid, match="the proof is of another event") as caught:
        strict.verify()
    assert caught.value.facts["step"] == 15


def test_the_proof_of_another_event_is_none(strict: Permit, live_registry: LiveRegistry) -> None:
    (seeded, *_) = live_registry.events("tag.seeded") or live_registry.events()
    with live_registry.books.reading() as session:
        strict.folder.issued_proof.write_text(registry_log.prove(session, seeded.id).write())

    with pytest.raises(TicketInvalid, match="the proof is of another event: its `kind`"):
        strict.verify()


def test_whoever_holds_the_ticket_key_cannot_make_the_proof(strict: Permit, live_registry: LiveRegistry) -> None:
    """A log of their own, with the right origin and entry, signed with the key that they have."""
    proof = tlog.Proof.parse(strict.folder.issued_proof.read_text())
    assert proof.extra is not None
    leaf = tlog.leaf_hash(proof.extra)
    note = tlog.sign_checkpoint(live_registry.settings.log_origin, 1, leaf, live_registry.books.ticket_key)
    strict.folder.issued_proof.write_text(tlog.Proof(0, (), note, proof.extra).write())

    with pytest.raises(TicketInvalid, match="signed by no key that this verifier knows"):
        strict.verify()


def test_a_quorum_of_witnesses_can_be_asked_for(live_registry: LiveRegistry, encoder: Path, tmp_path: Path) -> None:
    witness = SigningKey.generate()
    vkey = NoteKey.of(witness, "w.example", COSIGNATURE).vkey
    permit = submit(live_registry, encoder, tmp_path, "required", log_witnesses=(vkey,), log_quorum=1)

    with pytest.raises(TicketInvalid, match="0 of the trusted witnesses"):
        permit.verify()
    proof = tlog.Proof.parse(permit.folder.issued_proof.read_text())
    line = notes.cosign(notes.Note.parse(proof.checkpoint).text, "w.example", witness, 1_700_000_000)
    cosigned = tlog.Proof(proof.index, proof.path, notes.attach(proof.checkpoint, [line]), proof.extra)
    permit.folder.issued_proof.write_text(cosigned.write())
    assert permit.verify().claims.jti


def test_a_lax_worker_asks_for_no_proof_unless_its_own_settings_do(
    live_registry: LiveRegistry, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit = submit(live_registry, encoder, tmp_path, "off")
    permit.verify()
    file = handover.write(permit).file
    assert file is not None
    monkeypatch.setenv("SWIFT_SUBMIT_LOG_PROOF", "required")

    with pytest.raises(TicketInvalid, match="requires proof"):
        handover.read(file).verify()


def test_keys_come_from_the_worker_and_not_from_the_run_folder(strict: Permit, tmp_path: Path) -> None:
    own = tmp_path / "log-keys.json"
    own.write_text(json.dumps({"keys": [SigningKey.generate().public_jwk()]}))
    settings = Settings(**{**strict.settings.__dict__, "log_keys": str(own)})

    with pytest.raises(TicketInvalid, match="signed by no key"):
        Permit(**{**strict.__dict__, "settings": settings}).verify()
    own.unlink()
    with pytest.raises(NotConfigured, match="SWIFT_SUBMIT_LOG_KEYS"):
        Permit(**{**strict.__dict__, "settings": settings}).verify()


@pytest.mark.parametrize(
    "environment",
    [{"SWIFT_SUBMIT_LOG_PROOF": "yes"}, {"SWIFT_SUBMIT_LOG_QUORUM": "1"}, {"SWIFT_SUBMIT_LOG_QUORUM": "-1"}],
)
def test_settings_that_cannot_be_meant_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(NotConfigured):
        load({}, environment)


def test_keys_are_pinned_when_a_registry_is_first_seen(live_registry: LiveRegistry, strict: Permit) -> None:
    assert set(checkpoints.pinned_keys(strict.settings)) == set(KeySet.of(live_registry.books.log_key))
