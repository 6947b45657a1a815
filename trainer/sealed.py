"""Checkpoints that show whether they are whole.

A checkpoint is sealed when `SHA256SUMS` stands in it, written last, after everything else is on the disk: one line for
each file as `sha256sum` writes it, so `sha256sum -c SHA256SUMS` says the same. One without was cut off while it was
saved. It proves no origin: that is for the ticket, which binds the digest over all its files.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from enforcer import runspec
from enforcer.problems import CheckpointInvalid
from trainer.inputs import folders

SUMS = "SHA256SUMS"
# Pickles, which torch reads with `weights_only`: numbers and containers, and no code. Any other is refused.
STATE_OF_TORCH = re.compile(r"(optimizer|scheduler|scaler)\.pt|rng_state(_[0-9]{1,4})?\.pth")
ARGUMENTS = "training_args.bin"  # a pickle of library classes, with paths of this machine; nothing reads it again
_NAME = re.compile(r"checkpoint-(?P<step>[1-9][0-9]{0,15})")
_LINE = re.compile(r"(?P<hex>[0-9a-f]{64})  (?P<path>[^\n]+)")


def seal(folder: Path) -> None:
    """Say what is in a checkpoint that has just been saved, and let go of those before it."""
    for name in (ARGUMENTS, SUMS):
        (folder / name).unlink(missing_ok=True)
    digests = folders.file_digests(folder)
    for name in digests:
        _to_disk(folder / name)
    part = folder / f".{SUMS}.part"
    part.write_text("".join(f"{runspec.hex_of(digest)}  {name}\n" for name, digest in digests.items()), "utf-8")
    _to_disk(part)
    part.replace(folder / SUMS)
    _to_disk(folder)
    for older in _checkpoints(folder.parent):
        if older != folder:
            shutil.rmtree(older)


def newest(checkpoints: Path) -> Path:
    """The last sealed checkpoint of a run.

    Raises:
        CheckpointInvalid: it left none.
    """
    found = [folder for folder in _checkpoints(checkpoints) if (folder / SUMS).is_file()]
    if not found:
        cut_off = any(_checkpoints(checkpoints))
        why = "the only one was cut off while it was saved" if cut_off else "there is none"
        raise CheckpointInvalid(f"`{checkpoints}` holds no whole checkpoint: {why}; start the run anew")
    return max(found, key=step_of)


def step_of(folder: Path) -> int:
    found = _NAME.fullmatch(folder.name)
    assert found is not None, "only `_checkpoints` finds them"
    return int(found["step"])


def check(folder: Path) -> str:
    """The digest over the files of a checkpoint, once each of them is what was sealed.

    Raises:
        CheckpointInvalid: a file was changed, cut off, lost or added, or is a pickle that no checkpoint of ours has.
    """
    try:
        sealed, found = _sums(folder), folders.file_digests(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointInvalid(f"the checkpoint `{folder}` cannot be read: {error}") from error
    whole = runspec.folder_digest(found)
    found.pop(SUMS, None)
    for name in sorted(sealed.keys() | found.keys()):
        if sealed.get(name) != found.get(name):
            what = "is gone" if name not in found else "was not saved with it" if name not in sealed else "was changed"
            raise CheckpointInvalid(
                f"the checkpoint `{folder}` is not what was saved: `{name}` {what}; restore it, or start the run anew"
            )
        if name.endswith(folders.PICKLES) and not STATE_OF_TORCH.fullmatch(name):
            raise CheckpointInvalid(
                f"the checkpoint `{folder}` holds a pickle (`{name}`), which runs code when loaded; no run saves one"
            )
    _refuse_foreign_modules(folder)
    return whole


def _refuse_foreign_modules(folder: Path) -> None:
    """sentence-transformers imports whatever class `modules.json` names."""
    listed = folder / "modules.json"
    if not listed.is_file():
        return
    try:
        types = [str(module["type"]) for module in json.loads(listed.read_bytes())]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointInvalid(f"`{listed}` cannot be read: {error}; start the run anew") from error
    for foreign in (name for name in types if not name.startswith("sentence_transformers.")):
        raise CheckpointInvalid(f"`{listed}` wants `{foreign[:200]}` imported, which no run saves; start the run anew")


def _checkpoints(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


def _sums(folder: Path) -> dict[str, str]:
    lines = (folder / SUMS).read_text("utf-8").splitlines()
    parsed = [_LINE.fullmatch(line) for line in lines]
    if not parsed or not all(parsed):
        raise CheckpointInvalid(f"`{folder / SUMS}` is not what `sha256sum` writes; start the run anew")
    return {line["path"]: f"sha256:{line['hex']}" for line in parsed if line}


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
