"""A real PostgreSQL server in a folder of its own, that tests may start, kill and start again."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


class NoServer(Exception):
    """This machine cannot run one; the message says what to install."""


@dataclass
class Cluster:
    folder: Path
    port: int
    _as_user: dict[str, object] = field(init=False)
    _server: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        if not BINARIES:
            raise NoServer("no PostgreSQL server programs in /usr/lib/postgresql; install the package `postgresql`")
        self._as_user = self._account()
        self._run("initdb", "-D", f"{self.folder}/data", "-U", "tagwarden", "-A", "trust", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql://tagwarden@127.0.0.1:{self.port}/postgres"

    def fresh_database(self, like: str = "template1") -> str:
        """The URL of a database of a test's own: each registry has its own keys, and one of them signs its log. It is
        a copy of another, which nobody may be connected to, where one is named (its name or URL)."""
        name, template = f"test_{secrets.token_hex(6)}", like.rpartition("/")[2]
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "tagwarden", "-T", template, name)
        return f"{self.url.rpartition('/')[0]}/{name}"

    def start(self) -> None:
        """As our own child, so that it can be reaped: a zombie still owns its lock file."""
        command = [str(BINARIES[0] / "postgres"), "-D", f"{self.folder}/data", "-p", str(self.port)]
        command += ["-k", str(self.folder), "-c", "listen_addresses=127.0.0.1"]
        command += ["-c", "max_connections=500"]  # each registry of a test keeps a pool
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._as_user)  # type: ignore[call-overload]
        self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), until_done_s=30)

    def stop(self) -> None:
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(timeout=30)

    def kill(self) -> None:
        """As a power cut would: the postmaster and all its children, without a word."""
        pid = self._server.pid
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for victim in [pid, *children]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        self._server.wait()
        # Whoever still holds the shared memory keeps the next server from starting.
        deadline = time.monotonic() + 10
        while any(_lives(child) for child in children):
            assert time.monotonic() < deadline, "the server does not die"
            time.sleep(0.01)

    def _account(self) -> dict[str, object]:
        if os.getuid() != 0:
            return {}
        try:  # the server refuses to run as root
            account = pwd.getpwnam("postgres")
        except KeyError:
            raise NoServer("running as root without an account `postgres` to run the server as") from None
        for place in (self.folder, *self.folder.parents):
            if place == Path("/tmp") or place.stat().st_uid != 0 or place == Path("/"):
                break
            place.chmod(0o755)
        shutil.chown(self.folder, account.pw_uid, account.pw_gid)
        return {"user": account.pw_uid, "group": account.pw_gid}

    def _run(self, program: str, *arguments: str, until_done_s: float = 0) -> None:
        command = [str(BINARIES[0] / program), *arguments]
        deadline = time.monotonic() + until_done_s
        while True:
            last = time.monotonic() >= deadline
            done = subprocess.run(command, check=last, stdout=subprocess.DEVNULL, cwd=self.folder, **self._as_user)  # type: ignore[call-overload]
            if done.returncode == 0:
                return
            time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
