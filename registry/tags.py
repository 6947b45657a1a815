"""Task types: look-ups, names, and the seed from `policies/vocabulary/`."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import sqlalchemy as core
import yaml
from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, true
from sqlmodel import Session, SQLModel, col, exists, select

from enforcer import wire
from enforcer.compatibility import Compatibility
from enforcer.inheritance import inherit, refuse_contradictions, refuse_cycle
from enforcer.policy.rules import PolicyInvalid
from enforcer.problems import NotFound, ProfileInvalid, TaskTypeArchived, TaskTypeNotActive, UnknownTaskType
from enforcer.profiles import Kind, Profile, ProfileOverrides
from enforcer.vocabulary import Entry
from registry import audit, db, spellings, tag_life, tag_versions
from registry.filters import Field, Listing
from registry.identity import Actor
from registry.paging import Page
from registry.tables import KnownName, Tag, TagVersion

ACTIVE = "active"
SEEDER = Actor("system:seed", (), "all")
_COLUMNS = tuple(SQLModel.metadata.tables["tag"].columns)


def _called(alias: str | None) -> ColumnElement[bool]:
    """Tags with this alias; with any, without one."""
    spelt = exists().where(col(KnownName.tag) == col(Tag.name), col(KnownName.kind) == "alias")
    return spelt if alias is None else spelt.where(col(KnownName.spelling) == alias)


def _in_state(state: Any) -> ColumnElement[bool]:
    """A sunset holds from its second on; every task type is in some state."""
    return true() if state is None else tag_life.in_state(state, db.utc_now())


LISTING = Listing(
    key=Tag.name,
    fields={
        "name": Field(Tag.name, sort=Tag.name),
        "kind": Field(Tag.kind, "word", tuple(Kind), sort=Tag.kind),
        "parent": Field(Tag.parent),
        "state": Field(Tag.state, "word", get_args(wire.TagState), holds=_in_state, sort=Tag.state),
        "sunset_at": Field(Tag.sunset_at, "moment"),
        "replaced_by": Field(Tag.replaced_by),
        "description": Field(Tag.description),
        "version": Field(Tag.version, "number", sort=Tag.version),
        "created_at": Field(Tag.created_at, "moment", sort=Tag.created_at),
        "aliases": Field(None, "list", holds=_called),
    },
)


def find(session: Session, name: str) -> Tag:
    """The tag with this name or alias.

    Raises:
        UnknownTaskType: with the nearest suggestion and the way to propose it.
    """
    tag = session.get(Tag, name) or session.get(Tag, canonical(session, name))
    if tag is None:
        raise unknown(session, name)
    return tag


def canonical(session: Session, name: str) -> str:
    """The tag that an alias stands for; any other name as it is. For filters, where an unknown name finds nothing."""
    known = session.get(KnownName, name)
    return known.tag if known and known.tag else name


def find_active(session: Session, name: str) -> Tag:
    """As `find`, for a new child.

    Raises:
        TaskTypeNotActive: it has ended, or is going to.
    """
    tag = find(session, name)
    if tag.state != ACTIVE:
        raise TaskTypeNotActive(f"`{tag.name}` is {tag_life.state_at(tag, db.utc_now())}; nothing new goes below it")
    return tag


def find_living(session: Session, name: str) -> Tag:
    """As `find`, for a new version.

    Raises:
        TaskTypeNotActive: its end has come.
    """
    tag = find_runnable(session, name)
    if (state := tag_life.state_at(tag, db.utc_now())) == "sunset":
        raise TaskTypeNotActive(f"`{tag.name}` is {state} and changes no more")
    return tag


def find_runnable(session: Session, name: str) -> Tag:
    """As `find`, for a new run. Whether one of what has ended is let through is ruled with the policy's decision
    (`deprecations`).

    Raises:
        TaskTypeArchived
    """
    tag = find(session, name)
    if tag.state == "archived":
        instead = f"; use `{tag.replaced_by}`" if tag.replaced_by else ""
        raise TaskTypeArchived(f"`{tag.name}` is archived, for the record only{instead}", replaced_by=tag.replaced_by)
    return tag


def unknown(session: Session, name: str) -> UnknownTaskType:
    shown, verdict = name[:100], spellings.check(session, name)
    if verdict.suggestion and verdict.suggestion != name:
        return UnknownTaskType(
            f"`{shown}` is not a task type: {'; '.join(match.evidence for match in verdict.matches)}. "
            f"Use `{verdict.suggestion}`",
            suggestion=verdict.suggestion,
        )
    return UnknownTaskType(
        f"`{shown}` is not a task type. See `swift-submit tags list`, or propose it: "
        f"`swift-submit tags propose FILE` with `tag: {shown}`"
    )


def version(session: Session, name: str, number: int | None = None) -> TagVersion:
    """One version of a tag; the current one when no number is given."""
    tag = find(session, name)
    found = session.get(TagVersion, (tag.name, number or tag.version))
    if found is None:
        raise NotFound(f"`{tag.name}` has no version {number}; the current one is {tag.version}")
    return found


@dataclass(frozen=True)
class InForce:
    """The version of a task type that new runs get. `canonical` is the profile as it stands in their specifications.
    Where it has a `deprecation`, ask `deprecations` before anything is run."""

    tag: str
    version: int
    profile: Profile
    profile_digest: str
    canonical: bytes
    deprecation: wire.Deprecation | None = None


def in_force(session: Session, name: str) -> InForce:
    """The version in force of the task type with this name or alias.

    Raises:
        UnknownTaskType, TaskTypeArchived.
    """
    tag = find_runnable(session, name)
    row = version(session, tag.name)
    known, ends = tag_versions.parsed(row), tag_life.deprecation_of(tag)
    return InForce(tag.name, row.version, known.profile, row.profile_digest, known.canonical, ends)


def versions(session: Session, name: str) -> list[TagVersion]:
    tag = find(session, name)
    return list(session.exec(select(TagVersion).where(TagVersion.tag == tag.name).order_by(col(TagVersion.version))))


def listed(session: Session, page: Page) -> tuple[list[wire.Tag], str | None]:
    """A page of the vocabulary and the token of the next, in one statement however many tags there are: the page of
    tags first, each with the digest of its version in force, then their aliases beside them."""
    current = and_(col(TagVersion.tag) == col(Tag.name), col(TagVersion.version) == col(Tag.version))
    chosen = page.query(
        core.select(*_COLUMNS, col(TagVersion.profile_digest)).join(TagVersion, current), Tag
    ).subquery()
    spelt_so = and_(col(KnownName.tag) == chosen.c.name, col(KnownName.kind) == "alias")
    query = core.select(chosen, col(KnownName.spelling).label("alias")).outerjoin(KnownName, spelt_so)
    rows = session.execute(query.order_by(*page.sorting(chosen.c), col(KnownName.spelling)))
    found = [list(lines) for _, lines in groupby(rows, key=lambda row: row.name)]
    kept, token = page.cut([lines[0] for lines in found])
    spelt = [[line.alias for line in lines if line.alias is not None] for lines in found[: len(kept)]]
    items = [{**_told(row, row._mapping), "aliases": aliases} for row, aliases in zip(kept, spelt, strict=True)]
    return [wire.Tag.model_validate(item) for item in items], token


def as_detail(session: Session, tag: Tag) -> wire.TagDetail:
    current = version(session, tag.name)
    aliases = spellings.aliases_of(session, tag.name)
    told = {**_told(tag, tag.model_dump()), "aliases": aliases, "profile_digest": current.profile_digest}
    return wire.TagDetail(**told, profile=tag_versions.parsed(current).profile)


def _told(tag: Any, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Of a tag, or of a row with its columns: to make a tag of each row of a page would cost more than its query."""
    ends = {"state": tag_life.state_at(tag, db.utc_now()), "deprecation": tag_life.deprecation_of(tag)}
    return {**columns, **ends}


