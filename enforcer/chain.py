"""The proof chain of a run, for somebody who trusts neither the registry of today nor the machine that trained.

Whoever checks brings a trust file, kept since they had reason to trust: the issuer's name, its keys by purpose, and
perhaps witnesses. Everything else comes with the run folder. Nothing is asked of the network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from enforcer import jws, manifest as manifests, tickets, tlog
from enforcer.keys import KeySet, KeyUnusable
from enforcer.local import is_loopback_url
from enforcer.manifest import Manifest, Receipt
from enforcer.notes import NoteKey, Witnesses
from enforcer.problems import ManifestInvalid, NotConfigured, TicketInvalid
from enforcer.runspec import RunSpec, digest, folder_digest
from enforcer.tickets import Claims
from enforcer.tlog import LogInvalid

ISSUED, MANIFEST = "ticket.issued", "run.manifest"
STEPS = (
    "the log's checkpoint is signed",
    "the ticket's issue and the manifest stand in the log",
    "the ticket was signed by the registry when it was logged",
    "run-spec.json is what the ticket was issued for",
    "the manifest is signed by the run's own key",
    "the manifest is of this ticket and this specification",
    "the outputs are those that the manifest names",
    "the registry countersigned the manifest",
)


class TrustedKey(BaseModel):
    """A public key (RFC 7517). What it signed after it was retired or compromised proves nothing."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kid: str
    retired_at: AwareDatetime | None = None
    compromised_at: AwareDatetime | None = None

    @property
    def jwk(self) -> dict[str, Any]:
        return self.model_dump(exclude={"retired_at", "compromised_at"})

    @property
    def until(self) -> datetime | None:
        ends = [end for end in (self.retired_at, self.compromised_at) if end is not None]
        return min(ends, default=None)


class Trust(BaseModel):
    """What a verifier brings: `trust.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1] = 1
    issuer: Annotated[str, Field(min_length=1, max_length=300)]
    ticket_keys: list[TrustedKey] = Field(min_length=1)
    log_keys: list[TrustedKey] = Field(default_factory=list)
    attestation_keys: list[TrustedKey] = Field(default_factory=list)
    witnesses: list[str] = Field(default_factory=list)
    quorum: int = Field(default=0, ge=0)

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Raises `NotConfigured`: not a trust file, or one with a key or a quorum that cannot be."""
        try:
            found = cls.model_validate_json(content)
            for purpose in (found.ticket_keys, found.log_keys, found.attestation_keys):
                _keys(purpose)
            if found.quorum > len(found._note_keys()):
                raise ValueError(f"a quorum of {found.quorum} takes as many witnesses")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise NotConfigured(f"this is not a trust file: `{where}`: {first['msg'].lower()}") from None
        except (ValueError, KeyUnusable, LogInvalid) as error:
            raise NotConfigured(f"this is not a trust file: {error}") from error
        return found

    @property
    def on_loopback(self) -> bool:
        return is_loopback_url(self.issuer)

    def witness_policy(self) -> Witnesses | None:
        return Witnesses(tuple(self._note_keys()), self.quorum) if self.quorum else None

    def _note_keys(self) -> list[NoteKey]:
        return [NoteKey.parse(vkey) for vkey in self.witnesses]


@dataclass(frozen=True)
class Bundle:
    """What a run folder holds. `files` hashes outputs and byproducts, path -> `sha256:<hex>`, when it is their turn."""

    ticket: str
    run_spec: bytes
    manifest: bytes
    receipt: bytes | None
    proofs: Mapping[str, str]
    files: Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class VerifiedRun:
    """A run whose chain holds. `logged_at` is None when the log was left out; `absent` are byproducts that are gone."""

    claims: Claims
    spec: RunSpec
    manifest: Manifest
    receipt: Receipt
    logged_at: datetime | None
    absent: list[str]


