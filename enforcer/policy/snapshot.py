"""The gate: may these principals do this, to this task type, for this business unit, there?

A snapshot is one policy revision with one task-type tree; nothing about it changes, and a new revision is a new
snapshot, swapped in by one assignment. The rules it keeps:
- Deny is what happens on an unknown name, on any exception, and when nothing matches.
- An allow needs a rule id.
- A decision costs what the rules that fit cost, not what the rules that exist cost: the lines of the policy stand in an
  index by action and task type, business unit, and principal, as far as the model's matcher demands that these agree.
  Whatever the index finds is put to the whole matcher, so the index can lose a rule but never add one; stock Casbin
  (`reference.py`) is what tests, and a sample of real decisions, hold it to.
- What is remembered is bounded, and keyed by names that the policy knows: asking about strangers grows nothing.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from operator import itemgetter
from typing import NamedTuple, TypeVar

from enforcer.policy import explain, model, trees
from enforcer.policy.conditions import Context, Point
from enforcer.policy.decision import Decision, Match, NearMiss, Request
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.quotas import Quota
from enforcer.policy.revision import Policy
from enforcer.policy.rules import ACTIONS, Effect, Level, PolicyInvalid, Rule, Scope

log = logging.getLogger(__name__)

REMEMBERED = 10_000
MAX_LINES = 10_000
IN_ONE_PLACE = ("submit", "override")
_EVERY = "*"
_GROUP = "group:"
Watch = Callable[["Snapshot", Decision], None]
_K = TypeVar("_K")
_V = TypeVar("_V")


class Line(NamedTuple):
    """One line of the policy: a rule with one of each of its names. `id` to `eft` are what the matcher sees."""

    at: int
    id: str
    sub: str
    dom: str
    obj: str
    act: str
    env: str
    cond: str
    eft: Effect
    level: Level | dict[Point, Level]


class _Answer(NamedTuple):
    allowed: bool
    reason: str
    rule: str | None
    matched: tuple[Match, ...]


class _Known(NamedTuple):
    """What was found for all of a request but its facts; with the answer, where the facts make no difference."""

    principals: frozenset[str]
    lines: tuple[Line, ...]
    answer: _Answer | None


class Snapshot:
    """One policy revision over one task-type tree (`{tag: parent}`). Raises PolicyInvalid.

    `watch` sees every decision (`reference.Sampler`); `remembered` is how many answers are kept, 0 for none.
    """

    def __init__(
        self,
        policy: Policy,
        tag_parents: Mapping[str, str | None],
        *,
        watch: Watch | None = None,
        remembered: int = REMEMBERED,
    ) -> None:
        self.policy = policy
        self.tag_parents = dict(tag_parents)
        self._watch = watch
        self._remembered = remembered
        self._model = model.parse(policy.model)
        self._by = [column in self._model.demands for column in ("act", "obj", "dom", "sub")]
        directory = policy.directory
        self.groups = {_GROUP + name: [_GROUP + wider for wider in above] for name, above in directory.groups.items()}
        self.units = trees.above(directory.trees["unit"])
        self.targets = trees.above(directory.trees["target"])
        self.tags = trees.above(trees.of_tags(self.tag_parents))
        self._units_below = trees.below(self.units)
        self._holders = frozenset(directory.units.values()), frozenset(directory.targets.values())
        self._conditional: dict[str, Rule | PolicyException] = {}
        self._lifts: dict[str, list[PolicyException]] = {}
        self._grants: dict[str, PolicyException] = {}
        self._names: set[str] = set()
        self._index: dict[tuple[str, str], dict[str, dict[str, list[Line]]]] = {}
        self._build()
        self._matches = self._model.bind(self._functions(lifted=lambda *asked: self._lifting(*asked) is not None))
        self._fits = self._model.bind(self._functions(lifted=lambda *_: False))
        self._closures: dict[tuple[str, ...], frozenset[str]] = {}
        self._memo: dict[tuple[tuple[str, ...], str, str, str, str], _Known] = {}

    @property
    def revision(self) -> str:
        return self.policy.revision

    def decide(self, request: Request) -> Decision:
        """The one question. Never raises: whatever goes wrong is a denial."""
        try:
            unfit = self._unfit(request)
            answer = _Answer(False, unfit, None, ()) if unfit else self._answer(request)
        except Exception:
            log.exception("the policy engine failed; the request is denied")
            answer = _Answer(False, "engine-error", None, ())
        decision = Decision(request, answer.allowed, answer.reason, self.policy.revision, answer.rule, answer.matched)
        if self._watch is not None:
            self._watch(self, decision)
        return decision

    def nearest(self, request: Request, limit: int = 3) -> tuple[NearMiss, ...]:
        """Allow rules that speak of this action and task type, those that fail the fewest clauses first."""
        return explain.nearest(self, request, limit)

    def quotas_for(self, unit: str, tag: str) -> tuple[Quota, ...]:
        """Those that count a run of this task type for this business unit."""
        return tuple(q for q in self.policy.quotas if q.unit in self.units[unit] and q.tag in self.tags[tag])

    def units_below(self, unit: str | None) -> frozenset[str]:
        """A business unit with all units under it; empty for an unknown one."""
        return self._units_below.get(unit, frozenset()) if unit else frozenset()

    def rules_about(self, action: str, tag: str) -> list[Rule]:
        """The rules that name this action and this task type, or one above it, in the order of the policy."""
        covering = self.tags.get(tag, frozenset())
        standing = [self._index[asked] for asked in self._asked(action, tag) if asked in self._index]
        found = {
            line.at for units in standing for names in units.values() for lines in names.values() for line in lines
        }
        rules = [self.policy.rules[at] for at in sorted(found) if at < len(self.policy.rules)]
        return [r for r in rules if not {action, _EVERY}.isdisjoint(r.may) and not covering.isdisjoint(r.tag)]

    # --- one decision -------------------------------------------------------------------------------------------------

    def _unfit(self, request: Request) -> str | None:
        """Why a request is no question for the rules: an unknown name, or a run or an override for more than one unit
        or place, which would pass by the denials that stand on its parts."""
        if request.action not in ACTIONS:
            return "unknown-action"
        if request.tag not in self.tags:
            return "unknown-tag"
        if request.unit not in self.units:
            return "unknown-unit"
        if request.target not in self.targets:
            return "unknown-target"
        if request.action in IN_ONE_PLACE:
            units, targets = self._holders
            if request.unit in units:
                return "unit-holds-others"
            if request.target in targets:
                return "target-holds-others"
        return None

    def _answer(self, request: Request) -> _Answer:
        names = tuple([name for name in request.principals if name in self._names or name in self.groups])
        key = names, request.action, request.tag, request.unit, request.target
        known = self._memo.get(key)
        if known is None:
            principals = self._closure(names)
            lines = self._candidates(request, principals)
            answer = self._judge(lines, request, principals) if all(map(self._steady, lines)) else None
            known = _Known(principals, lines, answer)
            _remember(self._memo, key, known, self._remembered)
        return known.answer or self._judge(known.lines, request, known.principals)

    def _closure(self, names: tuple[str, ...]) -> frozenset[str]:
        """These principals and all groups above them."""
        closure = self._closures.get(names)
        if closure is None:
            closure = trees.climb(names, self.groups)
            _remember(self._closures, names, closure, self._remembered)
        return closure

    def _candidates(self, request: Request, principals: frozenset[str]) -> tuple[Line, ...]:
        """The lines that may fit, in the order of the policy; none of an exception that one of these approved."""
        _, _, by_unit, by_name = self._by
        units = self.units[request.unit] if by_unit else (_EVERY,)
        found: list[Line] = []
        for asked in self._asked(request.action, request.tag):
            if standing := self._index.get(asked):
                for unit in units:
                    if names := standing.get(unit):
                        for name in names.keys() & principals if by_name else names:
                            found += names[name]
        found.sort(key=_in_order)
        return tuple([line for line in found if not self._approved(line.id, principals)])

    def _approved(self, id_: str, principals: frozenset[str]) -> bool:
        exception = self._grants.get(id_)
        return exception is not None and exception.approved_by_one_of(principals)

    def _asked(self, action: str, tag: str) -> Iterable[tuple[str, str]]:
        """Under which actions and task types of the index the lines stand that may fit."""
        by_act, by_tag, _, _ = self._by
        actions = (action, _EVERY) if by_act else (_EVERY,)
        return product(actions, self.tags.get(tag, ()) if by_tag else (_EVERY,))

    def _steady(self, line: Line) -> bool:
        """Whether what this line says is the same whatever the facts of a request."""
        return line.id not in self._conditional and line.id not in self._lifts and isinstance(line.level, str)

    def _judge(self, lines: Iterable[Line], request: Request, principals: frozenset[str]) -> _Answer:
        context = request.context
        asked = principals, request.unit, request.tag, request.action, request.target, context
        matched: list[Match] = []
        last = -1
        for line in lines:
            if line.at == last:
                continue  # the rule fits already by another of its lines
            level = line.level if isinstance(line.level, str) else line.level.get(context.point, "enforce")
            if level == "off":
                continue
            said = line[1:9]
            if self._matches(*asked, *said):
                matched.append(Match(line.id, line.eft, level))
                last = line.at
            elif line.id in self._lifts and self._fits(*asked, *said):
                matched.append(Match(line.id, line.eft, level, self._lifting(line.id, *asked)))
                last = line.at
        allowed, rule = self._model.merge((match.id, match.effect) for match in matched if match.decides)
        reason = "allow" if allowed else "explicit-deny" if rule else "no-matching-rule"
        return _Answer(allowed and rule is not None, reason, rule, tuple(matched))

    # --- what the matcher asks ----------------------------------------------------------------------------------------

    def _functions(self, *, lifted: Callable[..., bool]) -> dict[str, Callable[..., bool]]:
        nothing: frozenset[str] = frozenset()
        units, tags, targets, conditional = self.units, self.tags, self.targets, self._conditional

        def when(cond: str, context: Context) -> bool:
            scope = conditional.get(cond)
            return scope is None or scope.first_failing(context) is None

        return {
            "g": lambda name, wider: name == wider or wider in self._closure((name,)),
            "g2": lambda name, wider: name == wider or wider in units.get(name, nothing),
            "g3": lambda name, wider: name == wider or wider in tags.get(name, nothing),
            "g4": lambda name, wider: name == wider or wider in targets.get(name, nothing),
            "member": lambda principals, name: name in principals,
            "when": when,
            "lifted": lifted,
        }

    def _lifting(
        self,
        id_: str,
        principals: frozenset[str],
        unit: str,
        tag: str,
        action: str,
        target: str,
        context: Context,
    ) -> str | None:
        """The first live exception that lifts this rule for this request."""
        for exception in self._lifts.get(id_, ()):
            if (
                exception.first_failing(context) is None
                and action in exception.may
                and not principals.isdisjoint(exception.who)
                and not exception.approved_by_one_of(principals)
                and not self.units[unit].isdisjoint(exception.unit)
                and not self.tags[tag].isdisjoint(exception.tag)
                and not self.targets[target].isdisjoint(exception.target)
            ):
                return exception.id
        return None

    # --- building -----------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        scopes: list[Rule | PolicyException] = [*self.policy.rules, *self.policy.exceptions]
        for at, scope in enumerate(scopes):
            _refuse_too_many_lines(scope)
            self._names.update(scope.who)
            if isinstance(scope, PolicyException):
                self._conditional[scope.id] = scope
                self._names.update(scope.approved_by)  # who approved it is another case than who is unknown
                if scope.lifts is not None:
                    self._lifts.setdefault(scope.lifts, []).append(scope)
                else:
                    self._grants[scope.id] = scope
                    self._add_lines(at, scope, "enforce")
            elif scope.level != "off":
                if not scope.when.is_empty:
                    self._conditional[scope.id] = scope
                self._add_lines(at, scope, scope.level)

    def _add_lines(self, at: int, scope: Rule | PolicyException, level: Level | dict[Point, Level]) -> None:
        by_act, by_tag, by_unit, by_name = self._by
        id_, effect, index = scope.id, scope.effect, self._index
        for act, tag, unit, who, target in product(scope.may, scope.tag, scope.unit, scope.who, scope.target):
            line = Line(at, id_, who, unit, tag, act, target, id_, effect, level)
            units = index.setdefault((act if by_act else _EVERY, tag if by_tag else _EVERY), {})
            names = units.setdefault(unit if by_unit else _EVERY, {})
            name = who if by_name else _EVERY
            if name in names:
                names[name].append(line)
            else:
                names[name] = [line]


_in_order = itemgetter(0)


def _remember(memory: dict[_K, _V], key: _K, value: _V, most: int) -> None:
    """Keep it; a full memory starts anew, which costs a few decisions what they cost without."""
    if len(memory) >= most:
        memory.clear()
    if most:
        memory[key] = value


def _refuse_too_many_lines(scope: Scope) -> None:
    lines = len(scope.who) * len(scope.may) * len(scope.tag) * len(scope.unit) * len(scope.target)
    if lines > MAX_LINES:
        raise PolicyInvalid(
            f"`{scope.id}` multiplies to {lines} lines (who x may x tag x unit x target); at most {MAX_LINES}. "
            "Name a group, a wider unit or a parent task type, or split it"
        )
