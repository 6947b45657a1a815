"""The tree of refusals. One class, both ends, one renderer.

The registry raises them, the wire carries `application/problem+json` (RFC 9457), and the client raises the same class
again. Clients switch on `code`, never on the text. Messages are lower case, name what was given in backticks, and say
what to do next.

    Problem
    ├── Invalid (422)            the request cannot be meant
    ├── Unauthenticated (401)    nobody we know
    ├── NotPermitted (403)       somebody we know, but the policy says no
    ├── NotFound (404)           no such thing
    ├── Conflict (409)           the state of things forbids it
    └── Unavailable (503, 429)   try again later
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class Problem(Exception):
    """A refusal the caller can act on.

    `facts` travel as extension members of the problem document and come back as attributes of the same name in `facts`.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "problem"
    title: ClassVar[str] = "the request was refused"
    remedy: ClassVar[str] = "Read `detail`: it says what to do next."
    alarm: ClassVar[str | None] = None  # the kind of event that records it, where a refused attempt says too little

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts: dict[str, Any] = {name: fact for name, fact in facts.items() if fact is not None}

    def document(self) -> dict[str, Any]:
        """The RFC 9457 problem document. `type` is a stable URN; `code` is its last part."""
        return {
            "type": f"urn:tagwarden:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.facts,
        }


class Invalid(Problem):
    status, code, title = 422, "invalid", "the request is not valid"
    remedy = "Change what `detail` names, and send it again. The same request will be refused again."


class Unauthenticated(Problem):
    status, code, title = 401, "unauthenticated", "nobody we know"
    remedy = "Sign in (`swift-submit auth login`), or bring a credential that is still good."


class NotPermitted(Problem):
    """The policy says no. `reason_code`, `rule` and `policy_revision` tell which part of it, `ask` which groups can
    change that; `nearest` are the rules that came near, for those who may read the policy."""

    status, code, title = 403, "not-permitted", "the policy does not allow this"
    remedy = (
        "Ask those whom `ask` names. `swift-submit why DECISION_ID` explains the decision; signing "
        "in again helps only where your groups have changed."
    )


class QuotaExceeded(NotPermitted):
    """The policy allows it, but the machines that its unit may use are used up. `quota`, `limit`, `asked` and `left`
    tell of what; `resets_at` when there is more, where a window ends. Otherwise a run of the unit has to end first."""

    status, code, title = 429, "quota-exceeded", "a quota is used up"
    remedy = "Wait until `resets_at`, or until a run of the unit has ended; `swift-submit quotas` shows what is taken."


class NotFound(Problem):
    status, code, title = 404, "not-found", "no such thing"
    remedy = "Check the name; a list of the same kind of thing shows what there is."


class Conflict(Problem):
    status, code, title = 409, "conflict", "the state of things forbids it"
    remedy = (
        "Read again how things stand, and decide anew. The same request helps only once something else has changed."
    )


class Unavailable(Problem):
    status, code, title = 503, "unavailable", "not now"
    remedy = "Send the same request again later, after `Retry-After` where the answer has it. Nothing was changed."


# --- identity ---------------------------------------------------------------------------------------------------------


class PrincipalDisabled(NotPermitted):
    """Somebody who was let in before. What they hold opens nothing until they are enabled again."""

    code, title = "principal-disabled", "this principal is disabled"


class GroupsOverage(NotPermitted):
    """The provider left the groups out of the token. That is not the same as having none: a denial may stand on one."""

    code, title = "groups-overage", "the token does not carry the groups"


class ExchangeRefused(Unauthenticated):
    """The token endpoint's refusal. `error` is the code of RFC 6749 section 5.2, which stock clients read."""

    status, code, title = 400, "exchange-refused", "the token is not traded"


# --- names and profiles -----------------------------------------------------------------------------------------------


class NameInvalid(Invalid):
    code, title = "name-invalid", "not a name for a task type"


class NameIsVariant(Conflict):
    code, title = "name-is-variant", "a variant of a task type that exists"


