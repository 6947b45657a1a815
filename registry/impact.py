"""What a proposal would do, for those who decide on it: found out now, from the books, and written down nowhere.

The work is bounded: the runs of the last 90 days, at most `TAGS` task types below the one that changes (the nearest
first) and `RUNS` runs of each, all by index. Where a bound was met, `complete` says so.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlmodel import Session, col, select

from enforcer import gates, wire
from enforcer.compatibility import Compatibility
from enforcer.gates import Gate, Score, Verdict
from enforcer.profile_changes import diff
from enforcer.profiles import Profile
from registry import db, runs, spellings, tag_versions, tags
from registry.tables import Proposal, Run, Tag, TagVersion

OF_LATE = timedelta(days=90)
TAGS, RUNS, JUDGED = 200, 5_000, 10
ACCEPTED = (Verdict.PASS, Verdict.WAIVED)


@dataclass(frozen=True)
class Concerned:
    """The task types whose runs a change is about."""

    names: Sequence[str]
    complete: bool


def of(session: Session, proposal: Proposal) -> wire.Impact:
    """What there is to say of it. For a change of the policy or an exception that is the digest: what these do to
    decisions is told by their checks."""
    change = proposal.change
    if change["kind"] not in ("new-tag", "new-version"):
        return wire.Impact(**_of_nothing(proposal) | _of_an_end(session, proposal))
    after = Profile.model_validate(proposal.result["profile"])
    tag = session.get(Tag, proposal.subject.removeprefix("tag:"))
    concerned = _concerned(session, tag.name) if tag is not None else Concerned((), complete=True)
    units, whole = _units(session, concerned.names)
    before = _before(session, proposal)
    return wire.Impact(
        **_of_nothing(proposal)
        | {
            "compared_with": f"{before.tag}@{before.version}" if before else None,
            "changes": _changes(before, after),
            "compatibility": _compatibility(session, proposal, after),
            "names": _names(session, change) if proposal.kind == "new-tag" else [],
            "gates": _gate_effect(session, concerned.names, after.gates),
            "in_flight": _in_flight(session, concerned.names),
            "units": units,
            "complete": whole and concerned.complete,
        }
    )


def _of_an_end(session: Session, proposal: Proposal) -> dict[str, Any]:
    """Whom a deprecation or an archival meets; nobody, for what is not about a task type."""
    if not proposal.subject.startswith("tag:"):
        return {}
    concerned = _concerned(session, proposal.subject.removeprefix("tag:"))
    units, whole = _units(session, concerned.names)
    complete = whole and concerned.complete
    return {"in_flight": _in_flight(session, concerned.names), "units": units, "complete": complete}


def _of_nothing(proposal: Proposal) -> dict[str, Any]:
    return {
        "proposal_id": proposal.id,
        "digest": proposal.digest,
        "compared_with": None,
        "changes": [],
        "compatibility": None,
        "names": [],
        "gates": None,
        "in_flight": [],
        "units": [],
        "days": OF_LATE.days,
        "complete": True,
    }


# --- what changes -----------------------------------------------------------------------------------------------------


def _before(session: Session, proposal: Proposal) -> TagVersion | None:
    """A new task type is compared with its parent; a new version with the one in force or, once it has taken effect
    itself, with the one that it was made from."""
    change = proposal.change
    if proposal.kind == "new-tag":
        return tags.version(session, change["parent"]) if change.get("parent") else None
    return tags.version(session, change["tag"], (_base(proposal) or {}).get("version"))


def _base(proposal: Proposal) -> Mapping[str, Any] | None:
    return proposal.base if proposal.version is not None else None


def _changes(before: TagVersion | None, after: Profile) -> list[wire.FieldChange]:
    if before is None:
        return []
    return [wire.FieldChange.model_validate(found) for found in diff(tag_versions.parsed(before).profile, after)]


def _compatibility(session: Session, proposal: Proposal, after: Profile) -> wire.CompatibilityCheck | None:
    if proposal.kind == "new-tag":
        return None
    tag, asked = tags.find(session, proposal.change["tag"]), proposal.change.get("compatibility")
    mode = Compatibility(asked) if asked else None
    found = tag_versions.check(session, tag, after, mode, base=_base(proposal))
    return found.model_copy(update={"changes": None})


def _names(session: Session, change: Mapping[str, Any]) -> list[wire.NameCheck]:
    """What the check of names says now, of the name and of each alias, with what the author declared; where the task
    type stands already, as if it did not."""
    said = [wire.DistinctFrom.model_validate(one) for one in change.get("distinct_from") or []]
    asked = [(change["tag"], change.get("parent")), *((alias, change["tag"]) for alias in change.get("aliases", []))]
    found = [spellings.check(session, one, parent=up, distinct_from=said, aside=change["tag"]) for one, up in asked]
    return [wire.NameCheck.model_validate(one) for one in found]


# --- whom it meets ----------------------------------------------------------------------------------------------------


def _concerned(session: Session, name: str) -> Concerned:
    """The task type and those below it, the nearest first."""
    below: dict[str, list[str]] = {}
    for child, parent in session.exec(select(Tag.name, Tag.parent).where(col(Tag.parent).is_not(None))):
        below.setdefault(str(parent), []).append(child)
    found = [name]
    for one in found:  # grows while it is walked
        found += sorted(below.get(one, []))
    return Concerned(found[:TAGS], complete=len(found) <= TAGS)


def _in_flight(session: Session, task_types: Sequence[str]) -> list[wire.UnitRuns]:
    """Runs that have a permit and have not ended; they end under the version that they began with."""
    # Compared as an expression, so that SQLite does not walk all runs of a task type for the few that are alive.
    query = select(Run.business_unit).where(
        *runs.in_flight(db.utc_now()), col(Run.task_type).concat("").in_(task_types)
    )
    return _by_unit(session.exec(query))


def _units(session: Session, task_types: Iterable[str]) -> tuple[list[wire.UnitRuns], bool]:
    """Whose runs there were in the last 90 days, and whether that is all of them."""
    found: list[str] = []
    whole = True
    for task_type in task_types:
        query = _recent(select(Run.business_unit), task_type).limit(RUNS)
        some = session.exec(query).all()
        found += some
        whole = whole and len(some) < RUNS
    return _by_unit(found), whole


def _by_unit(units: Iterable[str]) -> list[wire.UnitRuns]:
    return [wire.UnitRuns(business_unit=unit, runs=runs) for unit, runs in sorted(Counter(units).items())]


def _recent(query: Any, task_type: str) -> Any:
    """Newest first, in the index by tag: a run's id begins with its moment."""
    since = f"run-{db.uuid7_floor(db.utc_now() - OF_LATE)}"
    return query.where(Run.task_type == task_type, col(Run.id) >= since).order_by(col(Run.id).desc())