def verify(bundle: Bundle, trust: Trust, *, without_log: bool = False) -> VerifiedRun:
    """Check the whole chain, in the order of `STEPS`.

    `without_log` leaves out steps 1 and 2: then a ticket that was never logged, by a stolen key, would pass, and only
    the ticket's own word stands for when it was issued.

    Raises:
        ManifestInvalid: with the number of the first step that does not hold.
    """
    logged: dict[str, dict[str, Any]] = {}
    if not without_log:
        # 1. The checkpoint under each proof is the log's, and as many witnesses as asked for have seen it.
        opened = {kind: _open_proof(bundle, trust, kind) for kind in (ISSUED, MANIFEST)}
        # 2. Both entries stand under it.
        logged = {kind: _entry(opened[kind], trust, kind) for kind in opened}
        _check_entry(logged[ISSUED], ISSUED, bundle.ticket.encode())
        _check_entry(logged[MANIFEST], MANIFEST, bundle.manifest)
    # 3. The ticket, as of when it was logged; 4. the bytes of the specification.
    claims, spec = _ticket(bundle, trust, logged.get(ISSUED))
    for kind, entry in logged.items():
        if (entry.get("ticket_id"), entry.get("run_id")) != (claims.jti, claims.txn):
            _refuse(2, f"the logged `{kind}` is of another ticket or run")
    # 5. The manifest, by the key that the ticket names.
    manifest = manifests.open_manifest(bundle.manifest, claims.cnf.jkt)
    # 6. It is of this ticket, this specification and this machine.
    manifest.check_agreement(
        spec,
        jti=claims.jti,
        run_spec_digest=claims.run_spec_digest,
        token_digest=digest(bundle.ticket.encode()),
    )
    if manifest.details.builder.id != claims.aud:
        _refuse(6, f"the manifest is by `{manifest.details.builder.id}`, the ticket is for `{claims.aud}`")
    # 7. The files.
    absent = _check_files(manifest, bundle.files())
    # 8. The registry's own statement on exactly these bytes.
    if bundle.receipt is None:
        _refuse(8, "there is no countersignature; `swift-submit runs report` fetches it if the registry has the run")
    usable = _keys([key for key in trust.attestation_keys if key.compromised_at is None])
    receipt = manifests.open_receipt(bundle.receipt, bundle.manifest, usable, issuer=trust.issuer)
    at = datetime.fromisoformat(logged[ISSUED]["at"]) if logged else None
    return VerifiedRun(claims, spec, manifest, receipt, at, absent)


def check_outputs(bundle: Bundle) -> tuple[Manifest, RunSpec]:
    """Steps 4 to 7 for whoever loads the files: they are those of the manifest, and it is of this ticket's run.

    Proves nothing of who issued the ticket: whoever made all of it up passes.

    Raises:
        ManifestInvalid: with the number of the first step that does not hold.
    """
    try:
        unverified = Claims.model_validate(tickets.unverified_claims(bundle.ticket))
        spec = RunSpec.read(bundle.run_spec, expected_digest=unverified.run_spec_digest)
    except (TicketInvalid, ValidationError) as error:
        _refuse(4, f"ticket and specification do not belong together: {error}")
    manifest = manifests.open_manifest(bundle.manifest, unverified.cnf.jkt)
    manifest.check_agreement(
        spec,
        jti=unverified.jti,
        run_spec_digest=unverified.run_spec_digest,
        token_digest=digest(bundle.ticket.encode()),
    )
    _check_files(manifest, bundle.files())
    return manifest, spec


def _open_proof(bundle: Bundle, trust: Trust, kind: str) -> tlog.Proof:
    text = bundle.proofs.get(kind)
    if text is None:
        _refuse(
            2,
            f"there is no proof that `{kind}` stands in the log; fetch it with `swift-submit verify --fetch`, or leave "
            "the log out with `--without-log`, which lets a ticket pass that was never logged",
        )
    try:
        proof = tlog.Proof.parse(text)
        usable = _keys([key for key in trust.log_keys if key.compromised_at is None])
        head = tlog.open_checkpoint(proof.checkpoint, usable, witnesses=trust.witness_policy())
        if head.origin != tlog.origin_of(trust.issuer):
            raise LogInvalid(f"it is of the log `{head.origin}`, not of `{tlog.origin_of(trust.issuer)}`")
    except LogInvalid as error:
        _refuse(1, f"the checkpoint under `{kind}` is refused: {error}")
    return proof


