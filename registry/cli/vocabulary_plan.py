"""What a registry would have to change to say what files of task types say, and the proposals for it.

Everything is looked at before anything is opened: what the files say (`enforcer.vocabulary`), what that means beside
the registry's own task types, and then, for each change, what the registry says to it (`validate_only`).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import ValidationError

from enforcer import canonical, wire
from enforcer.compatibility import Compatibility
from enforcer.inheritance import inherit, refuse_contradictions
from enforcer.policy.rules import Fault, PolicyInvalid
from enforcer.problems import NameIsVariant, Problem, RegistryUnreachable, Unauthenticated
from enforcer.profile_changes import diff
from enforcer.profiles import Profile, ProfileOverrides
from enforcer.vocabulary import Entry, Placed, narrowed
from registry.cli.remote import Remote

ENDED = ("sunset", "archived")
State = Literal["to propose", "held back", "waiting", "rejected", "opened"]


@dataclass
class Step:
    """One proposal to come. `held back`: it is made from what `after` will be, which only is proposed; `waiting`: an
    open proposal says the same; `rejected`: others have said no to exactly this."""

    placed: Placed
    change: wire.NewTag | wire.NewVersion | wire.NewAlias
    base: str | None = None
    after: str | None = None
    changes: list[str] = field(default_factory=list)
    state: State = "to propose"
    proposal: str | None = None
    ended: tuple[str, ...] = ()

    @property
    def told(self) -> dict[str, Any]:
        what = self.change.alias if isinstance(self.change, wire.NewAlias) else None
        place = {"file": self.placed.file, "line": self.placed.line}
        said = {"tag": self.change.tag, "change": self.change.kind, "alias": what, "state": self.state}
        return {**said, "proposal": self.proposal, "after": self.after, "changes": self.changes, **place}

    @property
    def content(self) -> bytes:
        return canonical.dumps([self.change.model_dump(mode="json"), self.base])

    def request(self, reason: str) -> dict[str, Any]:
        asked = wire.ProposalRequest(change=self.change, reason=reason, base=self.base)
        return asked.model_dump(mode="json", exclude_none=True)


class Live:
    """The registry's task types, as far as they are asked for."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.behind: dict[str, str] = {}
        self._profiles: dict[str, Profile] = {}

    @cached_property
    def tags(self) -> dict[str, wire.Tag]:
        return {item["name"]: wire.Tag.model_validate(item) for item in self.remote.each("/v1/tags")}

    @cached_property
    def names(self) -> dict[str, str]:
        """Every name and alias, with the task type that it stands for."""
        spelt = {alias: tag.name for tag in self.tags.values() for alias in tag.aliases}
        return spelt | {name: name for name in self.tags}

    def profile(self, name: str) -> Profile:
        if name not in self._profiles:
            self._profiles[name] = wire.TagDetail.model_validate(self.remote.get(f"/v1/tags/{name}")).profile
        return self._profiles[name]

    def overrides(self, tag: wire.Tag) -> ProfileOverrides:
        """What this child says of the newest version of its parent that it narrows: the parent may have moved since.
        Those that do not narrow the one in force are `behind`."""
        assert tag.parent is not None
        child = self.profile(tag.name)
        if (said := narrowed(self.profile(tag.parent), child)) is not None:
            return said
        for item in reversed(self.remote.get(f"/v1/tags/{tag.parent}/versions")["items"]):
            version = wire.TagVersion.model_validate(item)
            if (said := narrowed(version.profile, child)) is not None:
                self.behind[tag.name] = f"{tag.parent}@{version.version}"
                return said
        raise RegistryUnreachable(f"`{tag.name}` narrows no version of `{tag.parent}`; is `--server` a registry?")

    def entries(self) -> list[Entry]:
        """What is in use, with all that stands above it."""
        kept = {name for name, tag in self.tags.items() if tag.state not in ENDED}
        for name in list(kept):
            while (above := self.tags[name].parent) is not None:
                kept.add(name := above)
        said = self._distinctions()
        return [self._entry(self.tags[name], said.get(name, [])) for name in kept]

    def _entry(self, tag: wire.Tag, distinct_from: list[Any]) -> Entry:
        root = tag.parent is None
        usual = Compatibility.BACKWARD if root else Compatibility.NONE
        return Entry(
            name=tag.name,
            kind=tag.kind,
            parent=tag.parent,
            description=tag.description,
            aliases=tag.aliases,
            distinct_from=distinct_from,
            compatibility=None if tag.compatibility == usual else tag.compatibility,
            profile=self.profile(tag.name) if root else None,
            overrides=None if root else self.overrides(tag),
        )

    def _distinctions(self) -> dict[str, list[Any]]:
        """Why a name is not another one was said in its proposal."""
        applied = self.remote.each("/v1/proposals", filter='kind = "new-tag" AND state = applied')
        return {one["change"]["tag"]: one["change"]["distinct_from"] for one in applied}