class NameNeedsReason(Invalid):
    """`matches` names the task types that it extends; `parent` or `distinct_from` has to answer for each."""

    code, title = "name-needs-reason", "the name extends that of a task type, and does not say why"


class NameNotReserved(NotFound):
    code, title = "name-not-reserved", "nobody reserved this word"


class ProfileInvalid(Invalid):
    code, title = "profile-invalid", "the profile is not valid"


class ProfileWidens(ProfileInvalid):
    """A child allows what its parent does not. `changes` are the fields, as `enforcer.profile_changes` tells them."""

    code, title = "profile-widens", "a child may only narrow"


class GateWithoutMinN(ProfileInvalid):
    """A bar that three samples may pass is none."""

    code, title = "gate-without-min-n", "a gate says on how many samples"


class GateAgainstDirection(ProfileInvalid):
    """It would let the worse pass and refuse the better."""

    code, title = "gate-against-direction", "a gate that asks for less of what is better"


class MetricUnknown(ProfileInvalid):
    code, title = "metric-unknown", "the profile has no such metric"


class BoundsContradict(ProfileInvalid):
    """Nothing could ever fit, or what stands there as default does not."""

    code, title = "bounds-contradict", "nothing can satisfy this"


class BindingInvalid(ProfileInvalid):
    """No such range of versions, two bindings for one version of a framework, or one that forbids what it says."""

    code, title = "binding-invalid", "a binding to a framework is not valid"


class ParentCycle(ProfileInvalid):
    code, title = "parent-cycle", "a task type is its own ancestor"


class CompatibilityBroken(Conflict):
    """The next version refuses configurations that the task type's compatibility mode protects, or accepts such that it
    must not. `mode` is that mode, `incompatibilities` are the fields with a configuration each."""

    code, title = "compatibility-broken", "the version is not compatible with the ones before"


class ArgumentInvalid(Invalid):
    """A training argument that the tag's profile does not take. `pointer` (RFC 6901) names the argument."""

    code, title = "argument-invalid", "the task type does not take this argument"


class NotBound(NotFound):
    """No binding to this framework, or not to this version of it. `frameworks` or `versions` are those there are."""

    code, title = "not-bound", "the task type is not bound to this"


class FrameworkUnreadable(Invalid):
    code, title = "framework-unreadable", "the framework's own words cannot be read"


# --- tags and proposals -----------------------------------------------------------------------------------------------


class UnknownTaskType(NotFound):
    code, title = "unknown-task-type", "no such task type"


class TaskTypeNotActive(Conflict):
    code, title = "task-type-not-active", "this task type takes no new runs"


class TaskTypeSunset(TaskTypeNotActive):
    """Its end has come. `replaced_by` is what to use instead, `sunset_at` since when."""

    code, title = "task-type-sunset", "this task type has ended"


class TaskTypeArchived(TaskTypeNotActive):
    """Kept for the record: it resolves for old runs, and nothing is done with it any more."""

    code, title = "task-type-archived", "this task type is archived"


class WrongLifeState(Conflict):
    """The life of a task type goes active, deprecated, sunset, archived, and from deprecated back to active."""

    code, title = "wrong-life-state", "its life does not go that way"


class SunsetInvalid(Invalid):
    code, title = "sunset-invalid", "not a time at which a task type can end"


class ReplacementInvalid(Conflict):
    code, title = "replacement-invalid", "this cannot take its place"


class StillReplaces(Conflict):
    """Others were ended in favour of it. `replaces` are their names."""

    code, title = "still-replaces", "it takes the place of others"


class UnknownProposal(NotFound):
    code, title = "unknown-proposal", "no such proposal"


class AlreadyDecided(Conflict):
    code, title = "already-decided", "the proposal is closed"


class SelfApproval(NotPermitted):
    code, title = "self-approval", "nobody approves their own proposal"


