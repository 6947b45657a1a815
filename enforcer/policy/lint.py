"""What a reviewer should know of a policy that could go live: rules that never count, or say what nobody meant.

What is plainly wrong (an unknown name, an id twice) never comes this far: `folder.written` refuses it.
"""

import fnmatch
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from typing import Literal

from enforcer.policy.conditions import Conditions
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.folder import Place, Written
from enforcer.policy.rules import ANY_TAG, Rule, Scope
from enforcer.policy.scopes import Scopes

Severity = Literal["error", "warning"]
# Of a deny these say the opposite of what is meant: `max_gpus: 8` would refuse the small runs.
_BACKWARDS = {
    "max_gpus": "refuses those who ask for at most so many GPUs, and lets larger runs pass",
    "change_ticket": "refuses those who bring a change ticket, and lets the others pass",
    "own_unit": "refuses people in their own unit, and lets others pass",
}


@dataclass(frozen=True)
class Finding:
    """One finding: `check` is its stable name, `hint` what to do."""

    severity: Severity
    check: str
    message: str
    hint: str
    file: str
    line: int
    rule: str | None = None


def lint(written: Written, tags: Mapping[str, str | None], now: datetime, decided: Iterable[str] = ()) -> list[Finding]:
    """Findings in the order of the files. `tags` is the task-type tree; `decided` are the rules that a case proves."""
    findings = list(_Lint(written, tags, now, frozenset(decided)).all())
    return sorted(findings, key=lambda finding: (finding.file, finding.line, finding.check))


