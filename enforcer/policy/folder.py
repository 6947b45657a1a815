"""The policy folder: YAML as people write it, read strictly.

    model.conf           the Casbin model
    directory.yaml       the business units, targets and groups that rules may name
    rules/<owner>.yaml   the rules, by who answers for them
    exceptions.yaml      exceptions with an end, where there are any
    quotas.yaml          quotas, where there are any
    approvals.yaml       how many agree to which change, where that is not left at the default
    vocabulary/*.yaml    the task types of an empty registry; here, only which belongs to which

A misspelt key, group or effect would silently do nothing, so one bad line refuses the whole revision. All that is wrong
is told at once, by file and line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enforcer.approvals import Approvals
from enforcer.policy import documents
from enforcer.policy.documents import Document, text_of
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.quotas import Quota
from enforcer.policy.revision import Policy
from enforcer.policy.rules import Directory, Fault, PolicyInvalid, Rule

Model = TypeVar("Model", bound=BaseModel)


class Place(NamedTuple):
    file: str
    line: int


@dataclass(frozen=True)
class Written:
    """A policy with the place of each rule, exception and quota, by id."""

    policy: Policy
    places: Mapping[str, Place]


class RuleFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    owner: str
    rules: list[Rule]


class ExceptionFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    exceptions: list[PolicyException] = Field(default_factory=list)


class QuotaFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    quotas: list[Quota] = Field(default_factory=list)


def kind_of(name: str) -> type[BaseModel]:
    """What a file of entries holds, by its name in the folder."""
    others: dict[str, type[BaseModel]] = {"exceptions.yaml": ExceptionFile, "quotas.yaml": QuotaFile}
    return others.get(name, RuleFile)


def load(folder: Path) -> Policy:
    """Read a policy folder.

    Raises:
        PolicyInvalid: a file is missing or malformed, or a rule speaks of something that does not exist.
    """
    return read(files_of(folder))


def files_of(folder: Path) -> dict[str, str]:
    """The texts a revision is made of, by their names in the folder. Raises PolicyInvalid."""
    there = [folder / "model.conf", folder / "directory.yaml", *sorted((folder / "rules").glob("*.yaml"))]
    others = ("exceptions.yaml", "quotas.yaml", "approvals.yaml")
    there += [folder / name for name in others if (folder / name).exists()]
    return {name: text_of(file, name) for file in there for name in [file.relative_to(folder).as_posix()]}


def read(files: Mapping[str, str]) -> Policy:
    """The revision that these files say, whoever sent them. Raises PolicyInvalid."""
    return written(files).policy


def written(files: Mapping[str, str]) -> Written:
    """The revision that these files say, and where they say it. Raises PolicyInvalid."""
    return _Reading(files).finish()


@dataclass
class _Reading:
    files: Mapping[str, str]
    faults: list[Fault] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)

    def finish(self) -> Written:
        owners: dict[str, str] = {}
        rules: list[Rule] = []
        for name in sorted(name for name in self.files if name.startswith("rules/")):
            if file := self._file(RuleFile, name, "rules"):
                rules += file.rules
                owners |= dict.fromkeys((rule.id for rule in file.rules), file.owner)
        exceptions = self._file(ExceptionFile, "exceptions.yaml", "exceptions", "{}")
        quotas = self._file(QuotaFile, "quotas.yaml", "quotas", "{}")
        approvals = self._file(Approvals, "approvals.yaml", "rules", "{}", "approval ")
        directory = self._file(Directory, "directory.yaml")
        if "model.conf" not in self.files:
            self.faults.append(Fault("is missing", file="model.conf"))
        if self.faults or exceptions is None or quotas is None or approvals is None or directory is None:
            raise PolicyInvalid(*self.faults)
        try:
            policy = Policy.of(
                self.files["model.conf"],
                directory,
                rules,
                owners=owners,
                exceptions=exceptions.exceptions,
                quotas=quotas.quotas,
                approvals=approvals,
            )
        except PolicyInvalid as invalid:
            raise PolicyInvalid(*map(self._placed, invalid.faults)) from invalid
        return Written(policy, self.places)

    def _file(
        self, kind: type[Model], name: str, listed: str | None = None, default: str | None = None, what: str = ""
    ) -> Model | None:
        """This file as this model, or None and the faults of it are noted; `listed` is the key of what has an id."""
        content = self.files.get(name, default)
        if content is None:
            self.faults.append(Fault("is missing", file=name))
            return None
        try:
            document = documents.read(content, name)
            found = document.as_(kind)
        except PolicyInvalid as invalid:
            self.faults += invalid.faults
            return None
        if listed:
            self._note_places(document, listed, what)
        else:
            self._note_names(document)
        return found

    def _note_names(self, document: Document) -> None:
        for kind in ("unit", "target", "group"):
            for name in document.content.get(f"{kind}s", ()):
                self.places[f"{kind} {name}"] = Place(document.name, document.line_of((f"{kind}s", name)))

    def _note_places(self, document: Document, listed: str, what: str) -> None:
        """The last place of an id that stands twice is the one to tell of."""
        for at, entry in enumerate(document.content.get(listed, ())):
            self.places[what + entry["id"]] = Place(document.name, document.line_of((listed, at)))

    def _placed(self, fault: Fault) -> Fault:
        place = self.places.get(fault.about or "")
        return replace(fault, file=place.file, line=place.line) if place else fault


class _SeedTag(BaseModel):
    name: str
    parent: str | None = None


class _Vocabulary(BaseModel):
    tags: list[_SeedTag]


def tag_tree(folder: Path) -> dict[str, str | None]:
    """`{tag: parent}` of the vocabulary. Its files are no part of a revision; the registry reads all they say.

    Raises:
        PolicyInvalid: a file that cannot be read, or that holds no tags.
    """
    parents: dict[str, str | None] = {}
    for file in sorted((folder / "vocabulary").glob("*.yaml")):
        try:
            found = _Vocabulary.model_validate(yaml.safe_load(text_of(file)))  # with anchors, which rules may not have
        except (yaml.YAMLError, ValidationError) as error:
            raise PolicyInvalid(Fault(f"holds no task types: {error}", file=f"vocabulary/{file.name}")) from error
        for tag in found.tags:
            if tag.parent is not None and tag.parent not in parents:
                said = f"`{tag.name}` stands before its parent `{tag.parent}`, or the parent is not there"
                raise PolicyInvalid(Fault(said, file=f"vocabulary/{file.name}"))
            parents[tag.name] = tag.parent
    return parents