def _entry(proof: tlog.Proof, trust: Trust, kind: str) -> dict[str, Any]:
    try:
        usable = _keys([key for key in trust.log_keys if key.compromised_at is None])
        return proof.verify(usable, origin=tlog.origin_of(trust.issuer)).entry
    except LogInvalid as error:
        _refuse(2, f"the proof of `{kind}` is refused: {error}")


def _check_entry(entry: Mapping[str, Any], kind: str, content: bytes) -> None:
    if entry.get("kind") != kind or entry.get("outcome") != "done":
        _refuse(2, f"the proof is of `{entry.get('kind')}`, not of `{kind}`")
    if entry.get("digest") != digest(content):
        what = "ticket" if kind == ISSUED else "manifest"
        _refuse(2, f"the {what} in the run folder is not the one that was logged")


def _ticket(bundle: Bundle, trust: Trust, issued: Mapping[str, Any] | None) -> tuple[Claims, RunSpec]:
    try:
        unverified = tickets.unverified_claims(bundle.ticket)
        at = datetime.fromisoformat(issued["at"]) if issued else datetime.fromtimestamp(int(unverified["iat"]), UTC)
        verified = tickets.verify(
            bundle.ticket,
            bundle.run_spec,
            _keys(trust.ticket_keys),
            issuer=trust.issuer,
            audience=str(unverified.get("aud")),  # whoever checks is not the machine that it was for; see step 6
            allow_dev=trust.on_loopback,
            now=at.timestamp,
        )
    except TicketInvalid as error:
        _refuse(4 if error.facts.get("step") in (11, 12) else 3, error.detail)
    except (KeyError, ValueError, TypeError, OverflowError):
        _refuse(3, "the ticket does not say when it was issued")
    kid = jws.read(bundle.ticket, ("alg", "typ", "kid"))[0]["kid"]
    signer = next(key for key in trust.ticket_keys if key.kid == kid)
    if signer.compromised_at is not None and issued is None:
        _refuse(
            3, f"the ticket's key `{kid}` is compromised, so only the log could tell whether it was issued before that"
        )
    if signer.until is not None and at >= signer.until:
        _refuse(
            3, f"the ticket's key `{kid}` counts until {signer.until:%Y-%m-%dT%H:%M:%SZ} only, and it was used later"
        )
    return verified.claims, verified.spec


def _check_files(manifest: Manifest, found: Mapping[str, str]) -> list[str]:
    """Every output there and unchanged, none added to their folders; byproducts may be gone, but not changed."""
    folders = {subject.name.partition("/")[0] for subject in manifest.subject}
    for subject in manifest.subject:
        if "dirHash" in subject.digest:
            inside = {path.partition("/")[2]: of for path, of in found.items() if path.startswith(f"{subject.name}/")}
            if folder_digest(inside) != f"sha256:{subject.digest['dirHash']}":
                _refuse(7, f"the files in `{subject.name}` are not those that the manifest names")
            folders.discard(subject.name)
    said = manifest.outputs
    for path in sorted(said.keys() | {path for path in found if path.partition("/")[0] in folders}):
        if path in said and path.partition("/")[0] in folders and path not in found:
            _refuse(7, f"the output `{path}` is gone")
        if path not in said:
            _refuse(7, f"the file `{path}` is no output of this run: the manifest does not name it")
        if path in found and found[path] != said[path]:
            _refuse(7, f"the output `{path}` is not what the run left: it was changed")
    absent = []
    for byproduct in manifest.details.byproducts:
        name, (kind, of) = byproduct.name, next(iter(byproduct.digest.items()))
        inside = {path.partition("/")[2]: digest for path, digest in found.items() if path.startswith(f"{name}/")}
        now = (folder_digest(inside) if inside else None) if kind == "dirHash" else found.get(name)
        if now is None:
            absent.append(name)
        elif now != f"sha256:{of}":
            _refuse(7, f"`{name}` is not what the run left: it was changed")
    return absent


def _keys(keys: list[TrustedKey]) -> KeySet:
    return KeySet.from_jwks({"keys": [key.jwk for key in keys]})


def _refuse(step: int, why: str) -> NoReturn:
    raise ManifestInvalid(why, step=step)
