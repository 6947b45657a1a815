"""A refusal as people read it: what, why, and what to do next; its exit code. No traceback leaves this file.

✗ the policy does not allow this: `user:r` (groups: search-ml) may not submit `dpo` ...  (exit 3)
  why   rule nlp-trains-preference-alignment · policy sha256:3f2a… · decision 0193c...
  ask   nlp, who answer for the rules on this
  next  swift-submit can-i submit TAG --explain
"""

import os
import traceback
from collections.abc import Mapping
from typing import Any

from enforcer.problems import Invalid, Problem
from trainer.cli.output import Output
from trainer.exits import FAILED, exit_code

NEXT = {
    "not-permitted": [
        "swift-submit can-i submit TAG --explain      why not, and whom to ask",
        "swift-submit why DECISION      the same of what was refused, and what the policy says now",
    ],
    "self-approval": ["ask another steward; swift-submit requests show ID      who has reviewed"],
    "groups-overage": ["swift-submit auth status      once the provider sends your groups; nothing here can mend it"],
    "unauthenticated": [
        "swift-submit auth login      through your identity provider",
        "export SWIFT_SUBMIT_TOKEN=…      (`tagwarden token create` makes one)",
        "tagwarden serve      a registry of your own, which leaves you a token",
    ],
    "unknown-task-type": [
        "swift-submit tags list      those that exist",
        "swift-submit tags propose FILE      if none of them fits",
    ],
    "task-type-sunset": ["swift-submit tags show TAG      since when, why, and what replaces it"],
    "still-replaces": ["swift-submit tags readiness TAG      what rests on it"],
    "wrong-life-state": ["swift-submit tags show TAG      where it stands"],
    "name-invalid": ["swift-submit tags check-name NAME      what may be a name, with a suggestion"],
    "name-is-variant": ["swift-submit tags check-name NAME      which task type it is a variant of"],
    "registry-unreachable": ["tagwarden serve      start one here", "swift-submit --server URL …      use another"],
    "ticket-used": ["swift-submit run CONFIG      asks for a new ticket: one ticket, one run"],
    "ticket-revoked": ["swift-submit run CONFIG      asks for a new ticket, if the policy still grants one"],
    "offline-not-permitted": ["swift-submit run CONFIG --redeem online      where the registry can be reached"],
    "ticket-expired": ["swift-submit run CONFIG      asks for a new ticket"],
    "ticket-invalid": [
        "swift-submit run CONFIG      asks for a new ticket",
        "swift-submit ticket show RUN_DIR      what it says",
    ],
    "unknown-manifest": ["swift-submit runs show ID      whether it ended, and how"],
    "stale-review": ["swift-submit requests show ID      as it is now, with its digest"],
    "argument-invalid": ["swift-submit tags show TAG      which arguments it takes, within which bounds"],
    "unknown-run": ["swift-submit runs list"],
    "unknown-proposal": ["swift-submit requests list"],
}


class CommandLineInvalid(Invalid):
    """For programs; `trainer.cli.main` tells people."""

    code, title = "command-line-invalid", "the command line is wrong"


def show(error: Exception, given: Mapping[str, Any], code: int | None = None) -> int:
    """Tell of `error` in the form that was asked for; returns its exit code, or the `code` that takes its place."""
    output = Output(given)
    problem = error if isinstance(error, Problem) else _unexpected(error)
    code = exit_code(problem) if code is None else code
    if not output.problem(problem.document()):
        output.error(_lines(problem, code))
    return code


def _lines(problem: Problem, code: int) -> list[str]:
    head, *rest = f"{problem.title}: {problem.detail}".split("\n")
    lines = [f"{head}  (exit {code})", *rest]
    facts = problem.facts
    why = [
        f"rule {facts['rule']}" if facts.get("rule") else "",
        f"policy {str(facts['policy_revision'])[:19]}…" if facts.get("policy_revision") else "",
        f"step {facts['step']}" if facts.get("step") else "",
        f"at {facts['pointer']}" if facts.get("pointer") else "",
        f"decision {facts['decision_id']}" if facts.get("decision_id") else "",
    ]
    if any(why):
        lines.append(f"why   {' · '.join(part for part in why if part)}")
    if facts.get("ask"):
        lines.append(f"ask   {', '.join(map(str, facts['ask']))}, who answer for the rules on this")
    following = list(NEXT.get(problem.code, ()))
    if facts.get("suggestion"):
        following.insert(0, f"use `{facts['suggestion']}`")
    return [*lines, *(f"{'next' if at == 0 else '    '}  {step}" for at, step in enumerate(following))]


def _unexpected(error: Exception) -> Problem:
    """A fault of ours. Its traceback goes to a file that the user may send us or not."""
    where = _keep_traceback(error)
    kept = f"the details are in `{where}`" if where else "run it again with python -X dev for details"
    problem = Problem(f"`{type(error).__name__}`: {str(error)[:500]}; this is a fault of swift-submit, {kept}")
    assert exit_code(problem) == FAILED
    return problem


def _keep_traceback(error: Exception) -> str | None:
    import platformdirs

    path = platformdirs.user_state_path("swift-submit") / "last-fault.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return None
    return str(path)
