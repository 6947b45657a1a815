"""The key ring: one way through its states, published before use, and never a change that is not on record."""

import base64
import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Registry, ask, redeem, ticket_request
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from enforcer import jws, tickets
from enforcer.keys import KeySet, KeyUnusable, Signer, SigningKey
from enforcer.problems import Conflict, Invalid, NotFound, Problem, TicketInvalid
from registry.key_life import OVERLAP, PURPOSES, KeyRecord, Purpose, Step
from registry.keyring import Keyring
from registry.settings import Settings

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PUBLISHED_AT = {
    "ticket": "/.well-known/jwks.json",
    "log": "/tlog/jwks.json",
    "token": "/.well-known/token-jwks.json",
    "attestation": "/.well-known/attestation-jwks.json",
}


class Ring:
    """A ring in a folder, a clock, and the record."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now, self.record = folder, NOW, list[tuple[str, str]]()
        Keyring(folder).complete(self.on_record, dev=False, now=self.now)
        self.keys = Keyring.open(folder)

    def on_record(self, steps: Sequence[Step]) -> None:
        self.record += [(step.kind, step.key.kid) for step in steps]

    def rotate(self, purpose: Purpose = "ticket", ahead: timedelta = DAY, **how: Any) -> KeyRecord:
        how = {"alg": None, "source": None, **how}
        return Keyring(self.folder).rotate(purpose, self.on_record, dev=False, now=self.now, ahead=ahead, **how)

    def retire(self, kid: str, *, compromised: bool = False) -> KeyRecord:
        return Keyring(self.folder).retire(kid, self.on_record, compromised=compromised, now=self.now)

    def pass_time(self, how_long: timedelta) -> None:
        self.now += how_long
        self.keys.advance(self.on_record, now=self.now)

    def published(self, purpose: Purpose = "ticket") -> list[str]:
        return [key["kid"] for key in self.keys.jwks(purpose)["keys"]]

    def state_of(self, kid: str) -> str:
        return next(key.state for key in self.keys.records() if key.kid == kid)

    def private_files(self) -> set[str]:
        return {file.name for file in self.folder.glob("*.pem")}


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "keys")


def test_a_fresh_ring_has_one_key_for_each_purpose_and_all_are_different(ring: Ring) -> None:
    kids = [ring.keys.signer(purpose).kid for purpose in PURPOSES]

    assert len(set(kids)) == 4
    assert [ring.published(purpose) for purpose in PURPOSES] == [[kid] for kid in kids]
    assert ring.record == [(kind, kid) for kid in kids for kind in ("published", "activated")]
    assert (ring.folder / "ring.json").stat().st_mode & 0o777 == 0o600
    assert ring.folder.stat().st_mode & 0o777 == 0o700


def test_starting_again_makes_no_new_keys(ring: Ring) -> None:
    Keyring(ring.folder).complete(ring.on_record, dev=False, now=NOW)

    assert len(ring.keys.records()) == 4


def test_a_key_is_published_a_day_before_it_signs_and_an_hour_after(ring: Ring) -> None:
    first = ring.keys.signer("ticket").kid
    second = ring.rotate().kid

    assert (ring.published(), ring.keys.signer("ticket").kid) == ([first, second], first)
    ring.pass_time(DAY - timedelta(seconds=1))
    assert ring.keys.signer("ticket").kid == first
    ring.pass_time(timedelta(seconds=1))
    assert (ring.published(), ring.keys.signer("ticket").kid) == ([first, second], second)
    ring.pass_time(timedelta(seconds=tickets.MAX_LIFE_S + tickets.LEEWAY_S - 1))
    assert ring.published() == [first, second]
    ring.pass_time(timedelta(seconds=1))
    assert ring.published() == [second]
    assert [key["kid"] for key in ring.keys.retired()["keys"]] == [first]
    assert ring.record[8:] == [("published", second), ("activated", second), ("retired", first)]


def test_the_private_half_is_gone_when_the_key_is_over(ring: Ring) -> None:
    first = ring.keys.signer("ticket").kid
    ring.rotate(ahead=timedelta(0))

    assert f"ticket-{first}.pem" in ring.private_files()
    ring.pass_time(OVERLAP["ticket"])
    assert f"ticket-{first}.pem" not in ring.private_files()
    assert len(ring.private_files()) == 4


def test_a_private_half_that_a_crash_left_is_swept_at_the_next_start(ring: Ring, tmp_path: Path) -> None:
    first = ring.keys.signer("ticket").kid
    file = ring.folder / f"ticket-{first}.pem"
    shutil.copy(file, tmp_path / "kept")
    ring.rotate(ahead=timedelta(0))
    ring.retire(first)
    shutil.move(tmp_path / "kept", file)

    Keyring(ring.folder).complete(ring.on_record, dev=False, now=NOW)

    assert not file.exists()


def test_a_compromised_key_leaves_at_once_and_is_listed_with_its_mark(ring: Ring) -> None:
    first = ring.keys.signer("ticket").kid
    ring.rotate(ahead=timedelta(0))
    ring.retire(first, compromised=True)

    assert first not in ring.published()
    (listed,) = ring.keys.retired()["keys"]
    assert (listed["kid"], listed["purpose"], listed["compromised_at"]) == (first, "ticket", NOW.isoformat())
    assert len(KeySet.from_jwks(ring.keys.retired())) == 0
    assert ring.record[-1] == ("compromised", first)


def test_a_retired_key_can_turn_out_to_be_compromised(ring: Ring) -> None:
    first = ring.keys.signer("ticket").kid
    ring.rotate(ahead=timedelta(0))
    ring.retire(first)

    ring.retire(first, compromised=True)

    assert ring.state_of(first) == "compromised"
    with pytest.raises(Conflict, match="compromised already"):
        ring.retire(first, compromised=True)


def test_retired_keys_still_verify_what_they_signed(ring: Ring) -> None:
    key = ring.keys.signer("attestation")
    token = jws.sign({"typ": "test+jwt", "kid": key.kid}, {}, key)
    ring.rotate("attestation", ahead=timedelta(0))
    ring.pass_time(OVERLAP["attestation"])

    old = KeySet.from_jwks(ring.keys.retired()).get(key.kid)

    assert old is not None
    assert jws.signature_holds(token, old)


def test_the_key_that_signs_cannot_be_retired(ring: Ring) -> None:
    for compromised in (False, True):
        with pytest.raises(Conflict, match=r"signs now; .* rotate log --now"):
            ring.retire(ring.keys.signer("log").kid, compromised=compromised)


def test_what_is_no_key_cannot_be_retired(ring: Ring) -> None:
    with pytest.raises(NotFound, match="keys list"):
        ring.retire("x" * 5_000)


def test_there_is_one_next_key_at_a_time_and_now_lets_it_begin(ring: Ring) -> None:
    second = ring.rotate().kid

    for again in ({}, {"ahead": timedelta(0), "alg": "ES256"}, {"ahead": timedelta(0), "source": "file:x.pem"}):
        with pytest.raises(Conflict, match=f"`{second}` is the next ticket key already"):
            ring.rotate(**again)  # type: ignore[arg-type]
    assert ring.rotate(ahead=timedelta(0)).kid == second
    assert ring.keys.signer("ticket").kid == second


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
def test_a_purpose_can_change_its_algorithm_and_the_log_cannot(ring: Ring, alg: str) -> None:
    ring.rotate("ticket", ahead=timedelta(0), alg=alg)

    assert ring.keys.signer("ticket").alg == alg
    with pytest.raises(Invalid, match="log keys are always Ed25519"):
        ring.rotate("log", alg=alg)


def test_one_key_has_one_purpose_even_under_another_name(ring: Ring) -> None:
    (file,) = ring.folder.glob("ticket-*.pem")
    shutil.copy(file, ring.folder / "dev-copy.pem")

    for alg in ("Ed25519", "EdDSA"):
        with pytest.raises(Conflict, match="is a ticket key already; a key has one purpose"):
            ring.rotate("token", source="file:dev-copy.pem", alg=alg)


def test_nothing_changes_that_could_not_be_put_on_record(ring: Ring) -> None:
    def fails(steps: Sequence[Step]) -> None:
        raise ConnectionError("the database is away")

    before = (ring.folder / "ring.json").read_bytes()
    with pytest.raises(ConnectionError):
        Keyring(ring.folder).rotate("ticket", fails, alg=None, source=None, dev=False, now=NOW, ahead=DAY)

    assert (ring.folder / "ring.json").read_bytes() == before
    assert not (ring.folder / ".ring.json.new").exists()
    ring.rotate()
    with pytest.raises(ConnectionError):
        ring.keys.advance(fails, now=NOW + DAY)
    assert ring.keys.jwks("ticket")["keys"][0]["kid"] == ring.keys.signer("ticket").kid


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_ring_that_others_can_read_or_that_is_a_link_is_refused_at_the_start(ring: Ring, tmp_path: Path) -> None:
    file = ring.folder / "ring.json"

    file.chmod(0o644)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        Keyring.open(ring.folder)
    file.rename(tmp_path / "elsewhere.json")
    (tmp_path / "elsewhere.json").chmod(0o600)
    file.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(KeyUnusable, match="cannot be opened"):
        Keyring.open(ring.folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version":2,"keys":[]}', b'{"keys":[{}]}', b'{"keys":[],"more":1}', b"\xff"]
)
def test_a_ring_that_is_none_is_refused_without_a_traceback(ring: Ring, content: bytes) -> None:
    (ring.folder / "ring.json").write_bytes(content)

    with pytest.raises(KeyUnusable, match="is not a key ring"):
        Keyring.open(ring.folder)


def test_a_running_service_keeps_its_keys_while_the_ring_cannot_be_read(
    ring: Ring, caplog: pytest.LogCaptureFixture
) -> None:
    kid, file = ring.keys.signer("ticket").kid, ring.folder / "ring.json"
    good = file.read_bytes()

    file.write_bytes(b"{")
    assert [ring.keys.signer("ticket").kid for _ in range(3)] == [kid] * 3
    assert len([record for record in caplog.records if "cannot be used" in record.message]) == 1
    file.write_bytes(good)
    second = ring.rotate(ahead=timedelta(0)).kid
    assert ring.keys.signer("ticket").kid == second


def test_a_public_key_in_the_ring_that_is_not_the_private_ones_is_refused(ring: Ring) -> None:
    file = ring.folder / "ring.json"
    document = json.loads(file.read_text())
    document["keys"][0]["jwk"] |= {"x": SigningKey.generate().public_jwk()["x"]}
    file.write_text(json.dumps(document))

    with pytest.raises(KeyUnusable, match="holds another key than"):
        Keyring.open(ring.folder)


# --- sources ----------------------------------------------------------------------------------------------------------


def in_environment(key: SigningKey) -> str:
    return base64.b64encode(key.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())).decode()


@pytest.mark.parametrize("alg", ["Ed25519", "EdDSA", "ES256"])
def test_a_key_from_the_environment_is_taken_out_of_it(ring: Ring, alg: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = SigningKey.generate(alg)
    monkeypatch.setenv("TICKET_KEY", in_environment(key))

    made = ring.rotate(alg=alg, source="env:TICKET_KEY", ahead=timedelta(0))

    assert "TICKET_KEY" not in os.environ
    assert made.kid == key.kid
    monkeypatch.setenv("TICKET_KEY", in_environment(key))  # the service has its own
    assert ring.keys.signer("ticket").kid == key.kid
    assert "TICKET_KEY" not in os.environ
    ring.rotate("log", ahead=timedelta(0))  # the ring is read again, the key is kept
    assert ring.keys.signer("ticket").sign(b"text")


def test_a_service_that_cannot_load_the_new_key_goes_on_with_the_old_one(
    ring: Ring, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, key = ring.keys.signer("ticket").kid, SigningKey.generate()
    monkeypatch.setenv("TICKET_KEY", in_environment(key))
    ring.rotate(source="env:TICKET_KEY")

    ring.pass_time(DAY)
    ring.pass_time(DAY)

    assert ring.keys.signer("ticket").kid == first
    assert ring.state_of(key.kid) == "next"
    assert [record.message for record in caplog.records].count(
        f"the next ticket key `{key.kid}` does not begin: the environment variable `TICKET_KEY` is not set; "
        "it holds a signing key, base64 of PKCS#8"
    ) == 1


def test_a_compromised_key_signs_no_more_even_where_the_new_one_cannot_be_loaded(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, key = ring.keys.signer("ticket").kid, SigningKey.generate()
    monkeypatch.setenv("TICKET_KEY", in_environment(key))
    ring.rotate(source="env:TICKET_KEY", ahead=timedelta(0))
    assert ring.keys.signer("ticket").kid == first

    ring.retire(first, compromised=True)

    assert ring.published() == [key.kid]
    with pytest.raises(Problem, match="its log says why"):
        ring.keys.signer("ticket")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("", "is no source of a key"),
        ("/etc/key.pem", "is no source of a key"),
        ("file:../key.pem", "is no source of a key"),
        ("file:/etc/key.pem", "is no source of a key"),
        ("file:key.txt", "is no source of a key"),
        ("env:A B", "is no source of a key"),
        ("signer:", "is no source of a key"),
        ("vault:x", "is no source of a key"),
        ("file:missing.pem", "cannot be opened"),
        ("env:MISSING_KEY", "is not set"),
        ("env:NOT_BASE64", "is not base64"),
        ("env:NOT_A_KEY", "is not an unencrypted private key"),
        ("signer:nobody:x", "no package installed here offers the signer `nobody`"),
    ],
)
def test_a_source_that_is_none_is_named(ring: Ring, source: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT_BASE64", "?")
    monkeypatch.setenv("NOT_A_KEY", "AAAA")

    with pytest.raises((Invalid, KeyUnusable), match=why):
        ring.rotate(source=source or ":")

    assert len(ring.keys.records()) == 4


class Plugged:
    """What a plug-in returns; `answer` is how its device misbehaves."""

    def __init__(self, argument: str) -> None:
        alg, _, self.fault = argument.partition("/")
        self.key = SigningKey.generate(alg)
        self.kid, self.alg = "whatever-it-says", alg

    def public_jwk(self) -> dict[str, str]:
        return self.key.public_jwk()

    def sign(self, content: bytes) -> bytes:
        if self.fault == "away":
            raise OSError("no token in the slot")
        return {"short": b"", "wrong": bytes(64)}.get(self.fault) or (self.key.sign(content) if not self.fault else b"")


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that offers the signer `device`."""
    info = tmp_path / "site" / "device-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: device\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        f"[tagwarden.signers]\ndevice = {__name__}:Plugged\nbroken = {__name__}:nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(Plugged=Plugged))


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize("alg", ["Ed25519", "EdDSA", "ES256"])
def test_a_plug_in_signs_under_the_id_that_the_ring_gives_it(ring: Ring, alg: str) -> None:
    maker = Keyring.open(ring.folder)
    made = maker.rotate(
        "ticket", ring.on_record, alg=alg, source=f"signer:device:{alg}", dev=False, now=NOW, ahead=timedelta(0)
    )

    signer: Signer = maker.signer("ticket")
    token = jws.sign({"typ": "test+jwt", "kid": signer.kid}, {}, signer)

    assert (signer.kid, signer.alg) == (made.kid, alg)
    assert jws.signature_holds(token, maker.key_set("ticket").get(made.kid))  # type: ignore[arg-type]


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("signer:device:ES256", "has a key for ES256, not for Ed25519"),
        ("signer:device:Ed25519/away", "does not sign: .*no token in the slot"),
        ("signer:device:Ed25519/short", "64 raw bytes"),
        ("signer:device:Ed25519/wrong", "64 raw bytes"),
        ("signer:broken:", "cannot be used"),
    ],
)
def test_a_plug_in_that_does_not_sign_is_found_out_before_its_key_is_published(
    ring: Ring, source: str, why: str
) -> None:
    with pytest.raises(KeyUnusable, match=why):
        ring.rotate(source=source)

    assert len(ring.keys.records()) == 4


