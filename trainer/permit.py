"""From arguments to a permit: the contract, preflight, the ticket, and the run folder that holds what was signed.

contract   GET the task type; what it says decides what preflight checks
policy     may this person run it at all? Refusals, of unknown names too, are on record at the registry
preflight  everything that can go wrong here, before anything is asked
request    POST the ticket
verify     the ticket against *these* arguments, with the registry's keys, as a worker will again
store      run-spec.json, ticket.jwt, jwks.json byte for byte; the run's key only in a 0600 permit file, until redeemed
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from enforcer import tickets, wire
from enforcer.keys import KeySet, KeyUnusable, SigningKey
from enforcer.problems import (
    Invalid,
    NotFound,
    NotPermitted,
    OutputInvalid,
    Problem,
    RegistryUnreachable,
    TicketInvalid,
    UnknownTaskType,
)
from enforcer.profiles import Profile
from enforcer.runspec import Inputs
from enforcer.tickets import VerifiedTicket
from trainer import inputs, preflight, recipes
from trainer.arguments import TrainingArguments
from trainer.client import Registry
from trainer.layout import RunFolder
from trainer.link import skew_in_words
from trainer.preflight import Preflight
from trainer.settings import Settings, local_audience

Talk = Callable[[str], None]


class RecipeMissing(Invalid):
    """The tag is governed here, but this release of the trainer cannot train it."""

    code, title = "recipe-missing", "this trainer has no such recipe"


class ApprovalPending(Problem):
    """The task type does not exist yet: its proposal is open. `proposal` names it."""

    status, code, title = 409, "approval-pending", "approval is needed first"


@dataclass(frozen=True)
class Contract:
    """The task type as the registry has it: canonical name and one version's profile."""

    tag: str
    version: int
    profile: Profile
    profile_digest: str


@dataclass(frozen=True)
class Permit:
    """What a process needs to run: a folder with the signed bytes, the run's key, and where the inputs lie."""

    folder: RunFolder
    key: SigningKey
    settings: Settings
    audience: str
    model: Path
    train_files: tuple[str, ...]
    eval_files: tuple[str, ...]
    file: Path | None = None

    def verify(self) -> VerifiedTicket:
        """Check the files in the run folder, offline: steps 1 to 12.

        Raises:
            TicketInvalid: any file is missing or not what was signed.
        """
        return verify_folder(self.folder, self.settings, self.audience)


def contract(registry: Registry, args: TrainingArguments) -> Contract:
    """The version asked for, or the current one."""
    tag = registry.tag(args.tag)
    if args.version is None or args.version == tag.version:
        return Contract(tag.name, tag.version, tag.profile, tag.profile_digest)
    for old in registry.tag_versions(args.tag).items:
        if old.version == args.version:
            return Contract(tag.name, old.version, old.profile, old.profile_digest)
    raise UnknownTaskType(f"`{tag.name}` has no version {args.version}; the current one is `{tag.name}@{tag.version}`")


def look(
    registry: Registry, args: TrainingArguments, train: Any = None, held_out: Any = None
) -> tuple[Contract, Preflight]:
    """Contract, policy, recipe, preflight: whoever may not run it at all is told so before they mend their data.

    Raises:
        UnknownTaskType, NotPermitted: asked for all the same, so that the refusal is on record.
        ApprovalPending: the task type is only proposed yet.
        RecipeMissing: permitted, but not by this trainer.
        Problem: anything `preflight.check` refuses.
    """
    try:
        found = contract(registry, args)
    except UnknownTaskType as unknown:
        _ask_for_the_record(registry, args, train, held_out)
        _raise_if_proposed(registry, args.tag)
        raise unknown
    if (denied := _denial(registry, args, found)) is not None:
        _ask_for_the_record(registry, args, train, held_out)
        raise denied
    _need_recipe(found)
    return found, preflight.check(args, found.profile, train, held_out)


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
    folder = _store(RunFolder.of(Path(args.output_dir), found.tag, ticket.spec.run_id), grant, jwks)
    return Permit(
        folder=folder,
        key=key,
        settings=registry.settings,
        audience=local_audience(),
        model=checked.model,
        train_files=tuple(str(Path(name).expanduser().absolute()) for name in args.train_files),
        eval_files=tuple(str(Path(name).expanduser().absolute()) for name in args.eval_files),
    )