class BeneficiaryApproval(NotPermitted):
    """An exception is agreed to by people who gain nothing by it, themselves or through a group."""

    code, title = "beneficiary-approval", "nobody approves what they gain by"


class ContributorApproval(NotPermitted):
    """Whoever edited a proposal has written a part of it."""

    code, title = "contributor-approval", "nobody approves what they had a part in"


class ApprovalUnsatisfiable(Conflict):
    """Fewer people could approve than have to. `missing` says of which groups and units."""

    code, title = "approval-unsatisfiable", "there are too few people who could approve this"


class ApprovalLost(Conflict):
    """Somebody who approved may not do so any more, and their approval counts no longer. `lost` names them."""

    code, title = "approval-lost", "an approval counts no longer"


class ProposalExpired(Conflict):
    code, title = "proposal-expired", "the time to agree to it is over"


class StaleBase(Conflict):
    """What a change was made from is not what is in force now."""

    code, title = "stale-base", "the change was made from what is no longer in force"


class BreakGlassRefused(Conflict):
    """What cannot be undone does not take effect before others agree, nor does anything twice that was not agreed to;
    and nothing else takes effect beside what is in effect provisionally."""

    code, title = "break-glass-refused", "this does not take effect before others agree"


class UnknownDelegation(NotFound):
    code, title = "unknown-delegation", "no such delegation"


class DelegationOver(Conflict):
    code, title = "delegation-over", "the delegation has ended"


class NoDelegation(NotPermitted):
    """Nobody reviews in somebody else's name without a delegation that stands and covers the matter."""

    code, title = "no-delegation", "no delegation for this"


class AlreadyReviewed(Conflict):
    code, title = "already-reviewed", "one reviewer, one review"


class StaleReview(Conflict):
    code, title = "stale-review", "the proposal changed after you saw it"


# --- the policy -----------------------------------------------------------------------------------------------------


class UnknownPolicy(NotFound):
    code, title = "unknown-policy", "no such revision of the policy"


class PolicyMoved(Conflict):
    """Somebody published meanwhile: what was made from the policy as it was has to be made again."""

    code, title = "policy-moved", "the policy was changed meanwhile"


class PolicyUnchanged(Conflict):
    code, title = "policy-unchanged", "this policy is live already"


class PolicyRefused(Invalid):
    """A policy or an exception that cannot go live. `findings` lists what is wrong with it, where that is much."""

    code, title = "policy-refused", "the policy cannot go live like this"


class PolicyComesFromFolder(Conflict):
    code, title = "policy-comes-from-folder", "this registry takes its policy from a folder"


class UnknownRule(NotFound):
    code, title = "unknown-rule", "no such rule"


class NotOverridable(Conflict):
    code, title = "not-overridable", "this rule is not overridden"


class UnknownException(NotFound):
    code, title = "unknown-exception", "no such exception"


class ExceptionExists(Conflict):
    code, title = "exception-exists", "an exception's id is given once"


class ExceptionOver(Conflict):
    code, title = "exception-over", "the exception is over"


# --- tickets and runs -------------------------------------------------------------------------------------------------


class TicketInvalid(Unauthenticated):
    """A ticket or proof that does not verify. `step` is the number of the check that failed (`enforcer.tickets`)."""

    code, title = "ticket-invalid", "the run ticket does not verify"


class UnknownDecision(NotFound):
    code, title = "unknown-decision", "there is no such decision"


class UnknownTicket(NotFound):
    code, title = "unknown-ticket", "no such ticket"


class TicketUsed(Conflict):
    code, title = "ticket-used", "a ticket starts one run"


class TicketExpired(Conflict):
    code, title = "ticket-expired", "the ticket was not redeemed in time"


class TicketRevoked(Conflict):
    code, title = "ticket-revoked", "the run ticket was taken back"


class TicketNeverIssued(NotFound):
    """Signed with our key, yet not what we wrote down: somebody else has the key."""

    code, title, alarm = "ticket-never-issued", "the books know no such ticket", "ticket.never-issued"


