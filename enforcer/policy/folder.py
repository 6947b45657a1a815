"""The policy folder: YAML as people write it, read strictly.

    model.conf           the Casbin model
    directory.yaml       the business units, targets and groups that rules may name
    rules/<owner>.yaml   the rules, by who answers for them
    exceptions.yaml      exceptions with an end, where there are any
    quotas.yaml          quotas, where there are any

A misspelt key, group or effect would silently do nothing, so anything unknown refuses the whole revision.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enforcer.policy.exceptions import PolicyException
from enforcer.policy.quotas import Quota
from enforcer.policy.revision import Policy
from enforcer.policy.rules import Directory, PolicyInvalid, Rule

Document = TypeVar("Document", bound=BaseModel)


class _RuleFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    owner: str
    rules: list[Rule]


class _ExceptionFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    exceptions: list[PolicyException] = Field(default_factory=list)


class _QuotaFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    quotas: list[Quota] = Field(default_factory=list)


def load(folder: Path) -> Policy:
    """Read a policy folder.

    Raises:
        PolicyInvalid: a file is missing or malformed, or a rule speaks of something that does not exist.
    """
    return read(files_of(folder))


def files_of(folder: Path) -> dict[str, str]:
    """The texts a revision is made of, by their names in the folder. Raises PolicyInvalid."""
    there = [folder / "model.conf", folder / "directory.yaml", *sorted((folder / "rules").glob("*.yaml"))]
    there += [file for file in (folder / "exceptions.yaml", folder / "quotas.yaml") if file.exists()]
    return {file.relative_to(folder).as_posix(): text(file) for file in there}


def read(files: Mapping[str, str]) -> Policy:
    """The revision that these files say, whoever sent them. Raises PolicyInvalid."""
    for name in ("model.conf", "directory.yaml"):
        if name not in files:
            raise PolicyInvalid(f"`{name}` is missing")
    rules: list[Rule] = []
    owners: dict[str, str] = {}
    for name in sorted(files):
        if name.startswith("rules/"):
            content = parsed(_RuleFile, files[name], name)
            rules += content.rules
            owners |= dict.fromkeys((rule.id for rule in content.rules), content.owner)
    exceptions = parsed(_ExceptionFile, files.get("exceptions.yaml", "{}"), "exceptions.yaml").exceptions
    quotas = parsed(_QuotaFile, files.get("quotas.yaml", "{}"), "quotas.yaml").quotas
    directory = parsed(Directory, files["directory.yaml"], "directory.yaml")
    return Policy.of(files["model.conf"], directory, rules, owners=owners, exceptions=exceptions, quotas=quotas)


def text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyInvalid(f"{file} cannot be read: {error}") from error


def parsed(kind: type[Document], content: str, name: str) -> Document:
    """YAML as this model. Raises PolicyInvalid."""
    try:
        return kind.model_validate(yaml.safe_load(content))
    except (yaml.YAMLError, ValidationError) as error:
        raise PolicyInvalid(f"{name}: {error}") from error


def parse(kind: type[Document], file: Path) -> Document:
    """A YAML file as this model. Raises PolicyInvalid."""
    return parsed(kind, text(file), file.name)
