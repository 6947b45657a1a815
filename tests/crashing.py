"""A registry as a process of its own, clients that write down what they saw, and the check of one against the other.

The check is that of a history (as Jepsen does it): whatever a client was told must be in the books, in the log and
provable; whatever is in the books must be whole; and nothing may have happened twice.
"""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from conftest import free_port, ticket_request
from sqlalchemy import create_engine, text

from enforcer import ndjson, proofs, tiles, tlog
from enforcer.keys import KeySet, SigningKey

TAGWARDEN = [sys.executable, "-P", "-m", "registry"]
AWAY = (httpx2.TransportError,)
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@dataclass
class Service:
    """One registry process; `start` after `kill` is the same service coming back."""

    folder: Path
    database_url: str | None = None
    file_limit: int | None = None
    port: int = field(default_factory=free_port)
    issuer: str | None = None  # where it stands for another process of one service
    clock: Path | None = None  # libfaketime reads the time from here, each time anew
    _process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TAGWARDEN_")}
        if self.clock is not None:
            kept |= {
                "LD_PRELOAD": str(FAKETIME[0]),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        more = {"TAGWARDEN_DATABASE_URL": self.database_url, "TAGWARDEN_PUBLIC_URL": self.issuer}
        budgets = ("reads", "writes", "tickets", "public", "failures")
        return {
            **kept,
            **{f"TAGWARDEN_{budget}_PER_MINUTE": "1000000" for budget in budgets},  # load is what this is about
            **{name: value for name, value in more.items() if value is not None},
            "TAGWARDEN_STATE_DIR": str(self.folder / "state"),
            "XDG_RUNTIME_DIR": str(self.folder / "runtime"),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, user: str, *groups: str, unit: str = "retail") -> str:
        command = [*TAGWARDEN, "token", "create", user, "--unit", unit]
        for group in groups:
            command += ["--group", group]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout.strip()

    def start(self) -> None:
        (self.folder / "runtime").mkdir(exist_ok=True)
        with (self.folder / f"service-{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*TAGWARDEN, "serve", "--port", str(self.port)],
                env=self.environment,
                stdout=log,
                stderr=log,
                preexec_fn=self._limited if self.file_limit else None,
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(*AWAY):
                if httpx2.get(f"{self.url}/readyz", timeout=2).is_success:
                    return
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / f"service-{self.port}.log").read_text()[-3_000:]
            time.sleep(0.05)
        raise AssertionError("the registry did not get ready")

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.kill()

    def _limited(self) -> None:
        assert self.file_limit is not None
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a full disk is an error of write(2), as a real one is
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_limit, self.file_limit))


@dataclass
class History:
    """What clients were told. Appending to a list is atomic; nothing here is read before they are done."""

    grants: list[dict[str, Any]] = field(default_factory=list)
    leases: list[tuple[str, str]] = field(default_factory=list)  # jti, redemption id
    checkpoints: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    keys_used: list[str] = field(default_factory=list)  # Idempotency-Key of each grant


class Client(threading.Thread):
    """Asks for tickets and redeems them, again and again, whatever happens to the service.

    A lost answer is asked for again under the same Idempotency-Key, as `swift-submit` does. Every second ticket is
    redeemed by two at once, of whom one may win.
    """

    def __init__(
        self, url: Callable[[], str], issuer: str, token: str, history: History, over: threading.Event
    ) -> None:
        super().__init__(daemon=True)
        self._url, self._issuer, self._history, self._over = url, issuer, history, over
        self._http = httpx2.Client(timeout=5, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
        self.fault: Exception | None = None

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._one_ticket()
        except Exception as error:  # a fault of the test must not look like a quiet client
            self.fault = error

    def _one_ticket(self) -> None:
        key, idempotency = SigningKey.generate(), str(uuid.uuid4())
        answer = self._ask("POST", "/v1/tickets", ticket_request(jkt=key.thumbprint), {"Idempotency-Key": idempotency})
        if answer is None or answer.status_code != 201:
            return
        grant = answer.json()
        self._history.grants.append(grant)
        self._history.keys_used.append(idempotency)
        if "checkpoint" in grant:
            self._history.checkpoints.append(grant["checkpoint"])
        if random.random() < 0.5:
            racers = [threading.Thread(target=self._redeem, args=(grant, key)) for _ in range(2)]
            for racer in racers:
                racer.start()
            for racer in racers:
                racer.join()
        if random.random() < 0.3:
            note = self._ask("GET", "/tlog/checkpoint")
            if note is not None and note.is_success:
                self._history.checkpoints.append(note.text)

    def _redeem(self, grant: dict[str, Any], key: SigningKey) -> None:
        path, redemption_id = f"/v1/tickets/{grant['jti']}:redeem", str(uuid.uuid4())

        def headers() -> dict[str, str]:  # a new proof for each try: the registry takes none twice
            made = proofs.prove(key, method="POST", url=self._issuer + path, ticket=grant["ticket"])
            return {"Authorization": f"DPoP {grant['ticket']}", "DPoP": made}

        answer = self._ask("POST", path, {"redemption_id": redemption_id}, headers)
        if answer is not None and answer.status_code == 200:
            self._history.leases.append((grant["jti"], redemption_id))

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | Callable[[], dict[str, str]] | None = None,
    ) -> httpx2.Response | None:
        """Until there is an answer that says something, or the time is over."""
        while not self._over.is_set():
            try:
                answer = self._http.request(
                    method, self._url() + path, json=body, headers=headers() if callable(headers) else headers
                )
            except AWAY:
                self._history.statuses["no answer"] += 1
                time.sleep(0.1)
                continue
            self._history.statuses[str(answer.status_code)] += 1
            if answer.status_code == 429:
                time.sleep(float(answer.headers.get("Retry-After", "1")))
            elif answer.status_code == 503:
                time.sleep(0.1)
            else:
                return answer
        return None


