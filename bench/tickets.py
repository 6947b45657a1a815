"""Ticket issue under load: requests/s, latency, and the servers' CPU time per request, beside two peers.

    python bench/tickets.py [seconds] [rounds]

All in the same run, with the same load tool (wrk, 32 connections, one thread), in interleaved rounds:

    peer RS256        node oidc-provider, client-credentials grant, all in memory (bench/peer.mjs): the access token
                      is a JWT signed with RS256, its default algorithm
    peer Ed25519      the same, signed as our tickets are
    peer opaque       the same, with nothing signed: 32 random bytes
    fastapi+pydantic  a bare FastAPI route that only parses the same body; what the framework costs
    no store          ticket issue with a writer that writes nothing
    SQLite            ticket issue, durable: decided, canonicalised, signed, logged, one fsync a batch
    PostgreSQL        the same by two web processes over one database, each with half of the connections

CPU time is read from /proc for the server processes (without the database's own), so that ratios hold on a busy
machine: of each row the round with the lowest counts. wrk takes a refusal for an answer, so one refusal ends the run.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from clusters import Cluster, NoServer  # noqa: E402
from conftest import free_port  # noqa: E402

CONNECTIONS = 32
BARE = """
import sys, uvicorn
from fastapi import FastAPI
from enforcer import wire
app = FastAPI()
@app.post("/v1/tickets", status_code=201)
def echo(asked: wire.TicketRequest) -> dict[str, str]:
    return {"task_type": asked.task_type}
@app.get("/readyz")
def ready() -> dict[str, str]:
    return {}
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
"""
NO_STORE = """
import gc, sys, uvicorn
from registry import server
from registry.app import create_app
from registry.settings import Settings
class NoStore:
    async def write(self, draft):
        return True
settings = Settings(port=int(sys.argv[1]))
server.prepare(settings)
app = create_app(settings)
app.state.books.writer = NoStore()
gc.freeze()  # as `tagwarden serve` does
uvicorn.run(app, port=settings.port, access_log=False, log_level="warning", lifespan="off")
"""
DIGEST = "sha256:" + "a" * 64
REQUEST = {
    "task_type": "sequence-classification",
    "arguments": {"label_names": ["bad", "good"], "use_lora": True, "lora_rank": 16},
    "inputs": {
        "model": {"name": "minilm", "digest": DIGEST},
        "datasets": [{"role": "train", "name": "reviews.csv", "digest": DIGEST, "rows": 100}],
        "code": {"commit": None, "dirty": None},
        "eval_fraction": 0.1,
        "columns": {},
    },
    "audience": "urn:swift:exec:local:bench",
    "jkt": "k" * 43,
    "client_id": "bench",
}
# One request per Idempotency-Key: a repeated key would be answered from the books.
TICKETS_LUA = """
local body = [==[%s]==]
local run = "%s"
local count = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
request = function()
  count = count + 1
  wrk.headers["Idempotency-Key"] = run .. count
  return wrk.format(nil, nil, nil, body)
