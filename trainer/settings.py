"""Where the registry is and who we are there: flag > environment > `~/.config/swift-submit/config.toml` > default.

A folder that was cloned from somewhere cannot set any of this: a project's file must not redirect a person's token.
"""

import difflib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from enforcer import local
from enforcer.problems import NotConfigured

DEFAULT_SERVER = "http://127.0.0.1:8710"
DEFAULT_TIMEOUT_S = 30.0
ENVIRONMENT = {
    "server": "SWIFT_SUBMIT_SERVER",
    "token": "SWIFT_SUBMIT_TOKEN",
    "token_file": "SWIFT_SUBMIT_TOKEN_FILE",
    "issuer": "SWIFT_SUBMIT_ISSUER",
    "allow_http": "SWIFT_SUBMIT_ALLOW_HTTP",
    "log_proof": "SWIFT_SUBMIT_LOG_PROOF",
    "log_keys": "SWIFT_SUBMIT_LOG_KEYS",
    "log_witnesses": "SWIFT_SUBMIT_LOG_WITNESSES",
    "log_quorum": "SWIFT_SUBMIT_LOG_QUORUM",
}
# What this machine is. The process that trains reads it where it runs; nobody tells it.
HERE = {
    "cluster": "SWIFT_SUBMIT_CLUSTER",
    "replay_dir": "SWIFT_SUBMIT_REPLAY_DIR",
    "revoked": "SWIFT_SUBMIT_REVOKED",
    "serve_key": "SWIFT_SUBMIT_SERVE_KEY",
    "judge": "SWIFT_SUBMIT_JUDGE",
    "judge_key": "SWIFT_SUBMIT_JUDGE_KEY",
    "judge_key_file": "SWIFT_SUBMIT_JUDGE_KEY_FILE",
    "ms_swift": "SWIFT_SUBMIT_MS_SWIFT",
}
_CLUSTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
# Not `token`: a secret has a file of its own. Not `allow_http`: it is said of one network, not once for all.
IN_FILE = ("server", "token_file", "issuer", "timeout", "log_proof", "log_keys", "log_witnesses", "log_quorum")


@dataclass(frozen=True)
class Settings:
    """`issuer` is what tickets must name as `iss`: the server's address, unless it is known by another name.

    `allow_http` lets tokens cross a network in clear; loopback needs no leave. `log_proof` makes a worker demand proof
    that its ticket's issuance is in the registry's log: by the keys in the JWKS file `log_keys` (left out, those pinned
    when this machine first saw that registry), cosigned by `log_quorum` of `log_witnesses` (verifier keys). `session`
    is the file that `swift-submit auth login` left for this server; it is looked into when a request needs it.
    """

    server: str = DEFAULT_SERVER
    token: str | None = field(default=None, repr=False)
    issuer: str = ""
    timeout_s: float = DEFAULT_TIMEOUT_S
    allow_http: bool = False
    log_proof: Literal["off", "required"] = "off"
    log_keys: str | None = None
    log_witnesses: tuple[str, ...] = ()
    log_quorum: int = 0
    session: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "issuer", self.issuer or self.server)

    @property
    def on_loopback(self) -> bool:
        return local.is_loopback_url(self.server)

    @property
    def in_clear(self) -> bool:
        return urlsplit(self.server).scheme == "http" and not (self.on_loopback or self.allow_http)


