"""The gate: may these principals do this, to this task type, for this business unit, there?

The only file that imports casbin. (The module comes from the distribution `pycasbin`; the PyPI package `casbin` is
frozen, answers no rule for an allow, and must not be installed beside it.)

A snapshot is one policy revision with one task-type tree, immutable, swapped by one assignment. The rules it keeps:
- Deny is what happens on an unknown name, on any exception, and when nothing matches.
- An allow needs a rule id: Casbin answers `(True, [])` when it is switched off, and that is not a permission.
- Names are checked before Casbin sees them: its role manager creates whatever it is asked about.
- Casbin decides one request at a time: it parses its matcher on each call, which CPython 3.11 does not survive in
  parallel. So for the matcher and effect that ship (`_KNOWN_MATCHER`, `_KNOWN_EFFECT`) the same question is asked of
  the rules directly, only of those that speak of this action and task type. Casbin stays the reference: the tests hold
  both answers together, rule for rule, and a model.conf that says anything else is decided by Casbin itself.
"""

import importlib.metadata
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import casbin
from casbin.persist import Adapter
from casbin.rbac import RoleManager

from enforcer.policy.conditions import Context
from enforcer.policy.rules import ACTIONS, Policy, PolicyInvalid, Rule

log = logging.getLogger(__name__)

ANY_TAG = "any"
ROOT_UNIT = "all"
_KNOWN_EFFECT = "some(where (p_eft == allow)) && !some(where (p_eft == deny))"
_KNOWN_MATCHER = (
    '(r_act == p_act || p_act == "*") && g3(r_obj, p_obj) && g2(r_dom, p_dom) && g4(r_env, p_env) '
    "&& member(r_sub, p_sub) && when(p_cond, r_ctx)"
)
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Request:
    """One question. `principals` are `user:<id>` and `group:<name>`, from a verified token and nowhere else."""

    principals: tuple[str, ...]
    action: str
    context: Context
    tag: str = ANY_TAG
    unit: str = ROOT_UNIT
    target: str = "any"


@dataclass(frozen=True)
class Decision:
    """The answer, with what an auditor needs. `reason` is `allow`, `explicit-deny`, `no-matching-rule`, `unknown-tag`,
    `unknown-unit`, `unknown-target`, `unknown-action`, `unit-holds-others`, `target-holds-others` or `engine-error`.
    `registry.access` adds `not-in-scope`: the credential is for other actions."""

    allowed: bool
    reason: str
    revision: str
    rule: str | None = None
    nearest: tuple["NearMiss", ...] = field(default=())

    @property
    def who_may(self) -> tuple[str, ...]:
        """Whom the nearest rules would allow, without repetition."""
        return tuple(dict.fromkeys(miss.who for miss in self.nearest))


@dataclass(frozen=True)
class NearMiss:
    """An allow rule for this action and task type, and the first clause of it that the request failed."""

    rule: str
    who: str
    failed: str


