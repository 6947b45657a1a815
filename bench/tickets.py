"""Ticket issue under load: requests/s, latency, and the server's CPU time per request, beside a named peer.

    python bench/tickets.py [seconds]

The peer, in the same run and with the same load tool (wrk, 32 connections, one thread), is `fastapi+pydantic`: a bare
FastAPI route that only parses the same body and answers; what the framework costs.

CPU time is read from /proc for the server process alone, so that ratios hold on a busy machine.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

CONNECTIONS = 32
BARE = """
import uvicorn
from fastapi import FastAPI
from enforcer import wire
app = FastAPI()
@app.post("/v1/tickets", status_code=201)
def echo(asked: wire.TicketRequest) -> dict[str, str]:
    return {"task_type": asked.task_type}
@app.get("/readyz")
def ready() -> dict[str, str]:
    return {}
uvicorn.run(app, port=%d, access_log=False, log_level="warning")
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
LUA = """
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


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    if shutil.which("wrk") is None:
        sys.exit("bench/tickets.py needs the load tool wrk; install the package `wrk`")
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            "fastapi+pydantic": measure([sys.executable, "-c", BARE % 8791], 8791, "", Path(folder), seconds),
            "ticket issue": measure_registry(8792, Path(folder), seconds),
        }
    floor = rows["fastapi+pydantic"]["cpu_us"]
    print(f"{'':18} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU us/req':>11} {'CPU ratio':>10}")
    for name, row in rows.items():
        print(
            f"{name:18} {row['rate']:8.0f} {row['p50_ms']:8.1f} {row['p99_ms']:8.1f} {row['cpu_us']:11.0f} "
            f"{row['cpu_us'] / floor:10.2f}"
        )


def measure_registry(port: int, folder: Path, seconds: int) -> dict[str, float]:
    environment = {
        **os.environ,
        "TAGWARDEN_STATE_DIR": str(folder / "state"),
        "XDG_RUNTIME_DIR": str(folder),
        "TAGWARDEN_TICKETS_PER_MINUTE": "100000000",  # counted, and never used up
    }
    tagwarden = [sys.executable, "-m", "registry"]
    made = subprocess.run(
        [*tagwarden, "token", "create", "bench", "--group", "trainers", "--unit", "retail"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    serve = [*tagwarden, "serve", "--port", str(port)]
    return measure(serve, port, made.stdout.strip(), folder, seconds, environment)


def measure(
    command: list[str], port: int, token: str, folder: Path, seconds: int, environment: dict[str, str] | None = None
) -> dict[str, float]:
    script = folder / "post.lua"
    server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(port)
        load(script, port, token, 2, "warm")
        before = cpu_seconds(server.pid)
        report = load(script, port, token, seconds, "run")
        used = cpu_seconds(server.pid) - before
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
    requests = int(re.search(r"(\d+) requests in", report)[1])
    if failed := re.search(r"Non-2xx or 3xx responses: (\d+)", report):
        sys.exit(f"{failed[1]} of {requests} requests were refused; the figures would mean nothing")
    return {
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", report)[1]),
        "p50_ms": latency_ms(report, "50%"),
        "p99_ms": latency_ms(report, "99%"),
        "cpu_us": used / requests * 1e6,
    }


def load(script: Path, port: int, token: str, seconds: int, name: str) -> str:
    script.write_text(LUA % (json.dumps(REQUEST), f"{name}-{time.time_ns()}-", token))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script)]
    url = f"http://127.0.0.1:{port}/v1/tickets"
    return subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout


def latency_ms(report: str, percentile: str) -> float:
    value, unit = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", report).groups()
    return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx2.get(f"http://127.0.0.1:{port}/readyz").raise_for_status()
            return
        except httpx2.TransportError:
            time.sleep(0.1)
    sys.exit("the server did not get ready")


if __name__ == "__main__":
    main()