def load(flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from all places.

    Raises:
        NotConfigured: an address that is none, an unknown key in the file, or a token file that others can read.
    """
    environment = os.environ if environment is None else environment
    from_environment = {
        name: environment[variable] for name, variable in ENVIRONMENT.items() if environment.get(variable)
    }
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    chosen: dict[str, Any] = {**_from_file(config_file()), **from_environment, **given}
    server = _address(str(chosen.get("server", DEFAULT_SERVER)), "the server's address")
    token = _token_said(chosen)
    session = None if token else _signed_in(server)
    return Settings(
        server=server,
        token=token if token or session else _token_left_here(server),
        session=session,
        issuer=str(chosen.get("issuer") or ""),
        timeout_s=_seconds(chosen.get("timeout", DEFAULT_TIMEOUT_S)),
        allow_http=chosen.get("allow_http") == "1",
        **_log(chosen),
    )


def log_settings() -> dict[str, Any]:
    """What this machine demands of a proof, by file and environment alone."""
    named = {name: os.environ[variable] for name, variable in ENVIRONMENT.items() if os.environ.get(variable)}
    return _log({**_from_file(config_file()), **named})


@dataclass(frozen=True)
class Judge:
    """A judge of answers that this machine knows, and its key."""

    url: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0  # a long comparison by a large model
    allow_http: bool = False


def judge(url: str, *, allow_http: bool = False) -> Judge:
    """The judge at `url`, with the key of this machine's environment.

    Raises:
        NotConfigured: an address that is none, or a key file that others can read.
    """
    allow_http = allow_http or os.environ.get(ENVIRONMENT["allow_http"]) == "1"
    key = os.environ.get(HERE["judge_key"], "").strip() or None
    if key is None and (file := os.environ.get(HERE["judge_key_file"])):
        key = read_secret(Path(file).expanduser()) or None
    return Judge(_address(url, "the judge's address"), key, allow_http=allow_http)


def judge_address() -> str:
    """Raises `NotConfigured` where this machine names no judge."""
    if address := os.environ.get(HERE["judge"]):
        return address
    raise NotConfigured(
        f"`judge_model` names who judges, and this machine does not say where; set `{HERE['judge']}` to an "
        "OpenAI-compatible address, such as `http://127.0.0.1:8000/v1`",
        setting=HERE["judge"],
    )


def config_file() -> Path:
    import platformdirs

    return platformdirs.user_config_path("swift-submit") / "config.toml"


def session_file(server: str) -> Path:
    """Where `swift-submit auth login` notes that somebody signed in to this server."""
    import platformdirs

    name = hashlib.sha256(server.encode()).hexdigest()[:24]
    return platformdirs.user_state_path("swift-submit") / "sessions" / f"{name}.json"


def host_id() -> str:
    """A stable name for this machine that does not give away its machine id (machine-id(5) asks for that).

    Containers often have no machine id; a random one is then kept in the state directory.
    """
    try:
        identity = Path("/etc/machine-id").read_text().strip()
    except OSError:
        identity = ""
    return hashlib.sha256(b"swift-submit host\0" + (identity or _kept_identity()).encode()).hexdigest()[:24]


def local_audience() -> str:
    """The one string that a ticket for this machine, or for the cluster it belongs to, must carry as `aud`.

    Raises:
        NotConfigured: a cluster's name that is none.
    """
    cluster = os.environ.get(HERE["cluster"])
    if not cluster:
        return f"urn:swift:exec:local:{host_id()}"
    if cluster == "local" or not _CLUSTER.fullmatch(cluster):
        raise NotConfigured(f"`{HERE['cluster']}`: `{cluster[:100]}` is no name; it looks like `a100-north`")
    return f"urn:swift:exec:{cluster}"


def replay_folder() -> Path:
    """Where tickets that were redeemed offline are remembered; the hosts of a cluster share one.

    Raises:
        NotConfigured: a cluster without one.
    """
    if folder := os.environ.get(HERE["replay_dir"]):
        return Path(folder).expanduser().absolute()
    if os.environ.get(HERE["cluster"]):
        raise NotConfigured(
            "an offline ticket for a cluster takes a replay cache that all its hosts see, else each of them takes it "
            f"once; set `{HERE['replay_dir']}` to a shared folder",
            setting=HERE["replay_dir"],
        )
    import platformdirs

    return platformdirs.user_state_path("swift-submit") / "replay"


def read_secret(path: Path, limit: int = 16_384) -> str:
    """The content of a file that is ours alone.

    Raises:
        NotConfigured: it is missing, a link, somebody else's, or readable by others.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise NotConfigured(f"the token file `{path}` cannot be opened: {(error.strerror or '').lower()}") from error
    with os.fdopen(descriptor, "r", encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.getuid():
            raise NotConfigured(f"the token file `{path}` belongs to another user; a token must be your own")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise NotConfigured(f"the token file `{path}` can be read by others; run `chmod 600 {path}`")
        return file.read(limit).strip()


# Closest first: a token said outright, a file said outright, a session that somebody signed in for, and then what a
# registry on this very machine left for us.
def _token_said(chosen: Mapping[str, Any]) -> str | None:
    if chosen.get("token"):
        return str(chosen["token"]).strip()
    if chosen.get("token_file"):
        return read_secret(Path(str(chosen["token_file"])).expanduser())
    return None


def _signed_in(server: str) -> Path | None:
    file = session_file(server)
    return file if os.path.lexists(file) else None


def _token_left_here(server: str) -> str | None:
    if local.is_loopback_url(server) and os.path.lexists(local.token_file()):
        return read_secret(local.token_file())
    return None


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import tomllib

    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise NotConfigured(f"`{path}` cannot be read: {error}") from error
    for name in content:
        if name == "token":
            raise NotConfigured(
                f"`{path}` holds a token; put it into a file of its own (0600) and name it as `token_file`"
            )
        if name not in IN_FILE:
            close = difflib.get_close_matches(name, IN_FILE, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"it takes {', '.join(IN_FILE)}"
            raise NotConfigured(f"`{path}`: `{name}` is not a setting; {hint}")
    return content


def _address(address: str, what: str) -> str:
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise NotConfigured(
            f"{what} `{address}` is none; it looks like `{DEFAULT_SERVER}` or `https://registry.example.org`"
        )
    return address.rstrip("/")


def _log(chosen: Mapping[str, Any]) -> dict[str, Any]:
    proof = str(chosen.get("log_proof", "off"))
    given = chosen.get("log_witnesses", ())
    witnesses = tuple(given.split() if isinstance(given, str) else map(str, given))
    quorum = str(chosen.get("log_quorum", 0))
    if proof not in ("off", "required"):
        raise NotConfigured(f"`log_proof` is `{proof}`; it takes `off` or `required`", setting="SWIFT_SUBMIT_LOG_PROOF")
    if not quorum.isdecimal() or int(quorum) > len(witnesses):
        raise NotConfigured(
            f"`log_quorum` is `{quorum}`, and `log_witnesses` names {len(witnesses)}: it takes a number up to that",
            setting="SWIFT_SUBMIT_LOG_QUORUM",
        )
    keys = chosen.get("log_keys")
    return {"log_proof": proof, "log_keys": keys and str(keys), "log_witnesses": witnesses, "log_quorum": int(quorum)}


def _seconds(value: object) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise NotConfigured(f"the timeout `{value}` is not a number of seconds between 0 and 3600")
    return seconds


def _kept_identity() -> str:
    import platformdirs

    path = platformdirs.user_state_path("swift-submit") / "host-id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="ascii") as file:
                file.write(secrets.token_hex(16))
        except FileExistsError:  # another process was faster
            pass
    return path.read_text("ascii").strip()
