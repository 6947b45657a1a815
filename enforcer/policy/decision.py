"""One question to the gate and its answer, with all that it takes to record it, explain it, and ask it again."""

from dataclasses import dataclass

from enforcer.policy.conditions import Context
from enforcer.policy.rules import ANY_TAG, ANY_TARGET, ROOT_UNIT, Effect, Level


@dataclass(frozen=True)
class Request:
    """One question. `principals` are `user:<id>` and `group:<name>`, from a verified token and nowhere else."""

    principals: tuple[str, ...]
    action: str
    context: Context
    tag: str = ANY_TAG
    unit: str = ROOT_UNIT
    target: str = ANY_TARGET


@dataclass(frozen=True)
class Match:
    """A rule or exception that fits the request, whether or not it counts: see `level` and `lifted_by`."""

    id: str
    effect: Effect
    level: Level = "enforce"
    lifted_by: str | None = None

    @property
    def decides(self) -> bool:
        """A deny at `warn` refuses nobody; an allow at `warn` allows, and says so."""
        return self.lifted_by is None and (self.level == "enforce" or (self.level == "warn" and self.effect == "allow"))


@dataclass(frozen=True)
class Decision:
    """The answer. `reason` is `allow`, `explicit-deny`, `no-matching-rule`, `unknown-tag`, `unknown-unit`,
    `unknown-target`, `unknown-action`, `unit-holds-others`, `target-holds-others` or `engine-error`.
    `registry.access` adds `not-in-scope`: the credential is for other actions.

    `rule` decided: of many that deny the first, of many that allow the last, as Casbin has it. `matched` are all that
    fit, in the order of the policy.
    """

    request: Request
    allowed: bool
    reason: str
    revision: str
    rule: str | None = None
    matched: tuple[Match, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Rules that the caller should be told of."""
        return tuple(match.id for match in self.matched if match.level == "warn" and match.lifted_by is None)

    @property
    def shadowed(self) -> bool | None:
        """What the answer would be if rules at `shadow` counted; None where none of them fits, or no rule was asked."""
        if not any(match.level == "shadow" for match in self.matched):
            return None
        counting = [match for match in self.matched if match.decides or match.level == "shadow"]
        effects = {match.effect for match in counting if match.lifted_by is None}
        return effects == {"allow"}


@dataclass(frozen=True)
class NearMiss:
    """An allow rule for this action and task type, and the clauses of it that the request failed, in words."""

    rule: str
    who: tuple[str, ...]
    owner: str
    failed: tuple[str, ...]