def compare(placed: Iterable[Placed], live: Live) -> list[Step]:
    """What differs. Nothing is asked of the registry but what it has.

    Raises:
        PolicyInvalid: with every entry that can never be as it stands there.
    """
    found = _Comparison(live)
    for one in placed:
        found.add(one)
    if found.faults:
        raise PolicyInvalid(*found.faults)
    return found.steps


def check(steps: Iterable[Step], live: Live, reason: str) -> None:
    """Find the open proposals that say the same, and ask the registry what it says to the others.

    Raises:
        PolicyInvalid: with everything that it would refuse.
    """
    faults: list[Fault] = []
    for step in steps:
        try:
            _look_for_proposals(step, live.remote)
            if step.state == "to propose":
                live.remote.post("/v1/proposals", step.request(reason), validate_only="true")
            elif step.state == "held back" and isinstance(step.change, wire.NewTag):
                _refuse_bad_names(step.change, live)
        except (Unauthenticated, RegistryUnreachable):
            raise
        except Problem as problem:
            faults.append(step.placed.fault(problem.detail))
    if faults:
        raise PolicyInvalid(*faults)


def open_all(steps: Iterable[Step], live: Live, reason: str) -> None:
    """One proposal for each. The same again within a day is the same proposal, whoever's answer got lost."""
    todo = [step for step in steps if step.state == "to propose"]
    for at, step in enumerate(todo):
        said = canonical.dumps([step.content.decode(), reason, list(step.ended)])
        key = f"vocabulary-{hashlib.sha256(said).hexdigest()[:40]}"
        try:
            step.proposal = live.remote.post("/v1/proposals", step.request(reason), key=key)["id"]
        except Problem as problem:
            went = f"{at} of {len(todo)} are proposed; the same command goes on from there"
            raise type(problem)(f"`{step.change.tag}`: {problem.detail} ({went})", **problem.facts) from problem
        step.state = "opened"


