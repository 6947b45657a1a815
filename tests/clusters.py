"""A real PostgreSQL server in a folder of its own, that tests may start, kill and start again."""

import os
import pwd
import shutil
import signal
import subprocess
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

    def __post_init__(self) -> None:
        if not BINARIES:
            raise NoServer("no PostgreSQL server programs in /usr/lib/postgresql; install the package `postgresql`")
        self._as_user = self._account()
        self._run("initdb", "-D", f"{self.folder}/data", "-U", "tagwarden", "-A", "trust", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql://tagwarden@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-o", options, "-l", f"{self.folder}/log", "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "stop")

    def kill(self) -> None:
        """As a power cut would: the postmaster and all its children, without a word."""
        postmaster = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in [postmaster, *map(int, children)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

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

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(BINARIES[0] / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **self._as_user)  # type: ignore[call-overload]