class _Lint:
    def __init__(
        self, written: Written, tags: Mapping[str, str | None], now: datetime, decided: frozenset[str]
    ) -> None:
        self._policy = written.policy
        self._places = written.places
        self._tags = tags
        self._now = now
        self._decided = decided
        self._scopes = Scopes(written.policy.directory, tags)

    def all(self) -> Iterator[Finding]:
        for rule in self._policy.rules:
            yield from self._ends(rule)
            yield from self._conditions(rule)
            yield from self._unknown_tags(rule)
            yield from self._untested(rule)
        for exception in self._policy.exceptions:
            yield from self._expired(exception)
            yield from self._unknown_tags(exception)
            yield from self._untested(exception)
        yield from self._shadowed()
        yield from self._idle_groups()

    def _found(self, severity: Severity, check: str, scope: Scope, message: str, hint: str) -> Finding:
        place = self._places.get(scope.id, Place("", 1))
        return Finding(severity, check, message, hint, place.file, place.line, scope.id)

    def _ends(self, rule: Rule) -> Iterator[Finding]:
        people = [who for who in rule.who if who.startswith("user:")]
        if rule.effect == "allow" and people and rule.when.until is None:
            said = f"`{rule.id}` allows {', '.join(people)} by name and has no end"
            yield self._found("error", "no-end", rule, said, "give `when: {until: ...}`, or name a group instead")
        if rule.when.until is not None and rule.when.until <= self._now:
            said = f"`{rule.id}` ended {rule.when.until:%Y-%m-%d %H:%M %Z}"
            yield self._found("error", "expired", rule, said, "take it out")

    def _expired(self, exception: PolicyException) -> Iterator[Finding]:
        if exception.until <= self._now:
            said = f"`{exception.id}` ended {exception.until:%Y-%m-%d %H:%M %Z}"
            yield self._found("error", "expired", exception, said, "take it out")

    def _conditions(self, rule: Rule) -> Iterator[Finding]:
        if "*" in (rule.when.models or ()):
            said = f"`{rule.id}` allows the model `*`, which is any that is named"
            yield self._found("warning", "any-model", rule, said, "leave `models` out")
        if rule.effect == "deny":
            for name in rule.when.model_fields_set & _BACKWARDS.keys():
                said = f"`{rule.id}` is a deny with `{name}`: it {_BACKWARDS[name]}"
                yield self._found("error", "backwards", rule, said, f"put `{name}` on the rules that allow")
        if rule.level == "off":
            yield self._found("warning", "off", rule, f"`{rule.id}` is switched off", "take it out, or switch it on")

    def _unknown_tags(self, scope: Scope) -> Iterator[Finding]:
        if unknown := [tag for tag in scope.tag if tag != ANY_TAG and tag not in self._tags]:
            said = f"`{scope.id}` speaks of task types that are not in the vocabulary: {', '.join(unknown)}"
            yield self._found("warning", "unknown-tag", scope, said, "correct the name, or propose the task type")

    def _untested(self, scope: Rule | PolicyException) -> Iterator[Finding]:
        counts = isinstance(scope, PolicyException) or scope.level not in ("off", "shadow")
        if scope.id in self._decided or not counts:
            return
        hint = "add one to `tests/`"
        if isinstance(scope, Rule) and scope.effect == "allow":
            yield self._found("warning", "untested", scope, f"no case is decided by `{scope.id}`", hint)
        else:
            what = "deny" if isinstance(scope, Rule) else "exception"
            yield self._found("error", "untested", scope, f"no case is decided by the {what} `{scope.id}`", hint)

    # --- rules that never count ---------------------------------------------------------------------------------------

    def _shadowed(self) -> Iterator[Finding]:
        """Looked up by the first name of each part, so that it takes 10,000 rules in a second."""
        by_first: dict[tuple[str, str, str], list[tuple[int, Rule]]] = defaultdict(list)
        for at, rule in enumerate(self._policy.rules):
            if rule.level == "enforce":
                for key in product(rule.who, rule.may, rule.tag):
                    by_first[key].append((at, rule))
        for at, rule in enumerate(self._policy.rules):
            scopes = self._scopes
            keys = product(scopes.above_who(rule.who[0]), (rule.may[0], "*"), scopes.above_tag(rule.tag[0]))
            wider = (other for key in keys for other in by_first.get(key, ()) if other[0] != at)
            yield from self._shadow(at, rule, wider)

    def _shadow(self, at: int, rule: Rule, wider: Iterable[tuple[int, Rule]]) -> Iterator[Finding]:
        for place, other in wider:
            if not self._scopes.covers(other, rule):
                continue
            if other.effect == "deny" and rule.effect == "allow" and other.when == Conditions():
                lifted = other.overridable or any(e.lifts == other.id for e in self._policy.exceptions)
                if not lifted:
                    said = f"`{rule.id}` never allows anything: `{other.id}` denies all of it"
                    yield self._found("error", "shadowed", rule, said, "take one of the two out")
                    return
            if other.effect == rule.effect and other.when in (Conditions(), rule.when):
                alike = self._scopes.covers(rule, other) and other.when == rule.when
                if not alike or place < at:  # of two that say the same, the later one is told of
                    said = f"`{rule.id}` changes nothing: `{other.id}` says as much or more"
                    yield self._found("warning", "shadowed", rule, said, "take it out, or narrow the other")
                    return

    def _idle_groups(self) -> Iterator[Finding]:
        scopes: list[Scope] = [*self._policy.rules, *self._policy.exceptions]
        used = {who for scope in scopes for who in scope.who} | {f"group:{o}" for o in self._policy.owners.values()}
        for group in self._policy.directory.groups:
            above = self._scopes.above_who(f"group:{group}")
            below = self._scopes.groups_of(f"group:{group}")
            if used.isdisjoint(above) and used.isdisjoint(below):
                place = self._places.get(f"group {group}", Place("directory.yaml", 1))
                said, hint = f"no rule speaks of group `{group}` or of one it belongs to", "take it out"
                yield Finding("warning", "idle-group", said, hint, place.file, place.line)


def owners_differ(written: Written, codeowners: str) -> list[Finding]:
    """Rule files whose `owner` is not who CODEOWNERS asks to review them: `rules/x.yaml @org/<owner>`.

    As with the hosts that read it, the last line whose pattern fits decides.
    """
    lines = [line.split() for line in codeowners.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    owners = {
        place.file: written.policy.owners[rule]
        for rule, place in written.places.items()
        if rule in written.policy.owners
    }
    findings = []
    for file, owner in sorted(owners.items()):
        fitting = [reviewers for pattern, *reviewers in lines if _fits(pattern, file)]
        reviewers = [reviewer.rpartition("/")[2].removeprefix("@") for reviewer in (fitting[-1] if fitting else [])]
        if owner not in reviewers:
            said = f"`owner: {owner}` does not review this file: CODEOWNERS asks {', '.join(reviewers) or 'nobody'}"
            findings.append(Finding("warning", "codeowners", said, "make the two agree", file, 1))
    return findings


def _fits(pattern: str, file: str) -> bool:
    """`/policies/rules/x.yaml`, `rules/x.yaml`, `/policies/rules/`, `*`: the file, as seen from any folder above it."""
    wanted = pattern.strip("/")
    return any(fnmatch.fnmatch(path, wanted) or path.startswith(f"{wanted}/") for path in (file, f"policies/{file}"))
