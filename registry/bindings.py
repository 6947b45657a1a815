"""What the books say of other frameworks: how one of them spells a task type, and all spellings there are."""

from pathlib import Path

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from sqlalchemy import StaticPool, create_engine
from sqlmodel import Session, col, select

from enforcer import bindings, wire
from enforcer.bindings import BoundTag
from enforcer.drift import Unbound
from enforcer.policy.rules import PolicyInvalid
from enforcer.profiles import Profile
from registry import db, tag_life, tags
from registry.tables import Tag, TagVersion

_UNBOUND: TypeAdapter[dict[str, dict[str, dict[str, str]]]] = TypeAdapter(
    dict[str, dict[str, dict[str, str]]], config=ConfigDict(strict=True)
)


def resolve(session: Session, name: str, framework: str, framework_version: str) -> wire.ResolvedTag:
    """The tag with this name or alias, as this version of the framework spells it.

    Raises:
        UnknownTaskType, NotBound.
    """
    tag = tags.find(session, name)
    version = tags.version(session, tag.name)
    profile = Profile.model_validate(version.profile)
    bound = bindings.spelling(tag.name, profile.bindings, framework, framework_version)
    return wire.ResolvedTag(
        name=name,
        tag=tag.name,
        version=version.version,
        state=tag_life.state_at(tag, db.utc_now()),
        profile_digest=version.profile_digest,
        framework_version=framework_version,
        **bound.model_dump(exclude={"recorded"}),
    )


def bound_tags(session: Session) -> list[BoundTag]:
    """Every task type by name, with the bindings of its version in force."""
    current = select(Tag, TagVersion).where(TagVersion.tag == Tag.name, TagVersion.version == Tag.version)
    return [
        BoundTag(tag.name, tag.parent, Profile.model_validate(version.profile).bindings)
        for tag, version in session.exec(current.order_by(col(Tag.name)))
    ]


def of_folder(policies_dir: Path) -> list[BoundTag]:
    """The same of the registry that a policy folder would seed. Raises PolicyInvalid, or the Problem of a tag."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    db.migrate(engine)
    with Session(engine) as session:
        tags.seed(session, policies_dir)
        return bound_tags(session)


def unbound(policies_dir: Path, framework: str) -> Unbound:
    """What `frameworks.yaml` says is unbound on purpose, and why. Raises PolicyInvalid."""
    file = policies_dir / "frameworks.yaml"
    try:
        return _UNBOUND.validate_python(yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get(framework, {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError, ValidationError) as error:
        raise PolicyInvalid(f"{file.name}: {error}") from error