class _Comparison:
    def __init__(self, live: Live) -> None:
        self._live = live
        self.steps: list[Step] = []
        self.faults: list[Fault] = []
        self._meant: dict[str, Profile | None] = {}  # by name, of what stands above; None where that is wrong
        self._moving: set[str] = set()

    def add(self, placed: Placed) -> None:
        entry = placed.entry
        self._meant[entry.name] = None
        try:
            parent = self._parent(placed)
            if parent is not None and parent in self._meant and self._meant[parent] is None:
                return  # what is wrong there is told there
            self._meant[entry.name] = meant = self._resolve(entry, parent)
            known = self._live.tags.get(entry.name)
            if known is None:
                self._new(placed, parent)
            else:
                self._refuse_fixed(placed, known, parent)
                self._version(placed, known, meant, parent)
                self._aliases(placed, known)
        except PolicyInvalid as error:
            self.faults += error.faults
        except ValidationError as error:
            first = error.errors()[0]
            said = f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}"
            self.faults.append(placed.fault(said))
        except (Unauthenticated, RegistryUnreachable):
            raise
        except Problem as problem:
            self.faults.append(placed.fault(problem.detail))

    def _parent(self, placed: Placed) -> str | None:
        entry, names = placed.entry, self._live.names
        if names.get(entry.name, entry.name) != entry.name:
            raise PolicyInvalid(placed.fault(f"is another spelling of `{names[entry.name]}` in the registry"))
        if entry.parent is None or (entry.parent in self._meant and entry.parent != entry.name):
            return entry.parent
        if entry.parent not in names:
            said = f"its parent `{entry.parent}` is neither in the registry nor above it in the files"
            raise PolicyInvalid(placed.fault(said))
        return names[entry.parent]

    def _resolve(self, entry: Entry, parent: str | None) -> Profile:
        if parent is None:
            assert entry.profile is not None  # `enforcer.vocabulary` has looked
            meant = entry.profile
        else:
            above = self._meant.get(parent) or self._live.profile(parent)
            meant = inherit(above, entry.overrides or ProfileOverrides())
        refuse_contradictions(meant)
        return meant

    def _new(self, placed: Placed, parent: str | None) -> None:
        entry = placed.entry
        change = wire.NewTag(
            kind="new-tag",
            tag=entry.name,
            tag_kind=entry.kind,
            parent=parent,
            description=entry.description,
            aliases=entry.aliases,
            distinct_from=entry.distinct_from,
            profile=entry.profile,
            overrides=entry.overrides or (ProfileOverrides() if parent else None),
            compatibility=entry.compatibility,
        )
        self._step(Step(placed, change), parent)

    def _version(self, placed: Placed, known: wire.Tag, meant: Profile, parent: str | None) -> None:
        entry = placed.entry
        mode = entry.compatibility if entry.compatibility not in (None, known.compatibility) else None
        if mode is None and meant.digest() == known.profile_digest:
            return
        told = [f"{one.change_class}  {one.sentence}" for one in diff(self._live.profile(known.name), meant)]
        change = wire.NewVersion(
            kind="new-version",
            tag=known.name,
            profile=entry.profile,
            overrides=entry.overrides or (ProfileOverrides() if parent else None),
            compatibility=mode,
        )
        self._step(Step(placed, change, base=known.profile_digest, changes=told), parent)

    def _aliases(self, placed: Placed, known: wire.Tag) -> None:
        for alias in placed.entry.aliases:
            if alias not in known.aliases:
                change = wire.NewAlias(
                    kind="alias", tag=known.name, alias=alias, distinct_from=placed.entry.distinct_from
                )
                self.steps.append(Step(placed, change))

    def _refuse_fixed(self, placed: Placed, known: wire.Tag, parent: str | None) -> None:
        entry = placed.entry
        said: Mapping[str, tuple[Any, Any]] = {
            "kind": (entry.kind, known.kind),
            "parent": (parent, known.parent),
            "description": (entry.description, known.description),
        }
        faults = [
            placed.fault(f"`{name}` is `{there}` in the registry and never changes; it cannot become `{here}`")
            for name, (here, there) in said.items()
            if here != there
        ]
        if gone := sorted(set(known.aliases) - set(entry.aliases)):
            faults.append(placed.fault(f"its alias `{gone[0]}` is missing; what was an alias is one for ever"))
        if faults:
            raise PolicyInvalid(*faults)

    def _step(self, step: Step, parent: str | None) -> None:
        self._moving.add(step.placed.entry.name)
        if parent in self._moving:
            step.state, step.after = "held back", parent
        self.steps.append(step)


def _look_for_proposals(step: Step, remote: Remote) -> None:
    """Whoever made it, and whatever reason they gave."""
    change = step.change
    subject = f"alias:{change.alias}" if isinstance(change, wire.NewAlias) else f"tag:{change.tag}"
    same = [
        one
        for one in remote.each("/v1/proposals", filter=f'subject = "{subject}"')
        if one["change"]["kind"] == change.kind and _content(change, one) == step.content
    ]
    for one in same:  # newest first
        if one["state"] in ("open", "approved"):
            step.state, step.proposal = "waiting", one["id"]
            return
    if same and same[0]["state"] == "rejected" and step.state == "to propose":
        step.state, step.proposal = "rejected", same[0]["id"]
    step.ended = tuple(one["id"] for one in same)


def _content(change: wire.NewTag | wire.NewVersion | wire.NewAlias, proposal: Mapping[str, Any]) -> bytes:
    theirs = type(change).model_validate(proposal["change"]).model_dump(mode="json")
    base = proposal["base"]["digest"] if change.kind == "new-version" and proposal["base"] else None
    return canonical.dumps([theirs, base])


def _refuse_bad_names(change: wire.NewTag, live: Live) -> None:
    """What the registry can say of a name whose parent is not there yet. It knows no other of the same files either,
    and nothing comes near what it does not know."""
    parent = change.parent if change.parent in live.names else None
    distinct_from = [one for one in change.distinct_from if one.tag in live.names]
    for name in (change.tag, *change.aliases):
        asked = wire.NameCheckRequest(name=name, parent=parent, distinct_from=distinct_from)
        said = wire.NameCheck.model_validate(live.remote.post("/v1/tags:check-name", asked.model_dump(mode="json")))
        if said.verdict != "ok":
            raise NameIsVariant(f"`{name}`: {'; '.join(match.evidence for match in said.matches)}")
