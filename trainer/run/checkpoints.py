"""Every trainer is a witness of the registry's log: it keeps the newest signed head it was given, and compares.

Per registry, in the user's state folder: `newest` (a C2SP checkpoint), `keys.json` (the log's keys as first seen; later
ones are taken only together with them), and `inconsistent-*` where a registry contradicted itself. A registry that does
not answer proves nothing and stops nothing.
"""

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from enforcer import tlog
from enforcer.keys import KeySet, KeyUnusable
from enforcer.notes import LogInvalid, NoteKey, Witnesses
from enforcer.problems import LogInconsistent, NotConfigured, Problem
from enforcer.tlog import Head
from trainer.client import Registry
from trainer.settings import Settings


def witness(registry: Registry, note: str) -> None:
    """Take up a head of the log: it must continue the newest one that is kept here.

    Raises:
        LogInconsistent: it does not, or is signed by none of the log's keys; both notes are kept.
    """
    folder = _folder(registry.settings)
    try:
        with _locked(folder):
            keys = _keys(registry, folder)
            _compare(registry, folder, note, keys)
    except OSError:  # no state folder, no witness: a home that cannot be written stops no run
        return


def pinned_keys(settings: Settings) -> KeySet:
    """The log's keys that this machine trusts.

    Raises:
        NotConfigured: there are none, or they cannot be read.
    """
    path = Path(settings.log_keys).expanduser() if settings.log_keys else _folder(settings) / "keys.json"
    try:
        return KeySet.load(path)
    except KeyUnusable as error:
        raise NotConfigured(
            f"the keys of the registry's log are needed to check a proof, and are not usable: {error}; "
            "name a JWKS file as `SWIFT_SUBMIT_LOG_KEYS`",
            setting="SWIFT_SUBMIT_LOG_KEYS",
        ) from error


def witnesses(settings: Settings) -> Witnesses | None:
    """Whose cosignatures a proof needs; None when none is asked for."""
    try:
        keys = tuple(NoteKey.parse(vkey) for vkey in settings.log_witnesses)
    except LogInvalid as error:
        raise NotConfigured(f"`log_witnesses`: {error}", setting="SWIFT_SUBMIT_LOG_WITNESSES") from error
    return Witnesses(keys, settings.log_quorum) if settings.log_quorum else None


def _compare(registry: Registry, folder: Path, note: str, keys: KeySet) -> None:
    newest = folder / "newest"
    try:
        head = tlog.open_checkpoint(note, keys)
    except LogInvalid as error:
        raise _contradiction(registry, folder, note, None, f"a head of its log does not hold: {error}") from error
    kept = newest.read_text("utf-8") if newest.exists() else None
    if kept is not None:
        try:
            known = tlog.open_checkpoint(kept, keys)
        except LogInvalid as error:
            raise _contradiction(registry, folder, note, kept, f"the head kept here does not hold: {error}") from error
        try:
            proven = _continues(registry, known, head)
        except LogInvalid as error:
            raise _contradiction(registry, folder, note, kept, str(error)) from error
        if head.size <= known.size or not proven:
            return
    _write(newest, note)


def _continues(registry: Registry, known: Head, head: Head) -> bool:
    """Whether one was shown to continue the other; a smaller one may be an answer of a moment ago. What was not shown
    is not kept, so that the next answer is compared with what was.

    Raises:
        LogInvalid: they are heads of no one log.
    """
    if known.origin != head.origin:
        raise LogInvalid(f"it calls its log `{head.origin}` now, and it was `{known.origin}`")
    old, new = sorted((known, head), key=lambda found: found.size)
    path: list[bytes] = []
    if old.size == 0:
        return True
    if old.size != new.size:
        try:
            path = [base64.b64decode(node) for node in registry.consistency(old.size, new.size).proof]
        except LogInconsistent as refusal:  # its own log is shorter than what it signed
            raise LogInvalid(f"it cannot show that its log continues what it signed: {refusal.detail}") from refusal
        except Problem:
            return False
        except ValueError as error:
            raise LogInvalid("its proof of consistency is not base64") from error
    tlog.check_consistency(old.size, old.root, new.size, new.root, path)
    return True


def _keys(registry: Registry, folder: Path) -> KeySet:
    """The pinned keys; new ones of the registry join them when the old ones are still in its set, or among those that
    it says are over."""
    if registry.settings.log_keys:
        return pinned_keys(registry.settings)
    file = folder / "keys.json"
    pinned = KeySet.load(file) if file.exists() else None
    try:
        served = list(json.loads(registry.log_keys())["keys"])
        found = KeySet.from_jwks({"keys": served})
        if pinned is not None and not _all_in(pinned, found):
            over = [jwk for jwk in json.loads(registry.retired_keys())["keys"] if jwk.get("purpose") == "log"]
            served, found = [*served, *over], KeySet.from_jwks({"keys": [*served, *over]})
    except (Problem, ValueError, KeyError, TypeError, AttributeError, KeyUnusable):
        if pinned is None:
            raise OSError("nothing to compare with") from None
        return pinned
    if pinned is not None and not _all_in(pinned, found):
        raise LogInconsistent(
            f"`{registry.settings.server}` signs its log with other keys than before, and no longer shows the old "
            f"ones; ask its owner, and if it is a new registry, delete `{folder}`",
            evidence=str(folder),
        )
    if pinned is None or len(found) > len(pinned):
        _write(file, json.dumps({"keys": served}))
    return found


def _all_in(pinned: KeySet, found: KeySet) -> bool:
    return all(_same_key(pinned, found, kid) for kid in pinned)


def _same_key(pinned: KeySet, found: KeySet, kid: str) -> bool:
    ours, theirs = pinned.raw(kid), found.raw(kid)
    return ours is not None and theirs is not None and ours.public_bytes_raw() == theirs.public_bytes_raw()


def _contradiction(registry: Registry, folder: Path, note: str, kept: str | None, why: str) -> LogInconsistent:
    evidence = folder / f"inconsistent-{hashlib.sha256(note.encode()).hexdigest()[:16]}"
    evidence.mkdir(mode=0o700, exist_ok=True)
    _write(evidence / "given", note)
    if kept is not None:
        _write(evidence / "kept", kept)
    return LogInconsistent(
        f"the log of `{registry.settings.server}` contradicts itself: {why}. Nothing was started; tell whoever audits "
        f"it, both heads are in `{evidence}`",
        evidence=str(evidence),
    )


def _folder(settings: Settings) -> Path:
    host = re.sub(r"[^a-z0-9.-]", "_", urlsplit(settings.issuer).netloc.lower()) or "_"
    return platformdirs.user_state_path("swift-submit") / "checkpoints" / host[:200]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
