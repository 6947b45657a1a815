"""A policy revision: model, directory, rules, exceptions, quotas and approvals, checked, under one digest.

Whatever decides comes from one revision, so a decision can be made again from its revision and its request.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from pydantic import BaseModel

from enforcer import canonical
from enforcer.approvals import Approvals
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.quotas import Quota
from enforcer.policy.rules import ACTIONS, ANY_TAG, Directory, Fault, PolicyInvalid, Rule, Scope, did_you_mean
from enforcer.runspec import digest

MAX_DEPTH = 32
MAX_RULES = 100_000
_TAG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Policy:
    """One revision. Made by `Policy.of`, which checks it; `revision` is the digest of it all.

    `owners` says who answers for a rule (a group). It decides nothing, but people are sent there. `rule_set` is the
    digest of the rules alone: what revisions share that differ by an exception.
    """

    model: str
    directory: Directory
    rules: tuple[Rule, ...]
    exceptions: tuple[PolicyException, ...]
    quotas: tuple[Quota, ...]
    approvals: Approvals
    owners: Mapping[str, str]
    rule_set: str
    revision: str

    @classmethod
    def of(
        cls,
        model: str,
        directory: Directory,
        rules: Iterable[Rule],
        *,
        owners: Mapping[str, str],
        exceptions: Iterable[PolicyException] = (),
        quotas: Iterable[Quota] = (),
        approvals: Approvals | None = None,
    ) -> Self:
        """Check the parts against each other.

        Raises:
            PolicyInvalid: naming each unknown name and each id that stands twice, or else the first tree that is none.
        """
        rules = tuple(rules)
        rule_set = digest(canonical.dumps([[owners.get(rule.id), said(rule)] for rule in rules]))
        parts = (tuple(exceptions), tuple(quotas), approvals or Approvals())
        return cls(model, directory, rules, *parts, owners, rule_set, "")._checked()

    def with_exceptions(self, exceptions: Iterable[PolicyException]) -> Self:
        """The revision that has these exceptions instead. Raises PolicyInvalid."""
        return replace(self, exceptions=tuple(exceptions))._checked()

    def _checked(self) -> Self:
        self._check()
        return replace(self, revision=digest(canonical.dumps(self._document())))

    def _document(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "directory": said(self.directory),
            "rules": self.rule_set,
            "exceptions": [said(exception) for exception in self.exceptions],
            "quotas": [said(quota) for quota in self.quotas],
            **({"approvals": said(self.approvals)} if self.approvals.rules else {}),
        }

    def _check(self) -> None:
        if not self.rules:
            raise PolicyInvalid("there is no rule; an empty policy is refused, not obeyed")
        if len(self.rules) > MAX_RULES:
            raise PolicyInvalid(f"there are {len(self.rules)} rules; at most {MAX_RULES} are taken")
        for kind, links in self.directory.trees.items():
            _check_tree(kind, links)
        if faults := list(self._faults()):
            raise PolicyInvalid(*faults)

    def _faults(self) -> Iterator[Fault]:
        """All that is wrong between the parts, over trees that are sound."""
        known = _Known(self.directory)
        for target in self.directory.offline:
            if target not in self.directory.targets:
                yield Fault(f"directory: `offline` names `{target}`, which is not among the targets")
        yield from _twice("id", (scope.id for scope in (*self.rules, *self.exceptions)))
        yield from _twice("quota", (quota.id for quota in self.quotas))
        yield from _twice("the id", (f"approval {rule.id}" for rule in self.approvals.rules))
        yield from _faults_of_approvals(self.approvals, self.directory)
        for rule in self.rules:
            yield from known.faults(f"rule `{rule.id}`", rule)
            if rule.effect == "allow" and "*" in rule.may:
                yield Fault(f"rule `{rule.id}` allows every action; name the actions", rule.id)
            if rule.effect == "allow" and rule.overridable:
                yield Fault(f"rule `{rule.id}` is an allow: only a deny can be `overridable`", rule.id)
            if (owner := self.owners.get(rule.id)) not in self.directory.groups:
                meant = did_you_mean(owner, self.directory.groups)
                yield Fault(f"owner `{owner}` of rule `{rule.id}` is not a known group{meant}", rule.id)
        denies = {rule.id: rule for rule in self.rules if rule.effect == "deny"}
        for exception in self.exceptions:
            yield from known.faults(f"exception `{exception.id}`", exception)
            yield from _faults_of_exception(exception, denies)
        for quota in self.quotas:
            if quota.unit not in self.directory.units or not _TAG.fullmatch(quota.tag):
                yield Fault(f"quota `{quota.id}` speaks of unknown unit `{quota.unit}` or tag `{quota.tag}`", quota.id)


class _Known:
    """The names that a rule may use."""

    def __init__(self, directory: Directory) -> None:
        self._of: dict[str, Mapping[str, object]] = {
            "unit": directory.units,
            "target": directory.targets,
            "group": directory.groups,
        }

    def faults(self, what: str, scope: Scope) -> Iterator[Fault]:
        groups = [name for kind, _, name in (who.partition(":") for who in scope.who) if kind == "group"]
        unknown = [f"action `{act}`{did_you_mean(act, ACTIONS)}" for act in scope.may if act not in ACTIONS | {"*"}]
        for kind, names in (("unit", scope.unit), ("target", scope.target), ("group", groups)):
            known = self._of[kind]
            unknown += [f"{kind} `{name}`{did_you_mean(name, known)}" for name in names if name not in known]
        unknown += [f"tag `{tag}`" for tag in scope.tag if tag != ANY_TAG and not _TAG.fullmatch(tag)]
        if unknown:
            yield Fault(f"{what} speaks of unknown {', '.join(unknown)}", scope.id)


def said(part: BaseModel) -> dict[str, Any]:
    """A part without its defaults, so that a member which a later release adds changes no digest of today."""
    return part.model_dump(mode="json", exclude_defaults=True)


def _faults_of_exception(exception: PolicyException, denies: Mapping[str, Rule]) -> Iterator[Fault]:
    if "*" in exception.may:
        yield Fault(f"exception `{exception.id}` is for every action; name the actions", exception.id)
    if exception.lifts is not None and exception.lifts not in denies:
        lifts = f"`{exception.lifts}`, which is no deny rule{did_you_mean(exception.lifts, denies)}"
        yield Fault(f"exception `{exception.id}` lifts {lifts}", exception.id)
    elif exception.kind == "override" and (exception.lifts is None or not denies[exception.lifts].overridable):
        yield Fault(f"override `{exception.id}` must lift a rule that is `overridable`", exception.id)


def _faults_of_approvals(approvals: Approvals, directory: Directory) -> Iterator[Fault]:
    for at, rule in enumerate(approvals.rules):
        about = f"approval {rule.id}"
        if before := next((one for one in approvals.rules[:at] if one.when.covers(rule.when)), None):
            yield Fault(
                f"approval rule `{rule.id}` never decides: `{before.id}` before it fits all that it fits", about
            )
        named = [*(threshold.group for threshold in rule.thresholds), rule.escalate_to]
        for group in named:
            if group is not None and group not in directory.groups:
                meant = did_you_mean(group, directory.groups)
                yield Fault(f"approval rule `{rule.id}` speaks of unknown group `{group}`{meant}", about)


def _twice(what: str, names: Iterable[str]) -> Iterator[Fault]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield Fault(f"{what} `{name}` is used twice", name)
        seen.add(name)


def _check_tree(kind: str, links: Mapping[str, list[str]]) -> None:
    """No unknown parents, no cycles, no towers: Casbin's stock role manager answers wrongly beyond ten levels."""
    for name in links:
        level, seen = [name], 0
        while level:
            seen += 1
            unknown = [parent for parent in level if parent not in links]
            if unknown:
                meant = did_you_mean(unknown[0], links)
                said = f"directory: {kind} `{name}` belongs to `{unknown[0]}`, which is not listed{meant}"
                raise PolicyInvalid(Fault(said, f"{kind} {name}"))
            if seen > MAX_DEPTH:
                said = f"directory: {kind} `{name}` stands in a cycle or more than {MAX_DEPTH} deep"
                raise PolicyInvalid(Fault(said, f"{kind} {name}"))
            level = [parent for child in level for parent in links[child]]
