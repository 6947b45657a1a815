"""The test world: a whole registry over the policy that ships, in a folder of its own.

`registry` speaks to the app in this process; `live_registry` serves it on loopback for clients and child processes.
"""

import atexit
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import hypothesis
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlmodel import select

from enforcer import jws, proofs
from enforcer.keys import SigningKey
from enforcer.policy.revision import Policy
from registry import db, identity, policies, server
from registry.app import create_app
from registry.settings import Settings
from registry.tables import Event

if TYPE_CHECKING:
    from clusters import Cluster

os.environ["OMP_NUM_THREADS"] = "1"  # on a tiny model two threads only wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing here may ask the network
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # float32 on the CPU, where the same seed gives the same bits
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A busy machine makes no example wrong.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

DIGEST = "sha256:" + "a" * 64
# Whose unit is not retail, so that two who agree are of two units.
HOME = {"zhao": "ai", "second": "ai", "gao": "ai", "lin": "search"}
AUDIENCE = "urn:swift:exec:local:test"


@dataclass
class Registry:
    """The app, and short words for what people do with it."""

    settings: Settings
    app: FastAPI = field(init=False)

    def __post_init__(self) -> None:
        if not self.settings.state_dir.exists() and (prepared := _prepared_for(self.settings)):
            shutil.copytree(prepared, self.settings.state_dir)
        else:
            server.prepare(self.settings)
        self.app = create_app(self.settings)
        self.welcome()

    def welcome(self) -> None:
        """A proposal that nobody could agree to is refused, so there are people who could: enough of them, of two
        units, with tokens for a day."""
        for user in ("hu", "sun", "gao", "lin"):
            self.token(user, "platform-admins", "unit-owners")
        for user in ("wei", "qin"):
            self.token(user, "security", unit="ai")

    @property
    def books(self) -> Any:
        return self.app.state.books

    @property
    def policy(self) -> Policy:
        """The one that is live."""
        with self.books.reading() as session:
            return policies.live(session)

    def token(self, user: str, *groups: str, unit: str | None = None, days: float = 1) -> str:
        unit = unit or HOME.get(user, "retail")
        with db.writing(self.books.engine) as session:
            return identity.create_token(session, user, list(groups), unit, life=timedelta(days=days), now=db.utc_now())

    def as_(self, user: str, *groups: str, unit: str | None = None) -> TestClient:
        """A client signed in as a user with these groups."""
        return self.anonymous(headers={"Authorization": f"Bearer {self.token(user, *groups, unit=unit)}"})

    def anonymous(self, **options: Any) -> TestClient:
        return TestClient(self.app, base_url=self.settings.issuer, raise_server_exceptions=False, **options)

    def events(self, *kinds: str) -> list[Event]:
        """What is on record, oldest first; only these kinds when some are named."""
        with db.reading(self.books.engine) as session:
            found = session.exec(select(Event).order_by(Event.at, Event.id)).all()
        return [event for event in found if not kinds or event.kind in kinds]

    def propose(self, client: TestClient, tag: str = "message-tone", **change: Any) -> httpx2.Response:
        body = {
            "kind": "new-tag",
            "tag": tag,
            "tag_kind": "business",
            "parent": "sequence-classification",
            "description": "Whether a review speaks well of what it reviews.",
            "overrides": {},
            **change,
        }
        return client.post("/v1/proposals", json={"change": body, "reason": "we train this every week"})

    def review(self, client: TestClient, proposal: dict[str, Any], verdict: str = "approve") -> httpx2.Response:
        body = {"verdict": verdict, "digest": proposal["digest"], "reason": "I read it all"}
        return client.post(f"/v1/proposals/{proposal['id']}/reviews", json=body)

    def approve_tag(self, tag: str = "message-tone", **change: Any) -> None:
        """Propose a tag and have two stewards approve it."""
        proposal = self.propose(self.as_("author", "trainers"), tag, **change).json()
        for steward in ("first", "second"):
            assert self.review(self.as_(steward, "tag-stewards"), proposal).status_code == 201


# To migrate and to seed takes longer than most tests, so they begin with a copy of what `server.prepare` left. Those
# about the start itself use settings that are not ordinary, a state folder that is there, or `empty_postgresql`.
COPIES: dict[str, Path] = {}  # databases that were copied from a prepared one: the state folder that goes with each


