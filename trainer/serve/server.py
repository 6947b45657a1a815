"""The process around the application: a socket, keys, and an end that lets answers finish."""

import importlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from enforcer.local import is_loopback
from enforcer.problems import NotConfigured
from trainer.serve.accepted import Servable
from trainer.serve.limits import Limits
from trainer.settings import HERE, read_secret

GRACE_S = 30  # what an answer that is being given has left after SIGTERM
MIN_KEY = 16  # characters: a key that can be guessed is none


@dataclass(frozen=True)
class Place:
    host: str = "127.0.0.1"
    port: int = 8720
    keys: Sequence[str] = ()

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)


def place(host: str, port: int, key_file: Path | None) -> Place:
    """Where to listen, and who may ask.

    Raises:
        NotConfigured: elsewhere than on loopback without a key, or a key that is none.
    """
    said = read_secret(key_file) if key_file is not None else os.environ.get(HERE["serve_key"], "")
    found = Place(host, port, [line.strip() for line in said.splitlines() if line.strip()])
    if any(len(key) < MIN_KEY or not key.isascii() or " " in key for key in found.keys):
        raise NotConfigured(
            f"a key has at least {MIN_KEY} characters, ASCII and no spaces; `openssl rand -hex 24` makes one"
        )
    if key_file is not None and not found.keys:
        raise NotConfigured(f"`{key_file}` holds no key; write one in each line")
    if not found.on_loopback and not found.keys:
        raise NotConfigured(
            f"`{host}` is not loopback, so whoever asks must bring a key: name a 0600 file with `--api-key-file`, or "
            f"set `{HERE['serve_key']}`"
        )
    return found


def serve(
    run: Servable, base: Path | None, where: Place, limits: Limits, names: Sequence[str], ready: Callable[[str], None]
) -> None:
    """Answer until SIGTERM or SIGINT. `ready` is told the address once requests are answered.

    Raises:
        NotConfigured: the place is taken, or the packages that serve are not installed.
        Problem: the model cannot be served.
    """
    uvicorn, create_app, Serving = _stack()  # noqa: N806 -- a class
    listener = _listen(where)  # before the model loads: a port that is taken is told at once
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of ours use it
    engine = importlib.import_module("trainer.serve.engines").load(run, base)
    address = f"http://{f'[{where.host}]' if ':' in where.host else where.host}:{listener.getsockname()[1]}"

    def started() -> None:
        listener.listen(2048)
        ready(address)

    app = create_app(Serving(run, engine, limits, names), keys=where.keys, loopback=where.on_loopback, ready=started)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app, access_log=False, log_config=None, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    # uvicorn raises the signal again once everything has ended; by then there is nothing left to do.
    signal.signal(signal.SIGTERM, _end)
    uvicorn.Server(config).run(sockets=[listener])


def _end(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def _stack() -> tuple[Any, ...]:
    try:
        import uvicorn

        app, serving = (importlib.import_module(f"trainer.serve.{name}") for name in ("app", "serving"))
        importlib.import_module("torch")
    except ImportError as error:
        raise NotConfigured(
            f"serving needs more packages (`{error.name}` is missing): `pip install 'tagwarden[serve,trainer]'`"
        ) from error
    return uvicorn, app.create_app, serving.Serving


def _listen(where: Place) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((where.host, where.port))
    except OSError as error:
        raise NotConfigured(
            f"`{where.host}:{where.port}` cannot be listened on ({(error.strerror or str(error)).lower()}); choose "
            "another with `--port`, or stop what listens there"
        ) from error
    return listener