@pytest.mark.usefixtures("plugged")
def test_a_device_that_goes_away_is_a_503_and_leaves_no_ticket(registry: Registry) -> None:
    client, ring = registry.as_("wang", "trainers"), registry.books.ring
    ring.rotate(
        "ticket", lambda steps: None, alg=None, source="signer:device:Ed25519", dev=True, now=NOW, ahead=timedelta(0)
    )
    ring.signer("ticket").signer.fault = "away"

    reply = ask(client, ticket_request())

    assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")
    assert registry.events("ticket.issued") == []


# --- the service ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", PURPOSES)
def test_public_keys_are_apart_by_purpose_and_cacheable(registry: Registry, purpose: Purpose) -> None:
    client, path = registry.anonymous(), PUBLISHED_AT[purpose]

    reply = client.get(path)
    again = client.get(path, headers={"If-None-Match": f'"other", W/{reply.headers["etag"]}'})

    assert [key["kid"] for key in reply.json()["keys"]] == [registry.books.ring.signer(purpose).kid]
    assert reply.headers["cache-control"] == "public, max-age=600"
    assert not {"d", "p"} & reply.json()["keys"][0].keys()
    assert (again.status_code, again.content) == (304, b"")


def test_a_changed_key_set_has_another_tag(registry: Registry) -> None:
    client = registry.anonymous()
    tag = client.get("/.well-known/jwks.json").headers["etag"]

    turn(registry, "ticket", "ES256")

    reply = client.get("/.well-known/jwks.json", headers={"If-None-Match": tag})
    assert (reply.status_code, len(reply.json()["keys"])) == (200, 2)


