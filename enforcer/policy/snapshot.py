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
from itertools import product
from typing import Any

import casbin
from casbin.persist import Adapter
from casbin.rbac import RoleManager

from enforcer.policy.conditions import Context
from enforcer.policy.decision import Decision, Match, NearMiss, Request
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.revision import Policy
from enforcer.policy.rules import ACTIONS, ANY_TAG, PolicyInvalid, Rule

log = logging.getLogger(__name__)

_KNOWN_EFFECT = "some(where (p_eft == allow)) && !some(where (p_eft == deny))"
_KNOWN_MATCHER = (
    '(r_act == p_act || p_act == "*") && g3(r_obj, p_obj) && g2(r_dom, p_dom) && g4(r_env, p_env) '
    "&& member(r_sub, p_sub) && when(p_cond, r_ctx)"
)
_ONE_AT_A_TIME = threading.Lock()


class Snapshot:
    """One policy revision over one task-type tree (`{tag: parent}`)."""

    def __init__(self, policy: Policy, tag_parents: Mapping[str, str | None]) -> None:
        _refuse_the_frozen_casbin()
        self.policy = policy
        self.tag_parents = dict(tag_parents)
        scopes: list[Rule | PolicyException] = [*policy.rules, *policy.exceptions]
        self._rules = {scope.id: scope for scope in scopes}
        self._groups = _Closure()
        self._units = _Closure()
        self._tags = _Closure()
        self._targets = _Closure()
        self._enforcer = self._compile()
        model = self._enforcer.model
        known = (model["m"]["m"].value, model["e"]["e"].value) == (_KNOWN_MATCHER, _KNOWN_EFFECT)
        self._decide = self._ask_the_rules if known else self._ask_casbin
        self._candidates: dict[tuple[str, str], tuple[Rule | PolicyException, ...]] = {}

    @property
    def revision(self) -> str:
        return self.policy.revision

    def decide(self, request: Request) -> Decision:
        """The one question. Never raises: whatever goes wrong is a denial."""
        try:
            if unfit := self._unfit(request):
                return Decision(request, False, unfit, self.revision)
            allowed, rule = self._decide(request)
            if allowed is True and rule in self._rules:
                return Decision(request, True, "allow", self.revision, rule, self._matched(request))
            if rule is not None and self._rules[rule].effect == "deny":
                return Decision(request, False, "explicit-deny", self.revision, rule, self._matched(request))
            return Decision(request, False, "no-matching-rule", self.revision, matched=self._matched(request))
        except Exception:
            log.exception("the policy engine failed; the request is denied")
            return Decision(request, False, "engine-error", self.revision)

    def nearest(self, request: Request, limit: int = 3) -> tuple[NearMiss, ...]:
        """Allow rules that speak of this action and task type, those that fail the fewest clauses first."""
        found: list[NearMiss] = []
        for rule in self.policy.rules:
            if rule.effect == "allow" and request.action in rule.may and self._covers_tag(rule, request.tag):
                failed = tuple(self._failed_clauses(rule, request))
                found.append(NearMiss(rule.id, rule.who, self.policy.owners[rule.id], failed))
        return tuple(sorted(found, key=lambda miss: len(miss.failed))[:limit])

    def _ask_casbin(self, request: Request) -> tuple[bool, str | None]:
        """Whether it is allowed, and by which rule: the first that denies, or the last that allows."""
        with _ONE_AT_A_TIME:
            allowed, line = self._enforcer.enforce_ex(
                request.principals, request.unit, request.tag, request.action, request.target, request.context
            )
        return allowed, str(line[0]) if line else None

    def _ask_the_rules(self, request: Request) -> tuple[bool, str | None]:
        """The same by the known matcher and effect."""
        counting = [match for match in self._matched(request) if match.decides]
        denies = [match.id for match in counting if match.effect == "deny"]
        if denies:
            return False, denies[0]
        return bool(counting), counting[-1].id if counting else None

    def _matched(self, request: Request) -> tuple[Match, ...]:
        """All that fit, in the order of the policy, exceptions last."""
        asked = request.action, request.tag
        candidates = self._candidates.get(asked)
        if candidates is None:  # by names that `_unfit` has checked, so there is an end to them
            candidates = self._candidates[asked] = tuple(
                scope
                for scope in self._rules.values()
                if (request.action in scope.may or "*" in scope.may) and self._covers_tag(scope, request.tag)
            )
        fitting = [scope for scope in candidates if self._fits(scope, request)]
        lifting = {e.lifts: e.id for e in fitting if isinstance(e, PolicyException) and e.lifts}
        found = []
        for scope in fitting:
            if isinstance(scope, PolicyException):
                if scope.lifts is None:
                    found.append(Match(scope.id, scope.effect))
            elif (level := scope.level_at(request.context.point)) != "off":
                found.append(Match(scope.id, scope.effect, level, lifting.get(scope.id)))
        return tuple(found)

    def _fits(self, scope: Rule | PolicyException, request: Request) -> bool:
        return (
            any(self._units.has_link(request.unit, unit) for unit in scope.unit)
            and any(self._targets.has_link(request.target, target) for target in scope.target)
            and self._member(request.principals, scope.who)
            and scope.first_failing(request.context) is None
        )

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

    def _failed_clauses(self, rule: Rule, request: Request) -> Iterable[str]:
        if not self._member(request.principals, rule.who):
            yield f"who: only {', '.join(rule.who)}"
        if not any(self._units.has_link(request.unit, unit) for unit in rule.unit):
            yield f"unit: only {', '.join(rule.unit)}"
        if not any(self._targets.has_link(request.target, target) for target in rule.target):
            yield f"target: only {', '.join(rule.target)}"
        if failing := rule.when.first_failing(request.context):
            yield f"when: {failing}"

    def _covers_tag(self, rule: Rule | PolicyException, tag: str) -> bool:
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
            for who, act, tag, unit, target in product(rule.who, rule.may, rule.tag, rule.unit, rule.target):
                yield "p", (rule.id, who, unit, tag, act, target, rule.id, rule.effect)
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

    def _member(self, principals: tuple[str, ...], who: str | tuple[str, ...]) -> bool:
        wanted = (who,) if isinstance(who, str) else who
        return any(self._groups.has_link(principal, one) for principal in principals for one in wanted)

    def _when(self, rule_id: str, context: Context) -> bool:
        return self._rules[rule_id].first_failing(context) is None


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
