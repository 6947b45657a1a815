"""A ticket that holds, and the run folder with what was signed.

request  POST the ticket
verify   the ticket against *these* arguments, with the registry's keys, as a worker will again
store    run-spec.json, ticket.jwt, jwks.json byte for byte; the run's key stays in memory until it is handed over
"""

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from enforcer import revoked, tickets, wire
from enforcer.keys import KeySet, KeyUnusable, SigningKey
from enforcer.problems import OutputInvalid, RegistryUnreachable, TicketInvalid
from enforcer.tickets import VerifiedTicket
from trainer.arguments import TrainingArguments
from trainer.client import Registry
from trainer.contract import Contract, ticket_request
from trainer.http import skew_in_words
from trainer.layout import RunFolder, write_private
from trainer.preflight import Preflight
from trainer.run import checkpoints
from trainer.settings import HERE, Settings, local_audience


@dataclass(frozen=True)
class Permit:
    """What a process needs to run: a folder with the signed bytes, the run's key, and where the inputs lie."""

    folder: RunFolder
    key: SigningKey
    settings: Settings
    model: Path
    train_files: tuple[str, ...]
    eval_files: tuple[str, ...]
    file: Path | None = None
    warnings: tuple[str, ...] = ()  # of the policy, about this run
    checkpoint: Path | None = None  # of the run that this one continues
    save_steps: int | None = None
    teacher: Path | None = None

    def verify(self) -> VerifiedTicket:
        """Check the files in the run folder, offline: steps 1 to 12, and 15 where it is required. Which machine this
        is, nobody tells us.

        Raises:
            TicketInvalid: any file is missing or not what was signed.
        """
        folder, settings = self.folder, self.settings
        try:
            token = folder.ticket.read_text("ascii").strip()
            specification = folder.run_spec.read_bytes()
            keys = KeySet.load(folder.jwks)
            taken_back = _revoked(keys, settings)
        except (OSError, UnicodeDecodeError, KeyUnusable) as error:
            raise TicketInvalid(f"the run folder `{folder.root}` holds no complete permit: {error}") from error
        ticket = tickets.verify(
            token,
            specification,
            keys,
            issuer=settings.issuer,
            audience=local_audience(),
            allow_dev=settings.on_loopback,
            revoked=taken_back,
        )
        if settings.log_proof == "required":
            self._check_logged(ticket)
        return ticket

    def _check_logged(self, ticket: VerifiedTicket) -> None:
        try:
            proof = self.folder.issued_proof.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TicketInvalid(
                f"the ticket is refused: this worker requires proof of its issuance, and there is none that can be "
                f"read at `{self.folder.issued_proof}`; submit with `SWIFT_SUBMIT_LOG_PROOF=required`",
                step=15,
            ) from error
        keys = checkpoints.pinned_keys(self.settings)
        tickets.check_logged(ticket, proof, keys, witnesses=checkpoints.witnesses(self.settings))


def _revoked(keys: KeySet, settings: Settings) -> Collection[str]:
    """The list that this machine was told to heed; a mirror of the registry's where there is no route to it."""
    file = os.environ.get(HERE["revoked"])
    return revoked.read_file(Path(file), keys, issuer=settings.issuer) if file else ()


def plan(registry: Registry, args: TrainingArguments, found: Contract, checked: Preflight) -> wire.TicketPlan:
    """What a ticket would say. Nothing is made."""
    return registry.plan(_request(args, found, checked, SigningKey.generate()))


def obtain(registry: Registry, args: TrainingArguments, found: Contract, checked: Preflight) -> Permit:
    """Ask for a ticket, verify it against what was asked, and store what was signed.

    Raises:
        TicketInvalid: the registry's answer does not hold, or is not what was asked for.
        OutputInvalid: the run folder cannot be made.
    """
    key = SigningKey.generate()
    grant = registry.request_ticket(_request(args, found, checked, key))
    jwks = registry.keys()
    ticket = _verify(registry, grant, jwks)
    _agree(ticket, args, found, checked, key)
    checkpoints.witness(registry, grant.checkpoint)
    proof = registry.proof(ticket.claims.decision_id) if registry.settings.log_proof == "required" else None
    folder = _store(RunFolder.of(Path(args.output_dir), found.tag, ticket.spec.run_id), grant, jwks, proof, checked)
    return Permit(
        folder=folder,
        key=key,
        settings=registry.settings,
        model=checked.model,
        train_files=tuple(str(Path(name).expanduser().absolute()) for name in args.train_files),
        eval_files=tuple(str(Path(name).expanduser().absolute()) for name in args.eval_files),
        warnings=tuple(grant.warnings),
        checkpoint=checked.checkpoint,
        save_steps=args.save_steps,
        teacher=checked.teacher,
    )