def verify_folder(folder: RunFolder, settings: Settings, audience: str) -> VerifiedTicket:
    """Steps 1 to 12 on the files of a run folder."""
    try:
        token = folder.ticket.read_text("ascii").strip()
        specification = folder.run_spec.read_bytes()
        keys = KeySet.load(folder.jwks)
    except (OSError, UnicodeDecodeError, KeyUnusable) as error:
        raise TicketInvalid(f"the run folder `{folder.root}` holds no complete permit: {error}") from error
    return tickets.verify(
        token, specification, keys, issuer=settings.issuer, audience=audience, allow_dev=settings.on_loopback
    )


def client_id() -> str:
    try:
        return f"swift-submit/{version('tagwarden')}"
    except PackageNotFoundError:
        return "swift-submit/0"


def _request(args: TrainingArguments, found: Contract, checked: Preflight, key: SigningKey) -> wire.TicketRequest:
    # A float parameter written as `2` is one value with 2.0 (`Profile.resolve`), so what is sent is what was resolved.
    arguments = {name: checked.arguments[name] for name in args.tag_arguments}
    return _asking(args, found.tag, found.version, arguments, checked.inputs, key)


def _asking(
    args: TrainingArguments, tag: str, version: int | None, arguments: dict[str, Any], given: Inputs, key: SigningKey
) -> wire.TicketRequest:
    return wire.TicketRequest(
        task_type=tag,
        version=version,
        business_unit=args.business_unit,
        target=args.target,
        gpus=args.gpus,
        arguments=arguments,
        inputs=given,
        audience=local_audience(),
        jkt=key.thumbprint,
        client_id=client_id(),
    )


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


def _store(folder: RunFolder, grant: wire.TicketGrant, jwks: bytes) -> RunFolder:
    try:
        folder.create()
        folder.run_spec.write_bytes(grant.run_spec.encode())
        folder.ticket.write_text(grant.ticket, "ascii")
        folder.jwks.write_bytes(jwks)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise OutputInvalid(
            f"the run folder `{folder.root}` cannot be made: {why}", output_dir=str(folder.root)
        ) from error
    return folder


def _need_recipe(found: Contract) -> None:
    if found.profile.recipe not in recipes.known():
        have = ", ".join(f"`{name}`" for name in recipes.known())
        raise RecipeMissing(
            f"`{found.tag}` trains by the recipe `{found.profile.recipe}`, which this release of the trainer does not "
            f"have (it has {have}); upgrade `tagwarden`, or train by one of the tag's bindings "
            f"(`swift-submit tags show {found.tag}`)",
            bindings=[binding.model_dump(mode="json") for binding in found.profile.bindings],
        )


def _denial(registry: Registry, args: TrainingArguments, found: Contract) -> NotPermitted | None:
    context = wire.EvaluationContext(
        business_unit=args.business_unit, target=args.target, gpus=args.gpus, model=args.model_name_or_path[:300]
    )
    answer = registry.evaluate(found.tag, "submit", context)
    if answer.decision:
        return None
    nearest = [f"rule `{near.rule}` fails on {near.failed}" for near in answer.context.nearest[:1]]
    return NotPermitted(
        f"you may not submit `{found.tag}`: {', '.join([answer.context.reason, *nearest])}",
        reason_code=answer.context.reason,
        rule=answer.context.rule,
        policy_revision=answer.context.policy_revision,
    )


def _ask_for_the_record(registry: Registry, args: TrainingArguments, train: Any, held_out: Any) -> None:
    """Ask for what will be refused, without wanting a ticket, and let the registry's own words be the refusal.

    Without a readable model or data there is no honest request to make, and the caller's refusal has to do.
    """
    try:
        sources = preflight.read_sources(args, train, held_out)
        given = preflight.gather(args, sources, inputs.model_folder(args.model_name_or_path))
    except Problem:
        return
    try:
        registry.plan(_asking(args, args.tag, args.version, args.tag_arguments, given, SigningKey.generate()))
    except NotFound:  # our look-up said it already, and knows what was asked for
        return


def _raise_if_proposed(registry: Registry, tag: str) -> None:
    try:
        waiting = [p for p in registry.proposals().items if p.state == "open" and p.change.tag == tag]
    except Problem:  # who may not read proposals learns nothing from them
        return
    if waiting:
        missing = waiting[0].approvals_needed - sum(review.verdict == "approve" for review in waiting[0].reviews)
        raise ApprovalPending(
            f"`{tag}` is proposed (`{waiting[0].id}`) and waits for {missing} more approvals; "
            f"see `swift-submit requests show {waiting[0].id}`",
            proposal=waiting[0].id,
        )