def _prepared_for(settings: Settings) -> Path | None:
    """A state folder to copy. Ordinary is the policy that ships, on loopback: nothing was set that decides what
    `server.prepare` leaves."""
    looked_at = ("policies_dir", "policy_source", "public_url", "host")
    ordinary = not settings.model_fields_set & set(looked_at)
    if settings.database_url is None:
        return _prepared() if ordinary else None
    assert ordinary or settings.database_url not in COPIES, "prepared by other settings; use `empty_postgresql`"
    return COPIES.get(settings.database_url)


@cache
def _prepared() -> Path:
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root)
    server.prepare(Settings(state_dir=root / "state"))
    return root / "state"


def ticket_request(task_type: str = "sequence-classification", **changes: Any) -> dict[str, Any]:
    """A request that the shipped policy grants to a trainer."""
    return {
        "task_type": task_type,
        "arguments": {"label_names": ["bad", "good"]},
        "inputs": {
            "model": {"name": "minilm", "digest": DIGEST},
            "datasets": [{"role": "train", "name": "reviews.csv", "digest": DIGEST, "rows": 100}],
            "code": {"commit": None, "dirty": None},
            "eval_fraction": 0.1,
            "columns": {},
        },
        "audience": AUDIENCE,
        "jkt": changes.pop("jkt", jws.b64url(b"k" * 32)),
        "client_id": "swift-submit/test",
        **changes,
    }


def ask(client: TestClient, body: dict[str, Any], key: str | None = None, **params: Any) -> httpx2.Response:
    """POST /v1/tickets with a fresh Idempotency-Key unless one is given."""
    return client.post("/v1/tickets", json=body, headers={"Idempotency-Key": key or db.uuid7()}, params=params)


def redeem(
    registry: Registry, grant: dict[str, Any], key: SigningKey, redemption_id: str | None = None, **proof: Any
) -> httpx2.Response:
    """Redeem a granted ticket with a proof by `key`."""
    path = f"/v1/tickets/{grant['jti']}:redeem"
    made = proofs.prove(key, method="POST", url=f"{registry.settings.issuer}{path}", ticket=grant["ticket"], **proof)
    headers = {"Authorization": f"DPoP {grant['ticket']}", "DPoP": made}
    return registry.anonymous(headers=headers).post(path, json={"redemption_id": redemption_id or db.uuid7()})


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random BERT with a tokenizer of its own."""
    from tiny import make_encoder

    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(autouse=True)
def _a_state_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trainer remembers of a registry must not meet the next test's registry on the same port."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Settings(state_dir=tmp_path / "state"))


@dataclass
class LiveRegistry(Registry):
    """The same registry behind a real socket; `stop` and `start` are its outages."""

    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._server = uvicorn.Server(server.web_server(self.app, self.settings))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline, "the registry did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=20)

    @property
    def url(self) -> str:
        return self.settings.issuer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def live_registry(tmp_path: Path) -> Iterator[LiveRegistry]:
    live = LiveRegistry(Settings(state_dir=tmp_path / "state", port=free_port()))
    live.start()
    yield live
    live.stop()


@pytest.fixture
def empty_postgresql(postgresql_server: "Cluster") -> str:
    """A database of the test's own on a real server."""
    return postgresql_server.fresh_database()


@pytest.fixture
def postgresql(postgresql_server: "Cluster", prepared_postgresql: Settings) -> str:
    """The same with what `server.prepare` leaves, for a registry that `Registry` makes."""
    assert prepared_postgresql.database_url is not None
    url = postgresql_server.fresh_database(like=prepared_postgresql.database_url)
    COPIES[url] = prepared_postgresql.state_dir
    return url


@pytest.fixture(scope="session")
def prepared_postgresql(postgresql_server: "Cluster", tmp_path_factory: pytest.TempPathFactory) -> Settings:
    state = tmp_path_factory.mktemp("prepared") / "state"
    settings = Settings(state_dir=state, database_url=postgresql_server.fresh_database())
    server.prepare(settings)
    return settings


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Cluster"]:
    """A real server, one for all tests."""
    from clusters import Cluster, NoServer

    try:
        cluster = Cluster(tmp_path_factory.mktemp("postgresql"), free_port())
    except NoServer as missing:
        pytest.skip(str(missing))
    cluster.start()
    yield cluster
    cluster.stop()