class TicketUsedTwice(TicketUsed):
    """Two offline redemptions of one ticket: a copied permit, found out when the second record arrived."""

    code, title, alarm = "ticket-used-twice", "a ticket started two runs", "ticket.used-twice"


class RevokedTicketUsed(TicketRevoked):
    """An offline redemption of a ticket that was taken back."""

    code, title, alarm = "revoked-ticket-used", "a revoked ticket started a run", "ticket.used-revoked"


class OfflineNotPermitted(NotPermitted):
    """Offline redemption is for places that the policy's directory lists as `offline`."""

    code, title = "offline-not-permitted", "no offline redemption there"


class UnknownRun(NotFound):
    code, title = "unknown-run", "no such run"


class RunClosed(Conflict):
    code, title = "run-closed", "the run has ended"


class ManifestInvalid(Invalid):
    """A run manifest, or what it speaks of, that does not hold. `step` is the number in `enforcer.chain.verify`."""

    code, title = "manifest-invalid", "the run's proof chain does not hold"


class UnknownManifest(NotFound):
    code, title = "unknown-manifest", "no such manifest"


class IdempotencyConflict(Invalid):
    code, title = "idempotency-key-reused", "the same Idempotency-Key with another request"
    remedy = "Make a new key for what is another request; keep the key only to ask the same again."


class IdempotencyInUse(Conflict):
    """The first request with this key has not been answered yet. `retry_after_s` says when to ask again."""

    code, title = "idempotency-key-in-use", "the same Idempotency-Key is still worked on"
    remedy = "Ask again in a second, with the same key: the answer of the first request will be there."


class IdempotencyNotOffered(Invalid):
    """The answer holds a secret that is told once; it is not kept, so it cannot be told again."""

    code, title = "idempotency-key-not-offered", "this cannot be asked for again under a key"
    remedy = "Send it without `Idempotency-Key`. If the answer got lost, end what was made and make another."


# --- the audit log ----------------------------------------------------------------------------------------------------


class Held(Conflict):
    """What a legal hold covers is not erased. `holds` are their ids."""

    code, title = "legal-hold", "a legal hold covers it"


class ErasureRefused(Conflict):
    code, title = "erasure-refused", "this cannot be erased now, or not like this"


# --- requests ---------------------------------------------------------------------------------------------------------


class Malformed(Invalid):
    """The body, a query parameter or a header is not what the API takes. `errors` lists pointer and message."""

    code, title = "malformed-request", "the request is not what the API takes"


class PreconditionRequired(Invalid):
    """RFC 6585 section 3: a change that rests on what was read says what that was, in `If-Match`."""

    status, code, title = 428, "precondition-required", "say which state of it you mean"
    remedy = "Read the resource, and send the `ETag` of that answer as `If-Match`."


class Stale(Conflict):
    """RFC 9110 section 15.5.13: `If-Match` names another state of the resource than it has now. `etag` is that one."""

    status, code, title = 412, "stale", "it was changed since you read it"
    remedy = "Read it again, see what others changed, and decide by that. The new `ETag` goes into `If-Match`."


class FilterInvalid(Invalid):
    """A `filter` or `order_by` that cannot be read, or speaks of a field that the list does not publish. `position` is
    where, counted in characters."""

    code, title = "filter-invalid", "not a filter over the fields of this list"


class PageTokenInvalid(Invalid):
    """A page token that is none of ours, or belongs to another filter or order than it came back with."""

    status, code, title = 400, "page-token-invalid", "this page token does not go on with this list"
    remedy = "Go on with the filter and the order that the token came with, or start again without it."


class TooLarge(Invalid):
    status, code, title = 413, "too-large", "the body is too large"


class TooDeep(Malformed):
    """Nesting that no document of ours has; refused before it is parsed."""

    code, title = "too-deep", "the body is nested too deeply"


class UnsupportedMediaType(Invalid):
    status, code, title = 415, "unsupported-media-type", "not a format that is read here"