# --- what may be added ------------------------------------------------------------------------------------------------


def resolve_profile(
    session: Session, parent: str | None, profile: Profile | None, overrides: ProfileOverrides | None
) -> Profile:
    """The whole profile that a change leads to: given in full at the root, inherited and narrowed below.

    Raises:
        ProfileInvalid: both or neither were given; it cannot be meant (BoundsContradict, MetricUnknown).
        ProfileWidens: the child allows what its parent does not.
    """
    if parent is None:
        if profile is None or overrides is not None:
            raise ProfileInvalid("a task type without parent needs a whole `profile`, and no `overrides`")
        refuse_contradictions(profile)
        return profile
    if profile is not None:
        raise ProfileInvalid(f"a child of `{parent}` inherits its profile; say what is narrower in `overrides`")
    whole = inherit(tag_versions.parsed(version(session, parent)).profile, overrides or ProfileOverrides())
    refuse_contradictions(whole)
    return whole


def activate(
    session: Session,
    *,
    name: str,
    kind: Kind,
    parent: str | None,
    description: str,
    aliases: list[str],
    profile: Profile,
    by: Actor,
    event: str,
    compatibility: Compatibility | None = None,
    **facts: Any,
) -> int:
    """Write a new tag, or the next version of one that exists, with its event; returns the version number.

    Without a `compatibility` a tag keeps its own, and a new one gets its default (R-71).
    """
    now = db.utc_now()
    tag = session.get(Tag, name)
    if tag is None:
        spellings.release_what_ended(session, name, now)
        tag = Tag(
            name=name,
            kind=kind,
            parent=parent,
            description=description,
            state=ACTIVE,
            version=0,
            created_at=now,
            compatibility=Compatibility.NONE if parent else Compatibility.BACKWARD,
        )
        session.add(tag)
        session.flush()
        for alias in aliases:
            spellings.add_alias(session, alias, name)
    tag.version += 1
    if compatibility is not None:
        tag.compatibility = compatibility
    digest = profile.digest()
    session.add(
        TagVersion(
            tag=name,
            version=tag.version,
            profile=profile.model_dump(mode="json"),
            profile_digest=digest,
            proposal_id=facts.get("proposal_id"),
            created_at=now,
        )
    )
    session.flush()
    audit.record(
        session,
        event,
        by,
        task_type=name,
        version=tag.version,
        detail={"profile_digest": digest, "compatibility": tag.compatibility},
        **facts,
    )
    return tag.version