# --- the bar ----------------------------------------------------------------------------------------------------------


def _gate_effect(session: Session, task_types: Sequence[str], proposed: Sequence[Gate]) -> wire.GateEffect | None:
    """The last accepted runs, judged again by the proposed gates on the scores that they reported."""
    if not task_types:
        return None
    accepted: list[Run] = []
    for task_type in task_types:
        query = _recent(select(Run), task_type).where(col(Run.verdict).in_(ACCEPTED)).limit(JUDGED)
        accepted += session.exec(query)
    last = sorted(accepted, key=lambda run: run.id, reverse=True)[:JUDGED]
    missed = [missing for run in last if (missing := _missing(session, run, proposed))]
    return wire.GateEffect(judged=len(last), would_not_pass=len(missed), runs=missed)


def _missing(session: Session, run: Run, proposed: Sequence[Gate]) -> wire.RunMissing | None:
    scores = {name: Score.model_validate(score) for name, score in run.scores.items()}
    judged = gates.judge_run(proposed, runs.specification(session, run).arguments, scores)
    verdict = gates.overall(judged)
    if verdict == Verdict.PASS:
        return None
    reasons = [f"{one.gate.metric}: {one.reason}" for one in judged if one.verdict != Verdict.PASS]
    return wire.RunMissing(run_id=run.id, task_type=run.task_type, verdict=verdict, reasons=reasons)