def _request(args: TrainingArguments, found: Contract, checked: Preflight, key: SigningKey) -> wire.TicketRequest:
    # A float parameter written as `2` is one value with 2.0 (`Profile.resolve`), so what is sent is what was resolved.
    arguments = {name: checked.arguments[name] for name in args.tag_arguments}
    return ticket_request(args, found.tag, found.version, arguments, checked.inputs, key)


def _verify(registry: Registry, grant: wire.TicketGrant, jwks: bytes) -> VerifiedTicket:
    settings = registry.settings
    try:
        keys = KeySet.from_jwks(json.loads(jwks))
    except (ValueError, KeyUnusable, AttributeError) as error:
        raise RegistryUnreachable(
            f"`{settings.server}` has no usable key set: {error}", server=settings.server
        ) from error
    try:
        return tickets.verify(
            grant.ticket,
            grant.run_spec.encode(),
            keys,
            issuer=settings.issuer,
            audience=local_audience(),
            allow_dev=settings.on_loopback,
        )
    except TicketInvalid as refusal:
        hint = {
            9: "if the registry is known by another address, set `SWIFT_SUBMIT_ISSUER` to it",
            10: skew_in_words(registry.skew_s),
        }.get(refusal.facts.get("step", 0))
        raise TicketInvalid(f"{refusal.detail}; {hint}" if hint else refusal.detail, **refusal.facts) from None


def _agree(
    ticket: VerifiedTicket, args: TrainingArguments, found: Contract, checked: Preflight, key: SigningKey
) -> None:
    """Step 12 seen from the asker's side: the specification that was signed is the one that was asked for."""
    spec, claims = ticket.spec, ticket.claims
    pairs: list[tuple[str, object, object]] = [
        ("task type", found.tag, spec.task_type),
        ("version", found.version, spec.version),
        ("profile", found.profile_digest, spec.profile_digest),
        ("target", args.target, spec.target),
        ("GPUs", args.gpus, spec.gpus),
        ("inputs", checked.inputs, spec.inputs),
        ("redemption", args.redeem, claims.redeem),
        ("key", key.thumbprint, claims.cnf.jkt),
    ]
    if args.business_unit is not None:
        pairs.append(("business unit", args.business_unit, spec.business_unit))
    names = checked.arguments.keys() | spec.arguments.keys()
    pairs += [(f"argument `{name}`", checked.arguments.get(name), spec.arguments.get(name)) for name in sorted(names)]
    for what, asked, signed in pairs:
        if asked != signed:
            raise TicketInvalid(
                f"the registry's ticket is refused: {what}: `{asked}` was asked for, `{signed}` was signed; ask again, "
                "and tell the registry's owner if it stays",
                step=12,
            )


def _store(folder: RunFolder, grant: wire.TicketGrant, jwks: bytes, proof: str | None, checked: Preflight) -> RunFolder:
    try:
        folder.create()
        write_private(folder.run_spec, grant.run_spec.encode())
        write_private(folder.ticket, grant.ticket.encode("ascii"))
        write_private(folder.jwks, jwks)
        write_private(folder.checkpoint, grant.checkpoint.encode())
        write_private(folder.preflight, checked.in_json())
        if proof is not None:
            folder.issued_proof.parent.mkdir(mode=0o700)
            write_private(folder.issued_proof, proof.encode())
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise OutputInvalid(
            f"the run folder `{folder.root}` cannot be made: {why}", output_dir=str(folder.root)
        ) from error
    return folder