class Snapshot:
    """One policy revision over one task-type tree (`{tag: parent}`)."""

    def __init__(self, policy: Policy, tag_parents: Mapping[str, str | None]) -> None:
        _refuse_the_frozen_casbin()
        self.policy = policy
        self.tag_parents = dict(tag_parents)
        self._rules = {rule.id: rule for rule in policy.rules}
        self._groups = _Closure()
        self._units = _Closure()
        self._tags = _Closure()
        self._targets = _Closure()
        self._enforcer = self._compile()
        model = self._enforcer.model
        known = (model["m"]["m"].value, model["e"]["e"].value) == (_KNOWN_MATCHER, _KNOWN_EFFECT)
        self._decide = self._ask_the_rules if known else self._ask_casbin
        self._candidates: dict[tuple[str, str], tuple[Rule, ...]] = {}

    @property
    def revision(self) -> str:
        return self.policy.revision

    def decide(self, request: Request) -> Decision:
        """The one question. Never raises: whatever goes wrong is a denial."""
        try:
            if unfit := self._unfit(request):
                return Decision(False, unfit, self.revision)
            allowed, rule = self._decide(request)
            if allowed is True and rule in self._rules:
                return Decision(True, "allow", self.revision, rule)
            if rule is not None and self._rules[rule].effect == "deny":
                return Decision(False, "explicit-deny", self.revision, rule)
            return Decision(False, "no-matching-rule", self.revision, nearest=self._near_misses(request))
        except Exception:
            log.exception("the policy engine failed; the request is denied")
            return Decision(False, "engine-error", self.revision)

    def _ask_casbin(self, request: Request) -> tuple[bool, str | None]:
        """Whether it is allowed, and by which rule: the first that denies, or the last that allows."""
        with _ONE_AT_A_TIME:
            allowed, line = self._enforcer.enforce_ex(
                request.principals, request.unit, request.tag, request.action, request.target, request.context
            )
        return allowed, str(line[0]) if line else None

    def _ask_the_rules(self, request: Request) -> tuple[bool, str | None]:
        """The same by the known matcher and effect."""
        asked = request.action, request.tag
        candidates = self._candidates.get(asked)
        if candidates is None:  # by names that `_unfit` has checked, so there is an end to them
            candidates = self._candidates[asked] = tuple(
                rule
                for rule in self.policy.rules
                if (request.action in rule.may or "*" in rule.may) and self._covers_tag(rule, request.tag)
            )
        last = None
        for rule in candidates:
            if (
                any(self._units.has_link(request.unit, unit) for unit in rule.unit)
                and any(self._targets.has_link(request.target, target) for target in rule.target)
                and self._member(request.principals, rule.who)
                and rule.when.first_failing(request.context) is None
            ):
                if rule.effect == "deny":
                    return False, rule.id
                last = rule.id
        return last is not None, last

    def units_below(self, unit: str | None) -> frozenset[str]:
        """A business unit with all units under it; empty for an unknown one."""
        return frozenset(name for name in self.policy.directory.units if unit and self._units.has_link(name, unit))

    def _unfit(self, request: Request) -> str | None:
        """Why a request is no question for the rules: an unknown name, or a run for more than one unit or place, which
        would pass by the denials that stand on its parts."""
        directory = self.policy.directory
        if request.action not in ACTIONS:
            return "unknown-action"
        if request.tag != ANY_TAG and request.tag not in self.tag_parents:
            return "unknown-tag"
        if request.unit not in directory.units:
            return "unknown-unit"
        if request.target not in directory.targets:
            return "unknown-target"
        if request.action == "submit" and request.unit in directory.units.values():
            return "unit-holds-others"
        if request.action == "submit" and request.target in directory.targets.values():
            return "target-holds-others"
        return None

    def _near_misses(self, request: Request) -> tuple[NearMiss, ...]:
        """Allow rules that speak of this action and task type, those that fail the latest clause first."""
        found: list[tuple[int, NearMiss]] = []
        for rule in self.policy.rules:
            if rule.effect != "allow" or request.action not in rule.may or not self._covers_tag(rule, request.tag):
                continue
            depth, failed = self._first_failed_clause(rule, request)
            found.append((-depth, NearMiss(rule.id, rule.who, failed)))
        return tuple(miss for _, miss in sorted(found, key=lambda pair: pair[0]))

    def _first_failed_clause(self, rule: Rule, request: Request) -> tuple[int, str]:
        if not any(self._groups.has_link(principal, rule.who) for principal in request.principals):
            return 0, f"who: only {rule.who}"
        if not any(self._units.has_link(request.unit, unit) for unit in rule.unit):
            return 1, f"unit: only {', '.join(rule.unit)}"
        if not any(self._targets.has_link(request.target, target) for target in rule.target):
            return 2, f"target: only {', '.join(rule.target)}"
        return 3, f"when: {rule.when.first_failing(request.context) or 'another rule denies it'}"

    def _covers_tag(self, rule: Rule, tag: str) -> bool:
        return any(self._tags.has_link(tag, covered) for covered in rule.tag)

    def _compile(self) -> casbin.Enforcer:
        model = casbin.Enforcer.new_model(text=self.policy.model)
        managers = {"g": self._groups, "g2": self._units, "g3": self._tags, "g4": self._targets}
        enforcer = casbin.Enforcer(model)
        for name, manager in managers.items():
            enforcer.set_named_role_manager(name, manager)
        enforcer.set_adapter(_Lines(self._lines()))
        enforcer.load_policy()
        for ptype, assertion in enforcer.model["g"].items():
            assertion.rm = managers[ptype]
        enforcer.add_function("member", self._member)
        enforcer.add_function("when", self._when)
        return enforcer

    def _lines(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """The policy as Casbin takes it: typed tuples, never comma-separated text."""
        directory = self.policy.directory
        for rule in self.policy.rules:
            for act in rule.may:
                for tag in rule.tag:
                    for unit in rule.unit:
                        for target in rule.target:
                            yield "p", (rule.id, rule.who, unit, tag, act, target, rule.id, rule.effect)
        for group, wider in directory.groups.items():
            for above in wider:
                yield "g", (f"group:{group}", f"group:{above}")
        for unit, parent in directory.units.items():
            if parent:
                yield "g2", (unit, parent)
        for tag, parent in self.tag_parents.items():
            yield "g3", (tag, parent or ANY_TAG)
        for target, parent in directory.targets.items():
            if parent:
                yield "g4", (target, parent)

    def _member(self, principals: tuple[str, ...], who: str) -> bool:
        return any(self._groups.has_link(principal, who) for principal in principals)

    def _when(self, rule_id: str, context: Context) -> bool:
        return self._rules[rule_id].when.first_failing(context) is None


class _Closure(RoleManager):  # type: ignore[misc]
    """Links as frozen ancestor sets: no depth limit, and asking about a name does not create it."""

    def __init__(self) -> None:
        self._parents: dict[str, set[str]] = {}
        self._ancestors: dict[str, frozenset[str]] = {}

    def clear(self) -> None:
        self._parents.clear()
        self._ancestors.clear()

    def add_link(self, name1: str, name2: str, *_domain: str) -> None:
        self._parents.setdefault(name1, set()).add(name2)
        self._ancestors.clear()

    def has_link(self, name1: str, name2: str, *_domain: str) -> bool:
        return name1 == name2 or (name1 in self._parents and name2 in self._above(name1))

    def _above(self, name: str) -> frozenset[str]:
        known = self._ancestors.get(name)
        if known is None:
            found: set[str] = set()
            todo = [name]
            while todo:
                for parent in self._parents.get(todo.pop(), ()):
                    if parent not in found:
                        found.add(parent)
                        todo.append(parent)
            known = self._ancestors[name] = frozenset(found)
        return known


class _Lines(Adapter):  # type: ignore[misc]
    """A read-only adapter over typed tuples. The stock ones cut columns, lose deny rules and split at commas."""

    def __init__(self, lines: Iterable[tuple[str, tuple[str, ...]]]) -> None:
        self._lines = lines

    def load_policy(self, model: Any) -> None:
        for ptype, values in self._lines:
            model.add_policy(ptype[0], ptype, list(values))


def _refuse_the_frozen_casbin() -> None:
    try:
        importlib.metadata.version("casbin")
    except importlib.metadata.PackageNotFoundError:
        return
    raise PolicyInvalid("the distribution `casbin` is installed beside `pycasbin`; uninstall both, install `pycasbin`")