# --- the seed ---------------------------------------------------------------------------------------------------------


def seed(session: Session, policies_dir: Path) -> list[str]:
    """Write the vocabulary of an empty registry; a tag that exists is left as it is. Returns the names added.

    Raises:
        PolicyInvalid: `names.yaml` or a vocabulary file that cannot be read, naming it.
        ParentCycle
    """
    spellings.publish_rules(session, policies_dir, SEEDER)
    added = []
    for file in sorted((policies_dir / "vocabulary").glob("*.yaml")):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            # Keys beginning with `x-` hold YAML anchors.
            if not isinstance(content, dict) or [key for key in content if key != "tags" and not key.startswith("x-")]:
                raise ValueError("a vocabulary file holds `tags:` and anchors under `x-...:`")
            entries = [Entry.model_validate(entry) for entry in content["tags"]]
        except (OSError, ValueError, KeyError, yaml.YAMLError, ValidationError) as error:
            raise PolicyInvalid(f"{file.name}: {error}") from error
        refuse_cycle({entry.name: entry.parent for entry in entries})
        for entry in entries:
            if session.get(Tag, entry.name) is None:
                _plant(session, entry)
                added.append(entry.name)
    return added


def _plant(session: Session, entry: Entry) -> None:
    spellings.refuse_bad_name(
        session, entry.name, entry.aliases, parent=entry.parent, distinct_from=entry.distinct_from
    )
    profile = resolve_profile(session, entry.parent, entry.profile, entry.overrides)
    activate(
        session,
        name=entry.name,
        kind=entry.kind,
        parent=entry.parent,
        description=entry.description,
        aliases=entry.aliases,
        profile=profile,
        compatibility=entry.compatibility,
        by=SEEDER,
        event="tag.seeded",
    )