def turn(registry: Registry, purpose: Purpose, alg: str) -> None:
    Keyring(registry.settings.keys_dir).rotate(
        purpose, lambda steps: None, alg=alg, source=None, dev=True, now=datetime.now(UTC), ahead=timedelta(0)
    )


@pytest.mark.parametrize("alg", ["Ed25519", "EdDSA", "ES256"])
def test_tickets_of_the_old_key_and_of_the_new_one_are_both_redeemed(registry: Registry, alg: str) -> None:
    key, client = SigningKey.generate("ES256"), registry.as_("wang", "trainers")
    old = ask(client, ticket_request(jkt=key.thumbprint)).json()

    turn(registry, "ticket", alg)
    new = ask(client, ticket_request(jkt=key.thumbprint)).json()

    headers = [jws.read(grant["ticket"], ("alg", "typ", "kid"))[0] for grant in (old, new)]
    assert headers[1]["alg"] == alg
    assert headers[0]["kid"] != headers[1]["kid"]
    assert [redeem(registry, grant, key).status_code for grant in (old, new)] == [200, 200]


def test_a_ticket_of_a_compromised_key_is_not_redeemed(registry: Registry) -> None:
    key = SigningKey.generate()
    grant = ask(registry.as_("wang", "trainers"), ticket_request(jkt=key.thumbprint)).json()
    stolen = registry.books.ticket_key.kid
    turn(registry, "ticket", "Ed25519")

    ring = Keyring(registry.settings.keys_dir)
    ring.retire(stolen, lambda steps: None, compromised=True, now=datetime.now(UTC))

    assert redeem(registry, grant, key).status_code == 401
    with pytest.raises(TicketInvalid, match="does not know"):
        tickets.recognise(grant["ticket"], registry.books.ticket_keys, issuer=registry.settings.issuer)


