"""Versions of a task type: their profiles, what changed between two, and what the next one has to keep.

A version is never changed, and its profile is found by its digest: what was parsed once is kept for all registries of
the process, with its canonical bytes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlmodel import Session, col, select

from enforcer import wire
from enforcer.compatibility import Compatibility, Incompatibility, incompatibilities
from enforcer.problems import CompatibilityBroken, NotFound
from enforcer.profile_changes import ChangeClass, diff, heaviest
from enforcer.profiles import Profile
from registry.tables import Tag, TagVersion

MAX_PARSED = 20_000  # versions; the vocabulary of a large company


@dataclass(frozen=True)
class Parsed:
    profile: Profile
    canonical: bytes


_parsed: dict[str, Parsed] = {}


def parsed(row: TagVersion) -> Parsed:
    """The profile of a version. It is remembered where it is what its digest says: a row that somebody tampered with
    must not stand for the others with that digest."""
    found = known(row.profile_digest)
    if found is None:
        profile = Profile.model_validate(row.profile)
        found = Parsed(profile, profile.canonical())
        if profile.digest() == row.profile_digest:
            if len(_parsed) >= MAX_PARSED:
                _parsed.clear()
            _parsed[row.profile_digest] = found
    return found


def known(profile_digest: str) -> Parsed | None:
    """What was parsed before, without asking the database."""
    return _parsed.get(profile_digest)


def profiles(session: Session, tag: str) -> dict[int, Profile]:
    """Of every version so far."""
    rows = session.exec(select(TagVersion).where(TagVersion.tag == tag).order_by(col(TagVersion.version)))
    return {row.version: parsed(row).profile for row in rows}


def compare(session: Session, tag: Tag, before: int | None, after: int) -> wire.VersionDiff:
    """What changed; from the version before where none is named.

    Raises:
        NotFound: there is no such version.
    """
    before = before or after - 1
    if before == 0:
        raise NotFound(f"`{tag.name}@1` is the first version; say in `from` what to compare it with")
    found = {row.version: parsed(row).profile for row in _rows(session, tag.name, (before, after))}
    if missing := {before, after} - found.keys():
        raise NotFound(f"`{tag.name}` has no version {min(missing)}; the current one is {tag.version}")
    changes = diff(found[before], found[after])
    return wire.VersionDiff(
        tag=tag.name,
        from_version=before,
        to_version=after,
        change_class=heaviest(change.change_class for change in changes),
        changes=[wire.FieldChange.model_validate(change) for change in changes],
    )


def check(
    session: Session,
    tag: Tag,
    following: Profile,
    mode: Compatibility | None,
    base: Mapping[str, Any] | None = None,
) -> wire.CompatibilityCheck:
    """What a proposal of this profile as the next version would meet; or what it met at its `base`, where it has taken
    effect itself."""
    before = base or {"version": tag.version, "compatibility": tag.compatibility}
    version, old = before["version"], Compatibility(before["compatibility"])
    earlier, mode = {n: one for n, one in profiles(session, tag.name).items() if n <= version}, mode or old
    changes = diff(earlier[version], following)
    broken = incompatibilities(mode, earlier, following)
    return wire.CompatibilityCheck(
        tag=tag.name,
        version=version,
        mode=mode,
        compatible=not broken,
        change_class=change_class(old, earlier[version], following, mode),
        incompatibilities=[wire.Incompatibility.model_validate(one) for one in broken],
        changes=[wire.FieldChange.model_validate(change) for change in changes],
    )


def refuse_incompatible(session: Session, tag: Tag, following: Profile, mode: Compatibility | None) -> None:
    """Raises CompatibilityBroken, naming a configuration that would be lost."""
    mode = mode or Compatibility(tag.compatibility)
    if mode is Compatibility.NONE:
        return
    broken = incompatibilities(mode, profiles(session, tag.name), following)
    if broken:
        first, more = broken[0], f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise CompatibilityBroken(
            f"`{tag.name}` keeps {mode} compatibility, and against version {first.version} this breaks it: "
            f"`{first.path}`: {_told(first)}{more}. Keep that, or propose it with another `compatibility`",
            mode=mode.value,
            incompatibilities=[asdict(one) for one in broken[:20]],
        )


def change_class(old: Compatibility, before: Profile, after: Profile, mode: Compatibility | None) -> ChangeClass:
    """Of the profile and of the mode: protecting less is a loosening, protecting more a tightening."""
    classes = [change.change_class for change in diff(before, after)]
    if mode is not None and mode is not old:
        classes.append(ChangeClass.TIGHTENING if mode.covers(old) else ChangeClass.LOOSENING)
    return heaviest(classes)


def _told(one: Incompatibility) -> str:
    back = one.direction == "forward"
    return f"{one.sentence}{', going back to it' if back else ''}"


def _rows(session: Session, tag: str, numbers: tuple[int, ...]) -> list[TagVersion]:
    return list(session.exec(select(TagVersion).where(TagVersion.tag == tag, col(TagVersion.version).in_(numbers))))
