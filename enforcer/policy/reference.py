"""The reference: stock Casbin over the same policy and the same model text.

Slow (some microseconds for each line of the policy, and the matcher is parsed anew for each request) and not to be
shared by threads, so it decides nothing: tests hold the gate to it, and a `Sampler` asks it about one in so many real
decisions.

What is stock: loader, matcher by SimpleEval over every line, effector, role managers. What is ours: lines come as typed
tuples (the stock adapters cut columns and split at commas), role managers are told that trees may be deep (the stock
limit answers no beyond nine links), and principals whom the policy does not know are not asked about (the role managers
would keep them forever).
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import count, product
from typing import Any, NamedTuple

import casbin
from casbin.persist import Adapter
from casbin.rbac.default_role_manager import RoleManager

from enforcer.policy.conditions import Context, Point
from enforcer.policy.decision import Decision, Match, Request
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.model import ONE_PARSES
from enforcer.policy.revision import MAX_DEPTH, Policy
from enforcer.policy.rules import ANY_TAG, Rule
from enforcer.policy.snapshot import Snapshot

log = logging.getLogger(__name__)

_DEEP = 10 * MAX_DEPTH  # the tree of task types has no limit of its own
_WAITING = 100
_KEPT = 16  # enforcers: one for each point, and for each set of exceptions that do not count for their approvers


class Answer(NamedTuple):
    """Whether it is allowed, and by which rule: the first that denies, or the last that allows."""

    allowed: bool
    rule: str | None


class Reference:
    """Stock Casbin over one policy revision and one task-type tree. For one thread."""

    def __init__(self, policy: Policy, tag_parents: Mapping[str, str | None]) -> None:
        self.policy = policy
        self.tag_parents = dict(tag_parents)
        scopes: list[Rule | PolicyException] = [*policy.rules, *policy.exceptions]
        self._scopes = {scope.id: scope for scope in scopes}
        groups = (f"group:{name}" for name in policy.directory.groups)
        approvers = (name for exception in policy.exceptions for name in exception.approved_by)
        self._known = {*groups, *approvers, *(name for scope in scopes for name in scope.who)}
        self._enforcers: dict[tuple[Point, frozenset[str]], casbin.Enforcer] = {}

    def is_about(self, gate: Snapshot) -> bool:
        return self.policy.revision == gate.revision and self.tag_parents == gate.tag_parents

    def ask(self, request: Request) -> Answer:
        """Of a request whose names are known; the snapshot refuses all others before any rule is asked."""
        principals = tuple(name for name in request.principals if name in self._known)
        enforcer = self._enforcer(request.context.point, self._approved_by(principals))
        with ONE_PARSES:
            allowed, line = enforcer.enforce_ex(
                principals, request.unit, request.tag, request.action, request.target, request.context
            )
        return Answer(allowed, str(line[0]) if line else None)

    def _approved_by(self, principals: tuple[str, ...]) -> frozenset[str]:
        covers = self.policy.directory.covers
        return frozenset(one.id for one in self.policy.exceptions if covers(one.approved_by, principals))

    def _enforcer(self, point: Point, approved: frozenset[str]) -> casbin.Enforcer:
        if (point, approved) not in self._enforcers:
            if len(self._enforcers) >= _KEPT:
                self._enforcers.clear()
            self._enforcers[point, approved] = self._load(point, approved)
        return self._enforcers[point, approved]

    def _load(self, point: Point, approved: frozenset[str]) -> casbin.Enforcer:
        """The lines that decide at this point, for somebody who approved these exceptions. Neither is a part of the
        model: they say which lines there are."""
        enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=self.policy.model))
        managers = {name: RoleManager(_DEEP) for name in ("g", "g2", "g3", "g4")}
        for name, manager in managers.items():
            enforcer.set_named_role_manager(name, manager)
        enforcer.set_adapter(_Lines([*self._lines(point, approved), *self._links()]))
        enforcer.load_policy()
        member, when = _member(managers["g"]), self._when
        enforcer.add_function("member", member)
        enforcer.add_function("when", when)
        enforcer.add_function("lifted", _Lifted(self.policy.exceptions, managers, member, when))
        return enforcer

    def _lines(self, point: Point, approved: frozenset[str]) -> Iterable[tuple[str, ...]]:
        for scope in self._scopes.values():
            if scope.id not in approved and _decides(scope, point):
                for who, act, tag, unit, target in product(scope.who, scope.may, scope.tag, scope.unit, scope.target):
                    yield "p", scope.id, who, unit, tag, act, target, scope.id, scope.effect

    def _links(self) -> Iterable[tuple[str, ...]]:
        directory = self.policy.directory
        for group, wider in directory.groups.items():
            for above in wider:
                yield "g", f"group:{group}", f"group:{above}"
        for ptype, parents in (("g2", directory.units), ("g4", directory.targets)):
            for name, parent in parents.items():
                if parent:
                    yield ptype, name, parent
        for tag, parent in self.tag_parents.items():
            yield "g3", tag, parent or ANY_TAG

    def _when(self, scope_id: str, context: Context) -> bool:
        return self._scopes[scope_id].first_failing(context) is None


def _decides(scope: Rule | PolicyException, point: Point) -> bool:
    if isinstance(scope, PolicyException):
        return scope.lifts is None
    return Match(scope.id, scope.effect, scope.level_at(point)).decides


def _member(groups: RoleManager) -> Callable[[tuple[str, ...], str], bool]:
    return lambda principals, name: any(groups.has_link(principal, name) for principal in principals)


class _Lifted:
    """`lifted(...)` in terms of the stock role managers."""

    def __init__(
        self,
        exceptions: Iterable[PolicyException],
        managers: Mapping[str, RoleManager],
        member: Callable[[tuple[str, ...], str], bool],
        when: Callable[[str, Context], bool],
    ) -> None:
        self._exceptions = [exception for exception in exceptions if exception.lifts]
        self._managers, self._member, self._when = managers, member, when

    def __call__(
        self, rule: str, principals: tuple[str, ...], unit: str, tag: str, action: str, target: str, context: Context
    ) -> bool:
        asked = {"g2": unit, "g3": tag, "g4": target}
        for exception in self._exceptions:
            named = {"g2": exception.unit, "g3": exception.tag, "g4": exception.target}
            if (
                exception.lifts == rule
                and action in exception.may
                and any(self._member(principals, name) for name in exception.who)
                and not any(self._member(principals, name) for name in exception.approved_by)
                and all(any(self._managers[g].has_link(asked[g], wider) for wider in named[g]) for g in asked)
                and self._when(exception.id, context)
            ):
                return True
        return False


class _Lines(Adapter):  # type: ignore[misc]
    """A read-only adapter over typed tuples. The stock ones cut columns, lose deny rules and split at commas."""

    def __init__(self, lines: Iterable[tuple[str, ...]]) -> None:
        self._lines = lines

    def load_policy(self, model: Any) -> None:
        for ptype, *values in self._lines:
            model.add_policy(ptype[0], ptype, values)


class Sampler:
    """Asks the reference about one in `every` decisions, in a thread of its own; a difference is an alarm.

    It is the `watch` of a snapshot. A decision never waits for it: when `_WAITING` samples wait, further ones are
    dropped and counted. `alarm` is called with the decision and what the reference says.
    """

    def __init__(self, every: int, alarm: Callable[[Decision, Answer], None]) -> None:
        self._every = every
        self._alarm = alarm
        self._numbers = count(1)
        self._waiting: queue.Queue[tuple[Snapshot, Decision]] = queue.Queue(_WAITING)
        self._reference: Reference | None = None
        self.checked = self.differing = self.dropped = 0
        threading.Thread(target=self._work, name="policy-reference", daemon=True).start()

    def __call__(self, gate: Snapshot, decision: Decision) -> None:
        if next(self._numbers) % self._every == 0:
            try:
                self._waiting.put_nowait((gate, decision))
            except queue.Full:
                self.dropped += 1

    def wait(self) -> None:
        """Until what was sampled so far is checked."""
        self._waiting.join()

    def _work(self) -> None:
        while True:
            gate, decision = self._waiting.get()
            try:
                self._check(gate, decision)
            except Exception:
                log.critical("the reference failed on a decision of policy %s", gate.revision, exc_info=True)
            finally:
                self._waiting.task_done()

    def _check(self, gate: Snapshot, decision: Decision) -> None:
        if decision.reason.startswith("unknown-") or decision.reason.endswith("-holds-others"):
            return  # answered before any rule was asked
        reference = self._reference
        if reference is None or not reference.is_about(gate):
            reference = self._reference = Reference(gate.policy, gate.tag_parents)
        answer = reference.ask(decision.request)
        self.checked += 1
        if answer != (decision.allowed, decision.rule):
            self.differing += 1
            log.critical(
                "the gate says %s by %s, stock Casbin %s by %s (policy %s): %s",
                *(decision.allowed, decision.rule, *answer, gate.revision, decision.request),
            )
            self._alarm(decision, answer)