end
"""
GRANTS_LUA = """
wrk.method = "POST"
wrk.body = "grant_type=client_credentials"
wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
wrk.headers["Authorization"] = "Basic YmVuY2g6YmVuY2gtc2VjcmV0LW9mLXRoZS1wZWVy"
"""


@dataclass
class Row:
    """One thing that is measured: its processes by port, and what to send them."""

    name: str
    processes: dict[int, subprocess.Popen[bytes]]
    path: str = "/v1/tickets"
    token: str = ""
    rate: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_us: float = float("inf")

    def measure(self, folder: Path, seconds: float) -> None:
        self._load(folder, 1, "warm")
        before = self._cpu_seconds()
        reports = self._load(folder, seconds, "run")
        used = self._cpu_seconds() - before
        requests = sum(int(re.search(r"(\d+) requests in", report)[1]) for report in reports)
        cpu_us = used / requests * 1e6
        if cpu_us < self.cpu_us:
            self.cpu_us = cpu_us
            self.rate = sum(float(re.search(r"Requests/sec:\s+([\d.]+)", report)[1]) for report in reports)
            self.p50_ms = max(latency_ms(report, "50%") for report in reports)
            self.p99_ms = max(latency_ms(report, "99%") for report in reports)

    def _load(self, folder: Path, seconds: float, name: str) -> list[str]:
        running = []
        for port in self.processes:
            run = f"{name}-{port}-{time.time_ns()}-"
            tickets = TICKETS_LUA % (json.dumps(REQUEST), run, self.token)
            script = folder / f"{port}.lua"
            script.write_text(tickets if self.token or self.name.startswith("fastapi") else GRANTS_LUA)
            share = CONNECTIONS // len(self.processes)
            command = ["wrk", "-t1", f"-c{share}", f"-d{seconds}s", "--latency", "-s", str(script)]
            url = f"http://127.0.0.1:{port}{self.path}"
            running.append(subprocess.Popen([*command, url], stdout=subprocess.PIPE, text=True))
        reports = [process.communicate()[0] for process in running]
        for report in reports:
            if failed := re.search(r"Non-2xx or 3xx responses: (\d+)", report):
                sys.exit(f"{self.name}: {failed[1]} requests were refused; the figures would mean nothing")
        return reports

    def _cpu_seconds(self) -> float:
        return sum(cpu_seconds(process.pid) for process in self.processes.values())


def main() -> None:
    seconds, rounds = (int(sys.argv[at]) if len(sys.argv) > at else default for at, default in ((1, 4), (2, 4)))
    if shutil.which("wrk") is None:
        sys.exit("bench/tickets.py needs the load tool wrk; install the package `wrk`")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        rows = [stack.enter_context(oidc_provider(alg)) for alg in ("RS256", "Ed25519", "opaque")]
        rows += [stack.enter_context(row(folder)) for row in (bare, no_store, on_sqlite, on_postgresql)]
        for _ in range(rounds):
            for row in rows:
                row.measure(folder, seconds)
        by_name = {row.name: row for row in rows}
        print(
            f"{'':18} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU us/req':>11} {'x RS256':>8} {'x Ed25519':>10} "
            f"{'rate x no store':>16}"
        )
        for row in rows:
            print(
                f"{row.name:18} {row.rate:8.0f} {row.p50_ms:8.1f} {row.p99_ms:8.1f} {row.cpu_us:11.0f} "
                f"{row.cpu_us / by_name['peer RS256'].cpu_us:8.2f} {row.cpu_us / by_name['peer Ed25519'].cpu_us:10.2f} "
                f"{row.rate / by_name['no store'].rate:16.2f}"
            )


@contextlib.contextmanager
def oidc_provider(alg: str) -> Iterator[Row]:
    modules = ROOT / "tests" / "node" / "node_modules"
    if not modules.is_dir():
        sys.exit("bench/tickets.py measures beside oidc-provider: `npm ci --prefix tests/node`")
    port = free_port()
    command = ["node", str(ROOT / "bench" / "peer.mjs"), str(port), str(modules), *([] if alg == "opaque" else [alg])]
    with serving({port: command}, {**os.environ, "NODE_ENV": "production"}, "/.well-known/openid-configuration") as up:
        yield Row(f"peer {alg}", up, path="/token")


@contextlib.contextmanager
def bare(_folder: Path) -> Iterator[Row]:
    port = free_port()
    with serving({port: [sys.executable, "-c", BARE, str(port)]}, dict(os.environ)) as up:
        yield Row("fastapi+pydantic", up)


@contextlib.contextmanager
def no_store(folder: Path) -> Iterator[Row]:
    port, environment = free_port(), at(folder / "no-store")
    token = make_token(environment)
    with serving({port: [sys.executable, "-c", NO_STORE, str(port)]}, environment) as up:
        yield Row("no store", up, token=token)


@contextlib.contextmanager
def on_sqlite(folder: Path) -> Iterator[Row]:
    port, environment = free_port(), at(folder / "sqlite")
    token = make_token(environment)
    with serving({port: serve(port)}, environment) as up:
        yield Row("SQLite", up, token=token)


@contextlib.contextmanager
def on_postgresql(folder: Path) -> Iterator[Row]:
    place = folder / "postgresql"
    place.mkdir()
    try:
        cluster = Cluster(place, free_port())
    except NoServer as missing:
        sys.exit(str(missing))
    cluster.start()
    try:
        ports = [free_port(), free_port()]
        environment = at(
            folder / "web", TAGWARDEN_DATABASE_URL=cluster.url, TAGWARDEN_PUBLIC_URL=f"http://127.0.0.1:{ports[0]}"
        )
        token = make_token(environment)
        with serving({port: serve(port) for port in ports}, environment) as up:
            yield Row("PostgreSQL, two", up, token=token)
    finally:
        cluster.stop()


def at(folder: Path, **more: str) -> dict[str, str]:
    folder.mkdir()
    unlimited = {"TAGWARDEN_TICKETS_PER_MINUTE": "100000000"}  # counted, and never used up
    return {**os.environ, "TAGWARDEN_STATE_DIR": str(folder), "XDG_RUNTIME_DIR": str(folder), **unlimited, **more}


def make_token(environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "registry", "token", "create", "bench", "--group", "trainers", "--unit", "retail"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def serve(port: int) -> list[str]:
    return [sys.executable, "-m", "registry", "serve", "--port", str(port)]


@contextlib.contextmanager
def serving(
    commands: dict[int, list[str]], environment: dict[str, str], ready: str = "/readyz"
) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    processes: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for port, command in commands.items():  # one after the other: the first one migrates
            processes[port] = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            wait_until_ready(f"http://127.0.0.1:{port}{ready}")
        yield processes
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        for process in processes.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def latency_ms(report: str, percentile: str) -> float:
    value, unit = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", report).groups()
    return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx2.get(url).raise_for_status()
            return
        except httpx2.TransportError:
            time.sleep(0.1)
    sys.exit(f"{url} did not get ready")


if __name__ == "__main__":
    main()
