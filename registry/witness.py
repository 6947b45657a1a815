"""A witness of its own, for a second host: it cosigns a log's head once it has seen that it continues the last one.

C2SP tlog-witness over plain HTTP (a proxy brings TLS). It keeps one small file: per log, the largest size it cosigned
and its root. Whoever wants to roll the log back, or to show two of them, has to be the witness as well.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from enforcer import notes, tlog
from enforcer.keys import SigningKey
from enforcer.notes import LogInvalid, Note, NoteKey

MAX_BODY_BYTES = 64 * 1024
TIMEOUT_S = 10.0
TEXT, SIZE = "text/plain; charset=utf-8", "text/x.tlog.size"
Reply = tuple[int, str, str]


class Witness:
    """What was cosigned, and the rule by which more is."""

    def __init__(
        self, name: str, key: SigningKey, logs: Mapping[str, NoteKey], state: Path, now: Callable[[], float] = time.time
    ) -> None:
        """`logs` are the logs it knows, by origin. Raises `OSError` or `ValueError` when `state` cannot be read."""
        self.key = NoteKey.of(key, name, notes.COSIGNATURE)
        self._name, self._signing, self._logs, self._file, self._now = name, key, dict(logs), state, now
        self._one_at_a_time = threading.Lock()
        self._seen: dict[str, tuple[int, str]] = {}
        if state.exists():
            self._seen = {
                origin: (int(size), str(root)) for origin, (size, root) in json.loads(state.read_text()).items()
            }

    def add_checkpoint(self, body: str) -> Reply:
        """Status, media type and text that the protocol gives to this request."""
        try:
            old, path, note = _request(body)
            parsed = Note.parse(note)
            head = tlog.read_checkpoint(parsed)
        except LogInvalid as error:
            return 400, TEXT, f"{error}\n"
        log = self._logs.get(head.origin)
        if log is None:
            return 404, TEXT, "this log is not known here\n"
        try:
            signed = parsed.signed_at(log) is not None
        except LogInvalid:
            signed = False
        if not signed:
            return 403, TEXT, "the checkpoint is not signed by the log's key\n"
        if old > head.size:
            return 400, TEXT, "the old size is larger than the checkpoint's\n"
        with self._one_at_a_time:
            size, root = self._seen.get(head.origin, (0, ""))
            if old != size or (size == head.size and size and root != head.root.hex()):
                return 409, SIZE, f"{size}\n"
            try:
                if size:
                    tlog.check_consistency(size, bytes.fromhex(root), head.size, head.root, path)
                elif path:
                    raise LogInvalid("there is nothing to be consistent with, so the proof must be empty")
            except LogInvalid as error:
                return 422, TEXT, f"{error}\n"
            self._keep(head.origin, head.size, head.root.hex())
        return 200, TEXT, notes.cosign(parsed.text, self._name, self._signing, int(self._now())) + "\n"

    def _keep(self, origin: str, size: int, root: str) -> None:
        """On disk before anybody hears of it."""
        seen = {**self._seen, origin: (size, root)}
        fresh = self._file.with_name(f".{self._file.name}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(seen, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._seen = seen


def server(witness: Witness, host: str, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdecimal() and len(length) < 9 and int(length) <= MAX_BODY_BYTES):
                self._answer(400, TEXT, "a body of at most 64 KiB with its length is needed\n", close=True)
                return
            body = self.rfile.read(int(length))
            if self.path != "/add-checkpoint":
                self._answer(404, TEXT, "only /add-checkpoint is served here\n")
                return
            try:
                text = body.decode("utf-8")
            except UnicodeDecodeError:
                self._answer(400, TEXT, "the body is not UTF-8\n")
                return
            self._answer(*witness.add_checkpoint(text))

        def _answer(self, status: int, kind: str, text: str, *, close: bool = False) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if close:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing: a request says nothing that the answer does not."""

    return ThreadingHTTPServer((host, port), Handler)


def _request(body: str) -> tuple[int, list[bytes], str]:
    top, gap, note = body.partition("\n\n")
    first, *lines = top.split("\n")
    digits = first.removeprefix("old ")
    if not gap or not first.startswith("old ") or not (digits.isascii() and digits.isdecimal() and len(digits) < 19):
        raise LogInvalid("the request begins with `old` and a size, then the proof, an empty line, the checkpoint")
    path = [notes.b64decode(line, "a line of the proof") for line in lines]
    if str(int(digits)) != digits or len(path) > 63 or any(len(node) != 32 for node in path):
        raise LogInvalid("the old size has leading zeroes, or the proof is not at most 63 hashes")
    return int(digits), path, note
