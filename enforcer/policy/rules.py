"""Policy as people write it: YAML in `policies/`, read strictly, linted, and reduced to one digest.

    model.conf        the Casbin model
    directory.yaml    the business units, targets and groups that rules may name
    rules/<owner>.yaml

Raises `PolicyInvalid` on anything unknown: a misspelt key, group or effect would otherwise silently do nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from enforcer import canonical
from enforcer.policy.conditions import Conditions
from enforcer.runspec import digest

ACTIONS = frozenset({"submit", "cancel", "propose", "approve", "run-read", "audit-read", "audit-erase", "deactivate"})
MAX_DEPTH = 32
Document = TypeVar("Document", bound=BaseModel)


class PolicyInvalid(Exception):
    """The policy on disk cannot go live. The message names the file and what is wrong with it."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Who = Annotated[str, StringConstraints(pattern=r"^(user|service|ci|workload|group):[A-Za-z0-9@._/:~-]+$")]
RuleId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=80)]


class Rule(BaseModel):
    """One rule. Left out, `tag`, `unit` and `target` mean all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: RuleId
    effect: Literal["allow", "deny"]
    who: Who
    may: list[str] = Field(min_length=1)
    tag: Annotated[list[str], BeforeValidator(_as_list)] = Field(default_factory=lambda: ["any"], min_length=1)
    unit: Annotated[list[str], BeforeValidator(_as_list)] = Field(default_factory=lambda: ["all"], min_length=1)
    target: Annotated[list[str], BeforeValidator(_as_list)] = Field(default_factory=lambda: ["any"], min_length=1)
    when: Conditions = Field(default_factory=Conditions)
    reason: str = Field(min_length=1, max_length=300)


class _RuleFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    owner: str
    rules: list[Rule]


class Directory(BaseModel):
    """The names rules may use, each with what it belongs to, and the targets whose runs may redeem tickets offline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    units: dict[str, str | None]
    targets: dict[str, str | None]
    groups: dict[str, list[str]]
    offline: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class Policy:
    """One revision of the policy, linted. `revision` is the digest of model and rules."""

    model: str
    directory: Directory
    rules: tuple[Rule, ...]
    owners: Mapping[str, str]
    revision: str


def load(folder: Path) -> Policy:
    """Read and lint a policy folder.

    Raises:
        PolicyInvalid: a file is missing or malformed, or a rule speaks of something that does not exist.
    """
    model = _text(folder / "model.conf")
    directory = parse(Directory, folder / "directory.yaml")
    rules: list[Rule] = []
    owners: dict[str, str] = {}
    for file in sorted((folder / "rules").glob("*.yaml")):
        content = parse(_RuleFile, file)
        for rule in content.rules:
            if rule.id in owners:
                raise PolicyInvalid(f"{file.name}: rule id `{rule.id}` is used twice")
            _lint(rule, directory, file.name)
            owners[rule.id] = content.owner
            rules.append(rule)
        if content.owner not in directory.groups:
            raise PolicyInvalid(f"{file.name}: owner `{content.owner}` is not a group of directory.yaml")
    if not rules:
        raise PolicyInvalid(f"{folder / 'rules'} holds no rule; an empty policy is refused, not obeyed")
    for what, links in (("unit", directory.units), ("target", directory.targets)):
        _check_tree(what, {name: [parent] if parent else [] for name, parent in links.items()})
    _check_tree("group", directory.groups)
    if unknown := [target for target in directory.offline if target not in directory.targets]:
        raise PolicyInvalid(f"directory.yaml: `offline` names `{unknown[0]}`, which is not among the targets")
    return Policy(model, directory, tuple(rules), owners, _revision(model, directory, rules))


def _lint(rule: Rule, directory: Directory, file: str) -> None:
    unknown = [
        *(f"action `{act}`" for act in rule.may if act not in ACTIONS and act != "*"),
        *(f"unit `{unit}`" for unit in rule.unit if unit not in directory.units),
        *(f"target `{target}`" for target in rule.target if target not in directory.targets),
        *(f"tag `{tag}`" for tag in rule.tag if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", tag)),
    ]
    kind, _, name = rule.who.partition(":")
    if kind == "group" and name not in directory.groups:
        unknown.append(f"group `{name}`")
    if unknown:
        raise PolicyInvalid(f"{file}: rule `{rule.id}` speaks of unknown {', '.join(unknown)}")
    if rule.effect == "allow" and "*" in rule.may:
        raise PolicyInvalid(f"{file}: rule `{rule.id}` allows every action; name the actions")


def _check_tree(what: str, links: Mapping[str, list[str]]) -> None:
    """No unknown parents, no cycles, no towers: Casbin's stock role manager answers wrongly beyond ten levels."""
    for name in links:
        level, seen = [name], 0
        while level:
            seen += 1
            unknown = [parent for parent in level if parent not in links]
            if unknown:
                raise PolicyInvalid(f"directory.yaml: {what} `{name}` belongs to `{unknown[0]}`, which is not listed")
            if seen > MAX_DEPTH:
                raise PolicyInvalid(f"directory.yaml: {what} `{name}` stands in a cycle or more than {MAX_DEPTH} deep")
            level = [parent for child in level for parent in links[child]]


def _revision(model: str, directory: Directory, rules: list[Rule]) -> str:
    document: dict[str, Any] = {
        "model": model,
        "directory": directory.model_dump(mode="json"),
        "rules": [rule.model_dump(mode="json") for rule in rules],
    }
    return digest(canonical.dumps(document))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyInvalid(f"{file} cannot be read: {error}") from error


def parse(kind: type[Document], file: Path) -> Document:
    """A YAML file as this model. Raises PolicyInvalid."""
    try:
        return kind.model_validate(yaml.safe_load(_text(file)))
    except (yaml.YAMLError, ValidationError) as error:
        raise PolicyInvalid(f"{file.name}: {error}") from error
