"""Cases: decisions that must come out as written, each by the rule that it names. `policies/tests/*.yaml`.

    given: {unit: retail, own_unit: retail, target: local}     # what the cases of this file leave out
    cases:
      - {says: nlp may train dpo, who: group:nlp, do: submit, tag: dpo, gpus: 8, expect: allow, because: nlp-trains}
      - {says: a ninth GPU is refused, who: group:nlp, tag: dpo, gpus: 9, expect: deny, because: no-matching-rule}

`because` is the id of the rule or exception that decides, or the reason where none does. `now`, left out, is the moment
of the run: a case about an end or about hours gives it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from enforcer.policy import documents
from enforcer.policy.conditions import Context, Moment, Point
from enforcer.policy.decision import Decision, Request
from enforcer.policy.documents import Items, Keys
from enforcer.policy.folder import Place
from enforcer.policy.rules import ANY_TAG, ANY_TARGET, ROOT_UNIT, Effect, Who, as_list
from enforcer.policy.snapshot import Snapshot

SOMEBODY = "user:somebody"  # asks where a case names groups only


class Facts(BaseModel):
    """What a case says of the request, and `given` for all cases of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    who: Annotated[tuple[Who, ...], BeforeValidator(as_list)] = ()
    do: str = "submit"
    tag: str = ANY_TAG
    unit: str = ROOT_UNIT
    own_unit: str | None = None
    target: str = ANY_TARGET
    gpus: int = Field(default=0, ge=0)
    model: str | None = None
    change_ticket: str | None = None
    point: Point = "api"
    now: Moment | None = None

    def request(self, gate: Snapshot, now: datetime) -> Request:
        named = any(not who.startswith("group:") for who in self.who)
        context = Context(
            now=self.now or now,
            gpus=self.gpus,
            model=self.model,
            unit=self.unit,
            own_units=gate.units_below(self.own_unit),
            change_ticket=self.change_ticket,
            point=self.point,
        )
        who = self.who if named else (SOMEBODY, *self.who)
        return Request(who, self.do, context, tag=self.tag, unit=self.unit, target=self.target)


class Case(Facts):
    says: str = Field(min_length=1)
    expect: Effect
    because: str = Field(min_length=1)
    warns: Annotated[tuple[str, ...], BeforeValidator(as_list)] | None = None


class _CaseFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    given: Facts = Field(default_factory=Facts)
    cases: list[Case]


@dataclass(frozen=True)
class Outcome:
    """What the gate answered to a case."""

    case: Case
    place: Place
    decision: Decision

    @property
    def by(self) -> str:
        return self.decision.rule or self.decision.reason

    @property
    def failure(self) -> str | None:
        """What came out otherwise than written, in words."""
        expected = f"{self.case.expect} by `{self.case.because}`"
        came = f"{'allow' if self.decision.allowed else 'deny'} by `{self.by}`"
        if came != expected:
            return f"expected {expected}; the gate answers {came}"
        warned = self.decision.warnings
        if self.case.warns is not None and set(self.case.warns) != set(warned):
            return f"expected warnings {_listed(self.case.warns)}; the gate gives {_listed(warned)}"
        return None


def read(folder: Path) -> list[tuple[Case, Place]]:
    """The cases under `tests/`, in the order of the files. Raises PolicyInvalid, naming file and line."""
    return [
        found
        for file in sorted((folder / "tests").glob("*.yaml"))
        for name in [f"tests/{file.name}"]
        for found in parsed(documents.text_of(file, name), name)
    ]


def parsed(content: str, name: str) -> Iterator[tuple[Case, Place]]:
    """The cases of one file, each with its line. A bare list of cases is taken too. Raises PolicyInvalid."""
    document = documents.read(content, name)
    if isinstance(document.content, Items):
        whole = Keys(1)
        whole["cases"], whole.lines["cases"] = document.content, 1
        document = document._replace(content=whole)
    file = document.as_(_CaseFile)
    given = {key: getattr(file.given, key) for key in file.given.model_fields_set}
    for at, case in enumerate(file.cases):
        told = {key: getattr(case, key) for key in case.model_fields_set}
        yield Case.model_validate(given | told), Place(name, document.line_of(("cases", at)))


def run(cases: Iterable[tuple[Case, Place]], gate: Snapshot, now: datetime) -> list[Outcome]:
    return [Outcome(case, place, gate.decide(case.request(gate, now))) for case, place in cases]


def _listed(ids: Iterable[str]) -> str:
    return ", ".join(f"`{one}`" for one in sorted(ids)) or "none"
