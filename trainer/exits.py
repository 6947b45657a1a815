"""Exit codes of `swift-submit`, frozen by a test: scripts switch on them."""

from enforcer.problems import (
    Conflict,
    InternalError,
    Invalid,
    LogInconsistent,
    ManifestInvalid,
    NotFound,
    NotPermitted,
    Problem,
    TicketInvalid,
    TicketNeverIssued,
    TrainingFailed,
    Unauthenticated,
    Unavailable,
    UnknownTaskType,
)

FINE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
DENIED, NOT_SIGNED_IN, PENDING, INVALID, NOT_FOUND, STALE, UNREACHABLE, TRAINING_FAILED, GATE_MISSED = range(3, 12)

MEANING = {
    FINE: "done",
    FAILED: "another failure",
    USAGE: "the command line is wrong",
    DENIED: "the policy does not allow it",
    NOT_SIGNED_IN: "not signed in",
    PENDING: "approval is needed or pending",
    INVALID: "config, data, model or task type are not valid",
    NOT_FOUND: "no such thing",
    STALE: (
        "conflict or stale: a used, expired or edited ticket, a closed proposal, a log that contradicts itself, "
        "a proof chain that breaks"
    ),
    UNREACHABLE: "the registry, or a judge, cannot be reached; try again",
    TRAINING_FAILED: "training failed",
    GATE_MISSED: "trained, but an acceptance gate was missed",
    INTERRUPTED: "interrupted; a checkpoint is kept",
}
# Looked up along the class tree, the nearest first. A ticket that does not hold says nothing about who is signed in.
_BY_PROBLEM: dict[type[Problem], int] = {
    NotPermitted: DENIED,
    Unauthenticated: NOT_SIGNED_IN,
    TicketInvalid: STALE,
    ManifestInvalid: STALE,
    TicketNeverIssued: STALE,
    Invalid: INVALID,
    UnknownTaskType: INVALID,
    NotFound: NOT_FOUND,
    Conflict: STALE,
    LogInconsistent: STALE,
    Unavailable: UNREACHABLE,
    InternalError: UNREACHABLE,
    TrainingFailed: TRAINING_FAILED,
}
_BY_CODE = {
    "approval-pending": PENDING,
    "command-line-invalid": USAGE,
    "name-is-variant": INVALID,
    "not-accepted": GATE_MISSED,
    "task-type-archived": INVALID,
    "task-type-not-active": INVALID,
    "task-type-sunset": INVALID,
}


def exit_code(problem: Problem) -> int:
    if problem.code in _BY_CODE:
        return _BY_CODE[problem.code]
    return next((_BY_PROBLEM[kind] for kind in type(problem).__mro__ if kind in _BY_PROBLEM), FAILED)