def test_the_birth_of_each_key_is_in_the_log(registry: Registry) -> None:
    born = registry.events("key.published")

    assert [event.detail["purpose"] for event in born] == list(PURPOSES)
    assert [event.detail["kid"] for event in born] == [registry.books.ring.signer(purpose).kid for purpose in PURPOSES]
    assert all(len(event.detail["thumbprint"]) == 43 for event in born)


def test_a_registry_that_leaves_loopback_gets_real_keys(registry: Registry) -> None:
    from registry import server

    public = Settings(state_dir=registry.settings.state_dir, public_url="https://registry.example")
    server.prepare(public)

    ring = Keyring.open(public.keys_dir)
    assert not any(ring.signer(purpose).kid.startswith("dev-") for purpose in PURPOSES)
    assert {key["kid"][:4] for purpose in PURPOSES for key in ring.jwks(purpose)["keys"]}.isdisjoint({"dev-"})
    assert not list(public.keys_dir.glob("dev-*.pem"))


# --- any order --------------------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Whatever is done in whatever order: one active key, published before use, forward only, nothing unrecorded."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.place = tempfile.TemporaryDirectory()
        self.ring = Ring(Path(self.place.name) / "keys")
        self.seen: dict[str, str] = {}

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.cleanup()

    @rule(purpose=strategies.sampled_from(["ticket", "log"]), at_once=strategies.booleans())
    def rotate(self, purpose: Purpose, at_once: bool) -> None:
        try:
            self.ring.rotate(purpose, ahead=timedelta(0) if at_once else DAY)
        except Conflict:
            assert self.ring.keys._load().one(purpose, "next")

    @rule(number=strategies.integers(0, 20), compromised=strategies.booleans())
    def retire(self, number: int, compromised: bool) -> None:
        records = self.ring.keys.records()
        key = records[number % len(records)]
        try:
            self.ring.retire(key.kid, compromised=compromised)
        except Conflict:
            assert key.state in {"active", "compromised"} or (key.state == "retired" and not compromised)

    @rule(hours=strategies.integers(0, 50))
    def pass_time(self, hours: int) -> None:
        self.ring.pass_time(timedelta(hours=hours))

    @invariant()
    def the_ring_is_whole(self) -> None:
        order = ["next", "active", "retiring", "retired", "compromised"]
        records = self.ring.keys.records()
        for purpose in PURPOSES:
            active = [key for key in records if key.purpose == purpose and key.state == "active"]
            assert [key.kid for key in active] == [self.ring.keys.signer(purpose).kid]
            assert active[0].kid in self.ring.published(purpose)
            assert len([key for key in records if key.purpose == purpose and key.state == "next"]) <= 1
        for key in records:
            assert order.index(key.state) >= order.index(self.seen.get(key.kid, "next"))
            published = key.kid in self.ring.published(key.purpose)
            assert published == (key.state in {"next", "active", "retiring"})
            assert published == (key.source.removeprefix("file:") in self.ring.private_files())
            assert ("published", key.kid) in self.ring.record
            assert (("activated", key.kid) in self.ring.record) == (key.activated_at is not None)
            assert (("compromised", key.kid) in self.ring.record) == (key.state == "compromised")
            self.seen[key.kid] = key.state
        assert len(set(self.ring.record)) == len(self.ring.record)


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestAnyOrder = AnyOrder.TestCase
