"""A policy revision: model, directory, rules, exceptions and quotas, checked against each other, under one digest.

Whatever decides comes from one revision, so a decision can be made again from its revision and its request.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from pydantic import BaseModel

from enforcer import canonical
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.quotas import Quota
from enforcer.policy.rules import ACTIONS, ANY_TAG, Directory, PolicyInvalid, Rule, Scope
from enforcer.runspec import digest

MAX_DEPTH = 32
_TAG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Policy:
    """One revision. Made by `Policy.of`, which checks it; `revision` is the digest of it all.

    `owners` says who answers for a rule (a group). It decides nothing, but people are sent there.
    """

    model: str
    directory: Directory
    rules: tuple[Rule, ...]
    exceptions: tuple[PolicyException, ...]
    quotas: tuple[Quota, ...]
    owners: Mapping[str, str]
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
    ) -> Self:
        """Check the parts against each other.

        Raises:
            PolicyInvalid: naming the first name that does not exist, id that stands twice, or tree that is none.
        """
        policy = cls(model, directory, tuple(rules), tuple(exceptions), tuple(quotas), owners, revision="")
        policy._check()
        return replace(policy, revision=digest(canonical.dumps(policy._document())))

    def with_exceptions(self, exceptions: Iterable[PolicyException]) -> "Policy":
        """The revision that has these exceptions instead. Raises PolicyInvalid."""
        return Policy.of(
            self.model,
            self.directory,
            self.rules,
            owners=self.owners,
            exceptions=exceptions,
            quotas=self.quotas,
        )

    @property
    def rule_set(self) -> str:
        """The digest of the rules alone: what revisions share that differ by an exception."""
        return digest(canonical.dumps([[self.owners.get(rule.id), said(rule)] for rule in self.rules]))

    def _document(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "directory": said(self.directory),
            "rules": self.rule_set,
            "exceptions": [said(exception) for exception in self.exceptions],
            "quotas": [said(quota) for quota in self.quotas],
        }

    def _check(self) -> None:
        if not self.rules:
            raise PolicyInvalid("there is no rule; an empty policy is refused, not obeyed")
        for kind, links in self.directory.trees.items():
            _check_tree(kind, links)
        if unknown := [target for target in self.directory.offline if target not in self.directory.targets]:
            raise PolicyInvalid(f"directory: `offline` names `{unknown[0]}`, which is not among the targets")
        _refuse_twice("id", [scope.id for scope in (*self.rules, *self.exceptions)])
        _refuse_twice("quota", [quota.id for quota in self.quotas])
        for rule in self.rules:
            self._check_names(f"rule `{rule.id}`", rule)
            if rule.effect == "allow" and "*" in rule.may:
                raise PolicyInvalid(f"rule `{rule.id}` allows every action; name the actions")
            if rule.effect == "allow" and rule.overridable:
                raise PolicyInvalid(f"rule `{rule.id}` is an allow: only a deny can be `overridable`")
            if self.owners.get(rule.id) not in self.directory.groups:
                raise PolicyInvalid(f"owner `{self.owners.get(rule.id)}` of rule `{rule.id}` is not a known group")
        denies = {rule.id: rule for rule in self.rules if rule.effect == "deny"}
        for exception in self.exceptions:
            self._check_exception(exception, denies)
        for quota in self.quotas:
            if quota.unit not in self.directory.units or not _TAG.fullmatch(quota.tag):
                raise PolicyInvalid(f"quota `{quota.id}` speaks of unknown unit `{quota.unit}` or tag `{quota.tag}`")

    def _check_exception(self, exception: PolicyException, denies: Mapping[str, Rule]) -> None:
        self._check_names(f"exception `{exception.id}`", exception)
        if "*" in exception.may:
            raise PolicyInvalid(f"exception `{exception.id}` is for every action; name the actions")
        if exception.lifts is not None and exception.lifts not in denies:
            raise PolicyInvalid(f"exception `{exception.id}` lifts `{exception.lifts}`, which is no deny rule")
        if exception.kind == "override" and (exception.lifts is None or not denies[exception.lifts].overridable):
            raise PolicyInvalid(f"override `{exception.id}` must lift a rule that is `overridable`")

    def _check_names(self, what: str, scope: Scope) -> None:
        directory = self.directory
        groups = [name for kind, _, name in (who.partition(":") for who in scope.who) if kind == "group"]
        unknown = [
            *(f"action `{act}`" for act in scope.may if act not in ACTIONS and act != "*"),
            *(f"unit `{unit}`" for unit in scope.unit if unit not in directory.units),
            *(f"target `{target}`" for target in scope.target if target not in directory.targets),
            *(f"tag `{tag}`" for tag in scope.tag if tag != ANY_TAG and not _TAG.fullmatch(tag)),
            *(f"group `{group}`" for group in groups if group not in directory.groups),
        ]
        if unknown:
            raise PolicyInvalid(f"{what} speaks of unknown {', '.join(unknown)}")


def said(part: BaseModel) -> dict[str, Any]:
    """A part without its defaults, so that a member which a later release adds changes no digest of today."""
    return part.model_dump(mode="json", exclude_defaults=True)


def _refuse_twice(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PolicyInvalid(f"{what} `{name}` is used twice")
        seen.add(name)


def _check_tree(kind: str, links: Mapping[str, list[str]]) -> None:
    """No unknown parents, no cycles, no towers: Casbin's stock role manager answers wrongly beyond ten levels."""
    for name in links:
        level, seen = [name], 0
        while level:
            seen += 1
            unknown = [parent for parent in level if parent not in links]
            if unknown:
                raise PolicyInvalid(f"directory: {kind} `{name}` belongs to `{unknown[0]}`, which is not listed")
            if seen > MAX_DEPTH:
                raise PolicyInvalid(f"directory: {kind} `{name}` stands in a cycle or more than {MAX_DEPTH} deep")
            level = [parent for child in level for parent in links[child]]
