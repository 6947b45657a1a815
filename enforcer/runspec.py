"""The run specification: everything that decides what a run does, as canonical bytes with one digest.

The registry resolves it, returns its RFC 8785 bytes, and the client stores them verbatim: `run-spec.json` *is* the
canonical form, so that whoever holds the ticket checks it with nothing but `sha256sum`.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from enforcer import canonical
from enforcer.problems import Invalid, TicketInvalid
from enforcer.profiles import Limits, Profile

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]


class SpecificationInvalid(Invalid):
    code, title = "specification-invalid", "the run specification has no canonical form"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(_Frozen):
    """The base model: where the client found it, and the digest over its files."""

    name: str = Field(min_length=1, max_length=500)
    digest: Digest


class Dataset(_Frozen):
    """One data set: the digest over its bytes (or canonical rows, when it never was a file).

    A `file` is what rows point to, such as a database that a query runs on; its `rows` are those that point to it.
    """

    role: Literal["train", "eval", "file"]
    name: str = Field(min_length=1, max_length=500)
    digest: Digest
    rows: int = Field(ge=1)


class Code(_Frozen):
    """The working tree the run was submitted from; None values mean that it was no repository."""

    commit: Commit | None
    dirty: bool | None


class Continued(_Frozen):
    """The run that this one continues, and the digest over the files of the checkpoint that it starts from."""

    run_id: str = Field(min_length=1, max_length=100)
    step: int = Field(ge=1, le=2**53 - 1)
    digest: Digest


class Inputs(_Frozen):
    """What the run reads, resolved to digests by the client and bound by the ticket.

    `allow_row_loss` is the share of rows that cleaning may leave out where the profile allows less: the asker's word.
    """

    model: Model
    teacher: Model | None = None
    continues: Continued | None = None
    datasets: list[Dataset] = Field(min_length=1, max_length=64)
    code: Code
    eval_fraction: float = Field(ge=0, lt=1)
    columns: dict[str, str] = Field(max_length=64)
    allow_row_loss: float | None = Field(default=None, ge=0, le=1)


class RunSpec(_Frozen):
    """One run, resolved."""

    v: Literal[1]
    run_id: str
    task_type: str
    version: int
    profile_digest: Digest
    profile: Profile
    arguments: dict[str, Any]
    inputs: Inputs
    business_unit: str
    target: str
    gpus: int
    limits: Limits

    @classmethod
    def read(cls, content: bytes, *, expected_digest: str) -> Self:
        """Parse the bytes that a ticket binds.

        Raises:
            TicketInvalid: the bytes are not those that were signed (tickets.md step 11), or not a specification.
        """
        if digest(content) != expected_digest:
            raise TicketInvalid(
                "`run-spec.json` is not the specification that the ticket was issued for; ask for a new ticket", step=11
            )
        try:
            return cls.model_validate_json(content)
        except ValueError as error:
            raise TicketInvalid(f"`run-spec.json` is not a run specification: {error}", step=11) from error


def canonical_bytes(specification: RunSpec | dict[str, Any]) -> bytes:
    """RFC 8785 bytes.

    Raises:
        SpecificationInvalid: numbers beyond 2^53, NaN, lone surrogates, too deep or too large.
    """
    document = specification.model_dump(mode="json") if isinstance(specification, RunSpec) else specification
    if _depth(document) > MAX_DEPTH:
        raise SpecificationInvalid(f"the specification nests deeper than {MAX_DEPTH} levels")
    return _small(flat_canonical_bytes(document))


def canonical_bytes_around(profile: bytes, specification: dict[str, Any]) -> bytes:
    """The canonical bytes of a specification whose profile is given in its canonical form (`Profile.canonical`).

    The profile is most of a specification and the same for every run of a version, so it is put in its place as it is.

    Raises:
        SpecificationInvalid: as `canonical_bytes`.
    """
    return _small(flat_canonical_bytes({**specification, "profile": canonical.Canonical(profile)}))


def flat_canonical_bytes(document: dict[str, Any]) -> bytes:
    """The same of a document that cannot be too deep or too large: its model says so.

    Raises:
        SpecificationInvalid: numbers beyond 2^53, NaN, lone surrogates.
    """
    try:
        return canonical.dumps(document)
    except (canonical.CanonicalizationError, UnicodeEncodeError) as error:
        raise SpecificationInvalid(f"the specification has no canonical form: {error}") from error


def _small(content: bytes) -> bytes:
    if len(content) > MAX_BYTES:
        raise SpecificationInvalid(f"the specification has {len(content)} bytes, the limit is {MAX_BYTES}")
    return content


def digest(content: bytes) -> str:
    """`sha256:<64 hex>`, the only digest form on the wire."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def hex_of(digest: str) -> str:
    """The 64 hex digits alone, as in-toto writes them."""
    return digest.removeprefix("sha256:")


def folder_digest(files: Mapping[str, str]) -> str:
    """The digest of a folder from those of its files, by path: `sha256sum` over their `sha256sum` lines, sorted by the
    bytes of the path. It is Go's Hash1, in-toto's `dirHash`."""
    lines = {os.fsencode(path): hex_of(files[path]).encode() for path in files}
    return digest(b"".join(b"%b  %b\n" % (lines[path], path) for path in sorted(lines)))


def _depth(value: object, level: int = 1) -> int:
    if level > MAX_DEPTH or not isinstance(value, dict | list | tuple):
        return level
    children = value.values() if isinstance(value, dict) else value
    return max((_depth(child, level + 1) for child in children), default=level)