@contextlib.contextmanager
def load(urls: list[str], issuer: str, token: str, clients: int = 4) -> Iterator[History]:
    """Clients at work while the block runs."""
    history, over = History(), threading.Event()
    crew = [Client(lambda: random.choice(urls), issuer, token, history, over) for _ in range(clients)]
    for client in crew:
        client.start()
    try:
        yield history
    finally:
        over.set()
        for client in crew:
            client.join(timeout=30)
    assert [client.fault for client in crew if client.fault] == []


def check(service: Service, history: History, auditor: str) -> int:
    """Compare what clients saw with the books and the log; returns how many tickets there are."""
    lines = (
        httpx2.get(
            f"{service.url}/v1/audit:export",
            params={"format": "ndjson"},
            headers={"Authorization": f"Bearer {auditor}"},
            timeout=120,
        )
        .raise_for_status()
        .content.splitlines()
    )
    keys = KeySet.from_jwks(httpx2.get(f"{service.url}/tlog/jwks.json").json())
    assert ndjson.verify(lines, keys).whole, "the export is the whole log, and every proof in it holds"
    records = [json.loads(line) for line in lines]
    events = [record["event"] for record in records if "event" in record]
    books = _books(service)

    issued = Counter(event["ticket_id"] for event in events if event["kind"] == "ticket.issued")
    redeemed = Counter(event["ticket_id"] for event in events if event["kind"] == "ticket.redeemed")
    # Every 201 that a client saw is in the books, in the log, and (by `ndjson.verify`) provable.
    told = {grant["jti"] for grant in history.grants}
    assert told <= books.tickets.keys()
    assert told <= issued.keys()
    # No event without its effect, no effect without its event, none doubled.
    assert issued == Counter(books.tickets.keys())
    assert redeemed == Counter(jti for jti, state in books.tickets.items() if state == "redeemed")
    assert books.runs == books.tickets.keys()
    # One Idempotency-Key, one ticket, however often it was asked for.
    assert len(books.tickets) == books.answers
    # Each ticket redeemed at most once, and whoever was told so is the one in the books.
    winners = dict(history.leases)
    assert len(winners) == len({*history.leases}), "two redemptions of one ticket were both told that they won"
    assert winners.items() <= books.redemptions.items()
    # Every checkpoint that was ever handed out is a prefix of the final log.
    leaves = [tlog.leaf_hash(tlog.entry(record["event"])) for record in records if "event" in record]
    for note in set(history.checkpoints):
        head = tlog.open_checkpoint(note, keys)
        assert head.root == tiles.in_memory(leaves[: head.size]).root, f"the checkpoint at {head.size} is no prefix"
    return len(books.tickets)


@dataclass(frozen=True)
class _Books:
    tickets: dict[str, str]
    redemptions: dict[str, str]
    runs: set[str]
    answers: int


def _books(service: Service) -> _Books:
    url = service.database_url or f"sqlite:///{service.folder / 'state' / 'registry.db'}"
    engine = create_engine(url.replace("postgresql://", "postgresql+pg8000://"))
    with engine.connect() as connection:
        rows = connection.execute(text("select jti, state, redemption_id from ticket")).all()
        runs = set(connection.execute(text("select jti from run")).scalars())
        answers = connection.execute(text("select count(*) from idempotent_answer")).scalar_one()
    engine.dispose()
    return _Books(
        {jti: state for jti, state, _ in rows}, {jti: by for jti, _, by in rows if by is not None}, runs, answers
    )