class CrossOrigin(NotPermitted):
    """A page of another site had a browser send this."""

    code, title = "cross-origin", "other sites may not call this"


class Misdirected(Problem):
    """RFC 9110 section 15.5.20: the `Host` is not a name of this service (DNS rebinding looks like that)."""

    status, code, title = 421, "misdirected-request", "not a name of this service"


class RateLimited(Unavailable):
    """Too many requests at once. `budget` says of which kind, `retry_after_s` when the next one is welcome.

    `unsaid` is None where this refusal shall not be recorded, since the same was moments ago; otherwise how many were
    left unrecorded before it.
    """

    status, code, title = 429, "rate-limited", "too many requests"
    unsaid: int | None = 0


class MethodNotAllowed(Problem):
    status, code, title = 405, "method-not-allowed", "not here"


class InternalError(Problem):
    """Ours to mend; the registry's log says how."""

    status, code, title = 500, "internal-error", "a broken promise of ours"


# --- the log ----------------------------------------------------------------------------------------------------------


class UnknownEvent(NotFound):
    code, title = "unknown-event", "no such event"


class NotLogged(Unavailable):
    code, title = "not-logged-yet", "the event has no place in the log yet"


class LogShorter(NotFound):
    """Asked about more entries than the log has. To a client that holds a head over so many, it went backwards."""

    code, title = "log-shorter", "the log has fewer entries"


class LogInconsistent(Unavailable):
    """The log says something else than it said before. On the client `evidence` names the folder with both notes."""

    code, title = "log-inconsistent", "the log contradicts itself"


# --- the client's own -------------------------------------------------------------------------------------------------


class RegistryUnreachable(Unavailable):
    """No registry, no ticket, no run."""

    code, title = "registry-unreachable", "the registry cannot be reached"


class NotConfigured(Invalid):
    code, title = "not-configured", "a setting is missing"


class DatasetInvalid(Invalid):
    code, title = "dataset-invalid", "the dataset cannot be trained on"


class ModelInvalid(Invalid):
    code, title = "model-invalid", "the model cannot be loaded"


class CheckpointInvalid(Invalid):
    code, title = "checkpoint-invalid", "there is no checkpoint that can be trusted"


class NotContinued(Conflict):
    """What is asked for is not the run that stopped, only further; `run_id` names that one."""

    code, title = "not-continued", "the run cannot be continued like this"


class OutputInvalid(Invalid):
    code, title = "output-invalid", "the output directory cannot be written"


class TrainingFailed(Problem):
    code, title = "training-failed", "training stopped with an error"


def from_document(document: dict[str, Any], status: int) -> Problem:
    """Raise-able again on the other end: the class with this `code`, or the nearest by status."""
    known = kinds()
    families = (Invalid, Unauthenticated, NotPermitted, NotFound, Conflict, RateLimited, Unavailable, InternalError)
    nearest = next((family for family in families if family.status == status), Problem)
    kind = known.get(str(document.get("code")), nearest)
    facts = {k: v for k, v in document.items() if k not in {"type", "title", "status", "code", "detail"}}
    return kind(str(document.get("detail") or document.get("title") or f"HTTP {status}"), **facts)


def kinds() -> dict[str, type[Problem]]:
    """Every kind of refusal by its code."""
    return {problem.code: problem for problem in _tree(Problem)}


def _tree(problem: type[Problem]) -> list[type[Problem]]:
    return [problem, *(deeper for child in problem.__subclasses__() for deeper in _tree(child))]


def from_validation(errors: Iterable[Mapping[str, Any]]) -> Problem | None:
    """The refusal that a validator of a profile means, by the type of its pydantic error: a validator cannot raise a
    Problem itself, since the other errors of the document would be lost with it. None where there is no such error."""
    meant = {kind.code: kind for kind in _tree(ProfileInvalid)}
    for error in errors:
        if kind := meant.get(str(error["type"])):
            return kind(str(error["msg"]), pointer="/" + "/".join(map(str, error["loc"])))
    return None
