"""How frameworks spell a task type: by which sub-command or class, with which literals, in which of their versions.

The tag is ours and stays; the spelling is theirs and changes. Forward, `spelling` gives what to call for one version of
a framework. Backward, `tags_of` says which tag a run of theirs was, from what they wrote down about it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from enforcer.problems import BindingInvalid, NotBound

Words = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9_.-]+$")]
Literal = StrictStr | StrictBool | StrictInt | StrictFloat | list[StrictStr]
Literals = Annotated[dict[Words, Literal], Field(max_length=20)]


class Binding(BaseModel):
    """How one framework spells a tag, for a range of its versions (PEP 440).

    `command`: a sub-command, or the trainer class by its path below the package; `config` the class of its arguments.
    `recorded`: how the framework's own record of a run spells it, each way that means this tag, where that differs from
    `args`: ms-swift rewrites `rlhf_type: simpo` into `cpo` before it writes `args.json`.
    `forbids`: values with which a run would be something else.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    framework: str = Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=48)
    versions: str = Field(min_length=1, max_length=120)
    command: Words
    config: Words | None = None
    args: Literals = Field(default_factory=dict)
    recorded: list[Literals] = Field(default_factory=list, max_length=10)
    forbids: Annotated[dict[Words, list[Literal]], Field(max_length=20)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def there_is_such_a_version(self) -> Self:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        try:
            empty = SpecifierSet(self.versions).is_unsatisfiable()
        except InvalidSpecifier:
            raise _invalid(f"`{self.versions}` is no range of versions (PEP 440), such as `>=4.0,<5`") from None
        if empty or not self.versions.strip(" ,"):
            raise _invalid(f"`{self.versions}` holds no version" if empty else "`versions` is empty; say `>=0` for all")
        if "===" in self.versions:
            raise _invalid(f"`{self.versions}`: `===` compares text, not versions; use `==`")
        return self

    @model_validator(mode="after")
    def it_does_not_forbid_itself(self) -> Self:
        for literals in (self.args, *self.recorded):
            if broken := self.forbidden(literals):
                raise _invalid(f"it forbids what it says itself: {', '.join(broken)}")
        return self

    def covers(self, version: str) -> bool:
        """Also a pre-release of the framework: people train with those."""
        from packaging.specifiers import SpecifierSet

        return SpecifierSet(self.versions).contains(version, prereleases=True)

    def overlaps(self, other: "Binding") -> bool:
        """Is there a version of one framework for which both speak?"""
        from packaging.specifiers import SpecifierSet

        if self.framework != other.framework:
            return False
        return not (SpecifierSet(self.versions) & SpecifierSet(other.versions)).is_unsatisfiable()

    def records(self) -> Sequence[Mapping[str, Literal]]:
        """Every set of literals by which the framework's record of a run means this tag."""
        return self.recorded or [self.args]

    def forbidden(self, given: Mapping[str, object]) -> list[str]:
        """Which of the given values make it something else, as `name=value`."""
        return [
            f"{name}={given[name]}"
            for name, values in self.forbids.items()
            if name in given and any(_same(value, given[name]) for value in values)
        ]


@dataclass(frozen=True)
class BoundTag:
    """A task type with the bindings of its version in force. A child has those of its parent."""

    name: str
    parent: str | None
    bindings: Sequence[Binding]


@dataclass(frozen=True)
class Match:
    """A tag that a run can have been; `narrower` are the children which are spelt the same."""

    tag: str
    binding: Binding
    literals: Mapping[str, Literal]
    narrower: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """One match is an answer, several are ambiguous. `forbidden`: by tag, what speaks against an otherwise good one."""

    matches: list[Match]
    forbidden: Mapping[str, list[str]]


def version_of(text: str) -> str:
    """The same text. Raises ValueError: it is no version (PEP 440), and would be covered by no binding in silence."""
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        raise ValueError(f"`{text[:60]}` is no version (PEP 440), such as `4.6.0`") from None
    return text


def refuse_overlaps(bindings: Sequence[Binding]) -> None:
    """Two bindings of one framework may not speak for one version: which would a run go by? Raises for pydantic."""
    for one, other in combinations(bindings, 2):
        if one.overlaps(other):
            raise _invalid(
                f"two bindings to `{one.framework}` speak for the same versions: `{one.versions}` and "
                f"`{other.versions}`; end one where the other begins"
            )


def spelling(tag: str, bindings: Iterable[Binding], framework: str, version: str) -> Binding:
    """How this version of the framework spells the tag.

    Raises:
        NotBound: the tag has no binding to it; names those that it has.
    """
    there = list(bindings)
    for binding in there:
        if binding.framework == framework and binding.covers(version):
            return binding
    ranges = [binding.versions for binding in there if binding.framework == framework]
    if ranges:
        raise NotBound(f"`{tag}` is bound to `{framework}` {' and '.join(ranges)}, not to {version}", versions=ranges)
    known = sorted({binding.framework for binding in there})
    has = f"it is bound to {', '.join(f'`{name}`' for name in known)}" if known else "it is bound to no framework"
    raise NotBound(f"`{tag}` is not bound to `{framework}`; {has}", frameworks=known)


def tags_of(
    tags: Iterable[BoundTag], framework: str, version: str, commands: Collection[str], given: Mapping[str, object]
) -> Reading:
    """Which tag is a run by one of these commands with these arguments? What says most about it wins."""
    found: dict[str, Match] = {}
    forbidden: dict[str, list[str]] = {}
    parents = {tag.name: tag.parent for tag in tags}
    for tag in tags:
        for binding in tag.bindings:
            if binding.framework != framework or binding.command not in commands or not binding.covers(version):
                continue
            ways = [way for way in binding.records() if all(n in given and _same(v, given[n]) for n, v in way.items())]
            if ways and (broken := binding.forbidden(given)):
                forbidden[tag.name] = broken
            elif ways:
                found[tag.name] = Match(tag.name, binding, max(ways, key=len))
    return Reading(_most_telling(found, parents), forbidden)


def _most_telling(found: Mapping[str, Match], parents: Mapping[str, str | None]) -> list[Match]:
    """Those with the most literals; a child that is spelt as its parent is told with the parent."""
    heads = [match for match in found.values() if _above(match, found, parents) is None]
    for match in found.values():
        head, above = match, _above(match, found, parents)
        while above is not None:
            head, above = above, _above(above, found, parents)
        if head is not match:
            head.narrower.append(match.tag)
    most = max((len(match.literals) for match in heads), default=0)
    return [match for match in heads if len(match.literals) == most]


def _above(match: Match, found: Mapping[str, Match], parents: Mapping[str, str | None]) -> Match | None:
    """The parent, when it is spelt the same."""
    parent = found.get(parents[match.tag] or "")
    return parent if parent and parent.binding == match.binding else None


def _same(one: object, other: object) -> bool:
    """A list of one is its member: ms-swift takes `loss_type` as a list and records it as a word. `True` is not 1."""
    one, other = (value[0] if isinstance(value, list) and len(value) == 1 else value for value in (one, other))
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _invalid(sentence: str) -> PydanticCustomError:
    return PydanticCustomError(BindingInvalid.code, "{sentence}", {"sentence": sentence})
