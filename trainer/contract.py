"""Before a ticket is asked for: what the task type says, whether this person may run it, whether it can go well.

contract   GET the task type; what it says decides what preflight checks
policy     may this person run it at all? Refusals, of unknown names too, are on record at the registry
recipe     can this release of the trainer train it?
preflight  everything that can go wrong here
"""

from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from enforcer import wire
from enforcer.keys import SigningKey
from enforcer.problems import (
    Conflict,
    Invalid,
    NotFound,
    NotPermitted,
    Problem,
    TaskTypeNotActive,
    UnknownTaskType,
)
from enforcer.profiles import Profile
from enforcer.runspec import Inputs
from trainer import backends, preflight, recipes
from trainer.arguments import TrainingArguments
from trainer.client import Registry
from trainer.inputs import folders
from trainer.preflight import Preflight
from trainer.settings import local_audience

LOCAL = "local"


class RecipeMissing(Invalid):
    """The tag is governed here, but this release of the trainer cannot train it."""

    code, title = "recipe-missing", "this trainer has no such recipe"


class LauncherMissing(Invalid):
    """Permitted there, but this release of the trainer cannot start anything there."""

    code, title = "launcher-missing", "this trainer cannot start a run there"


class ApprovalPending(Conflict):
    """The task type does not exist yet: its proposal is open. `proposal` names it."""

    code, title = "approval-pending", "approval is needed first"


@dataclass(frozen=True)
class Contract:
    """The task type as the registry has it: canonical name and one version's profile. One that has `ended` is run by
    exception, or not at all."""

    tag: str
    version: int
    profile: Profile
    profile_digest: str
    ended: bool


def look(
    registry: Registry, args: TrainingArguments, train: Any = None, held_out: Any = None
) -> tuple[Contract, Preflight]:
    """Contract, policy, recipe, preflight: whoever may not run it at all is told so before they mend their data.

    Raises:
        UnknownTaskType, NotPermitted: asked for all the same, so that the refusal is on record.
        ApprovalPending: the task type is only proposed yet.
        TaskTypeSunset, TaskTypeArchived: it has ended, told before anybody mends data for it.
        RecipeMissing, LauncherMissing: permitted, but not by this trainer.
        Problem: anything `preflight.check` refuses.
    """
    try:
        found = _contract(registry, args)
    except UnknownTaskType as unknown:
        _ask_for_the_record(registry, args, train, held_out)
        _raise_if_proposed(registry, args.tag)
        raise unknown
    denied = _denial(registry, args, found)
    if found.ended:  # the registry says no in its own words, or knows an exception that lets it through
        _ask(registry, args, train, held_out)
    if denied is not None:
        _ask_for_the_record(registry, args, train, held_out)
        raise denied
    _need_recipe(found)
    _need_launcher(args)
    checked = preflight.check(args, found.profile, train, held_out)
    backends.refuse(found.tag, found.profile, checked.arguments, checked.model, checked.checkpoint)
    return found, checked


def _contract(registry: Registry, args: TrainingArguments) -> Contract:
    """The version asked for, or the current one."""
    tag = registry.tag(args.tag)
    ended = tag.state in ("sunset", "archived")
    if args.version is None or args.version == tag.version:
        return Contract(tag.name, tag.version, tag.profile, tag.profile_digest, ended)
    try:
        old = registry.tag_version(tag.name, args.version)
    except NotFound as unknown:
        raise UnknownTaskType(
            f"`{tag.name}` has no version {args.version}; the current one is `{tag.name}@{tag.version}`"
        ) from unknown
    return Contract(tag.name, old.version, old.profile, old.profile_digest, ended)


def ticket_request(
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
        client_id=_client_id(),
        redeem=args.redeem,
        change_ticket=args.change_ticket,
    )


def _client_id() -> str:
    try:
        return f"swift-submit/{version('tagwarden')}"
    except PackageNotFoundError:
        return "swift-submit/0"


def _denial(registry: Registry, args: TrainingArguments, found: Contract) -> NotPermitted | None:
    context = wire.EvaluationContext(
        business_unit=args.business_unit,
        target=args.target,
        gpus=args.gpus,
        model=args.model_name_or_path[:300],
        change_ticket=args.change_ticket,
    )
    answer = registry.evaluate(found.tag, "submit", context)
    if answer.decision:
        return None
    why = answer.context
    nearest = [f"rule `{near.rule}` fails on {'; '.join(near.failed)}" for near in why.nearest[:1]]
    if why.reason == "unit-holds-others":  # as with the token that a registry of one's own leaves
        nearest = ["a run is for one business unit, and yours holds others; name it with `business_unit` (`--bu`)"]
    return NotPermitted(
        f"you may not submit `{found.tag}`: {', '.join([why.reason, *nearest])}",
        reason_code=why.reason,
        rule=why.rule,
        ask=why.ask or None,
        policy_revision=why.policy_revision,
    )


def _ask_for_the_record(registry: Registry, args: TrainingArguments, train: Any, held_out: Any) -> None:
    """Ask for what will be refused, without wanting a ticket, and let the registry's own words be the refusal."""
    with suppress(NotFound, TaskTypeNotActive):  # our look-up said it already, and knows what was asked for
        _ask(registry, args, train, held_out)


def _ask(registry: Registry, args: TrainingArguments, train: Any, held_out: Any) -> None:
    """Without a readable model or data there is no honest request to make, and the caller's refusal has to do."""
    try:
        sources = preflight.read_sources(args, train, held_out)
        given = preflight.gather(args, sources, folders.model_folder(args.model_name_or_path))
    except Problem:
        return
    registry.plan(ticket_request(args, args.tag, args.version, args.tag_arguments, given, SigningKey.generate()))


def _raise_if_proposed(registry: Registry, tag: str) -> None:
    try:
        waiting = next((p for p in registry.proposals(state="open") if p.subject == f"tag:{tag}"), None)
    except Problem:  # who may not read proposals learns nothing from them
        return
    if waiting is not None:
        given = sum(review.counts and review.verdict == "approve" for review in waiting.reviews)
        missing = max(waiting.approvals_needed - given, 1)
        raise ApprovalPending(
            f"`{tag}` is proposed (`{waiting.id}`) and waits for {missing} more approvals; "
            f"see `swift-submit requests show {waiting.id}`",
            proposal=waiting.id,
        )


def _need_recipe(found: Contract) -> None:
    if found.profile.recipe not in recipes.known():
        have = ", ".join(f"`{name}`" for name in recipes.known())
        raise RecipeMissing(
            f"`{found.tag}` trains by the recipe `{found.profile.recipe}`, which this release of the trainer does not "
            f"have (it has {have}); upgrade `tagwarden`, or train by one of the tag's bindings "
            f"(`swift-submit tags show {found.tag}`)",
            bindings=[binding.model_dump(mode="json") for binding in found.profile.bindings],
        )


def _need_launcher(args: TrainingArguments) -> None:
    """A ticket says where a run may start, and here is `local`: running it here under another name would be a lie."""
    if args.target != LOCAL:
        raise LauncherMissing(f"this release of the trainer starts runs on `{LOCAL}` only, not on `{args.target}`")
