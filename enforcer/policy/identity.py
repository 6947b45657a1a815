"""Whom the registry believes, as people write it: `policies/identity.yaml`, read strictly and linted.

    issuers       identity providers whose access tokens are taken as they are (people, and services of their own)
    trust_rules   what a job's or workload's own token is traded for (RFC 8693), on claims that cannot be re-used

Without the file nobody outside is believed. Raises `PolicyInvalid`, as `rules.py` does.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import rfc8785
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from enforcer.policy.documents import parse
from enforcer.policy.rules import ACTIONS, Directory, PolicyInvalid
from enforcer.runspec import digest

MAX_TTL_S = 900
ANY_SCOPE = "*"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")
_SERVICE_ACCOUNT = "system:serviceaccount:"
# Names that somebody else can take after a repository, project or owner was renamed or deleted; and the ids beside them
# that nobody can.
_GITHUB = {"repository": "repository_id", "repository_owner": "repository_owner_id"}
_GITLAB = {"project_path": "project_id", "namespace_path": "namespace_id"}
_OF_GITHUB = {*_GITHUB, *_GITHUB.values(), "job_workflow_ref", "workflow_ref", "job_workflow_sha", "environment"}


def _https(url: str) -> str:
    """An issuer is compared as text, so it is written exactly as it stands in `iss`."""
    parts = urlsplit(url)
    plain = parts.scheme == "http" and parts.hostname in LOOPBACK
    if not (parts.scheme == "https" or plain) or not parts.hostname or parts.query or parts.fragment or "@" in url:
        raise ValueError("an issuer is an https:// URL (http:// only on loopback) without query, fragment, credentials")
    return url


Url = Annotated[str, StringConstraints(max_length=300), AfterValidator(_https)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=48)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=300)]
Leaf = Annotated[str, Field(strict=True)] | Annotated[bool, Field(strict=True)] | Annotated[int, Field(strict=True)]
Wanted = dict[str, Leaf | dict[str, Leaf | dict[str, Leaf]]]  # `kubernetes.io: {serviceaccount: {uid: ...}}`


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Groups(_Written):
    """Where the groups stand. `names` translates a provider's own ids; what `directory.yaml` does not know counts not.

    `required`: a token without the claim is refused, for providers that leave it out when there are too many groups.
    """

    claim: Text = "groups"
    required: bool = True
    names: dict[str, str] = Field(default_factory=dict)


class UnitClaim(_Written):
    """The business unit stands in this claim; `names` translates a provider's own words."""

    claim: Text
    names: dict[str, str] = Field(default_factory=dict)


class Login(_Written):
    """How `swift-submit auth login` asks this provider: a public client with the device flow (RFC 8628)."""

    client_id: Text
    scope: Text = "openid offline_access"
    resource: Text | None = None


class Issuer(_Written):
    """One identity provider. `name` becomes part of its people's ids and so never changes.

    `typ` is `at+jwt` (RFC 9068), which no ID token has. A provider that cannot write it may be taken with `JWT`: then
    its ID tokens are told apart by `audience`, which must not be a client's id.
    """

    name: Slug
    issuer: Url
    audience: Text
    typ: Literal["at+jwt", "JWT"] = "at+jwt"
    groups: Groups = Groups()
    business_unit: str | UnitClaim
    login: Login | None = None

    @model_validator(mode="after")
    def not_a_client(self) -> Self:
        if self.typ == "JWT" and (self.login is None or self.login.client_id == self.audience):
            raise ValueError(
                "`typ: JWT` needs `login.client_id`, and an `audience` that differs from it: an ID token must not pass"
            )
        return self


class TrustRule(_Written):
    """What a token of `issuer` must say, and what its bearer may be here. Its id is the principal: `ci:<id>`.

    `single_use: false` is for tokens that a workload keeps in a file for an hour; a job's token is traded once.
    """

    id: Slug
    kind: Literal["ci", "workload"]
    issuer: Url
    audience: Text
    claims: Wanted = Field(min_length=1)
    business_unit: str
    groups: list[str]
    scopes: list[str] = Field(min_length=1)
    ttl_s: int = Field(default=600, ge=60, le=MAX_TTL_S)
    single_use: bool = True

    @property
    def principal(self) -> str:
        return f"{self.kind}:{self.id}"

    def first_mismatch(self, claims: Mapping[str, Any]) -> str | None:
        """The first claim that is not as the rule wants it; None when all are."""
        return next(_mismatches(self.claims, claims), None)

    @model_validator(mode="after")
    def on_what_nobody_can_take_over(self) -> Self:
        wanted = set(self.claims)
        for names in (_GITHUB, _GITLAB):
            for name, id_ in names.items():
                if name in wanted and id_ not in wanted:
                    raise ValueError(f"`{name}` can be re-used by somebody else once it is free; pin `{id_}` as well")
        if self._speaks_of_github:
            if not {"repository_id", "repository_owner_id"} <= wanted:
                raise ValueError("a GitHub rule pins `repository_id` and `repository_owner_id`; names can be re-used")
            if not wanted & {"job_workflow_ref", "environment"}:
                raise ValueError("a GitHub rule pins `job_workflow_ref` or `environment`; any workflow would do else")
        elif self._speaks_of_kubernetes:
            cluster = self.claims.get("kubernetes.io")
            account = cluster.get("serviceaccount") if isinstance(cluster, dict) else None
            if "sub" not in wanted or not (isinstance(account, dict) and "uid" in account):
                raise ValueError(
                    "a Kubernetes rule pins `sub` and `kubernetes.io: {serviceaccount: {uid: ...}}`; names are re-used"
                )
        elif "sub" not in wanted and "project_id" not in wanted:
            raise ValueError(
                "it pins neither `sub` nor an id of its issuer, so anybody with a token of that issuer fits"
            )
        if self.kind == "ci" and not self.single_use:
            raise ValueError("a CI job's token is traded once: `single_use: false` is for workloads")
        return self

    @property
    def _speaks_of_github(self) -> bool:
        host = urlsplit(self.issuer).hostname or ""
        return host == "token.actions.githubusercontent.com" or bool(set(self.claims) & (_OF_GITHUB - {"environment"}))

    @property
    def _speaks_of_kubernetes(self) -> bool:
        return "kubernetes.io" in self.claims or str(self.claims.get("sub", "")).startswith(_SERVICE_ACCOUNT)


class _File(_Written):
    issuers: list[Issuer] = Field(default_factory=list)
    trust_rules: list[TrustRule] = Field(default_factory=list)


@dataclass(frozen=True)
class IdentityPolicy:
    """Whom we believe, linted. `revision` is the digest of the file's meaning."""

    issuers: tuple[Issuer, ...] = ()
    trust_rules: tuple[TrustRule, ...] = ()
    revision: str = digest(b"[]")

    @cached_property
    def by_issuer(self) -> dict[str, Issuer]:
        return {issuer.issuer: issuer for issuer in self.issuers}

    @cached_property
    def rules_by_id(self) -> dict[str, TrustRule]:
        return {rule.id: rule for rule in self.trust_rules}

    @cached_property
    def known_issuers(self) -> frozenset[str]:
        return frozenset(self.by_issuer) | {rule.issuer for rule in self.trust_rules}


def load(file: Path, directory: Directory) -> IdentityPolicy:
    """Read and lint.

    Raises:
        PolicyInvalid: it is missing or malformed, or speaks of what `directory.yaml` does not know.
    """
    written = parse(_File, file)
    _refuse_doubles(file.name, "issuer name", [issuer.name for issuer in written.issuers])
    _refuse_doubles(file.name, "issuer", [issuer.issuer for issuer in written.issuers])
    _refuse_doubles(file.name, "trust rule id", [rule.id for rule in written.trust_rules])
    for issuer in written.issuers:
        _lint(file.name, f"issuer `{issuer.name}`", directory, _groups_of(issuer), _units_of(issuer), ())
    for rule in written.trust_rules:
        _lint(file.name, f"trust rule `{rule.id}`", directory, rule.groups, [rule.business_unit], rule.scopes)
    revision = digest(rfc8785.dumps(written.model_dump(mode="json")))
    return IdentityPolicy(tuple(written.issuers), tuple(written.trust_rules), revision)


def _groups_of(issuer: Issuer) -> list[str]:
    return list(issuer.groups.names.values())


def _units_of(issuer: Issuer) -> list[str]:
    unit = issuer.business_unit
    return [unit] if isinstance(unit, str) else list(unit.names.values())


def _lint(file: str, what: str, directory: Directory, groups: Any, units: Any, scopes: Any) -> None:
    unknown = [
        *(f"group `{group}`" for group in groups if group not in directory.groups),
        *(f"unit `{unit}`" for unit in units if unit not in directory.units),
        *(f"scope `{scope}`" for scope in scopes if scope not in ACTIONS),
    ]
    if unknown:
        raise PolicyInvalid(f"{file}: {what} speaks of unknown {', '.join(unknown)}")


def _refuse_doubles(file: str, what: str, names: list[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise PolicyInvalid(f"{file}: {what} `{min(twice)}` stands twice")


def _mismatches(wanted: Mapping[str, Any], found: Any, path: str = "") -> Iterator[str]:
    for name, value in wanted.items():
        there = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(value, Mapping):
            yield from _mismatches(value, there, f"{path}{name}.")
        elif type(there) is not type(value) or there != value:  # `1` is neither `True` nor `"1"`
            yield f"{path}{name}"


def safe_subject(subject: str) -> str:
    """A provider's `sub` as part of a principal id: itself where it is plain, else `~` and a digest.

    `~` is not in the plain alphabet, so nobody can choose a `sub` that looks like somebody else's digest.
    """
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", subject)
    return subject if plain else "~" + digest(subject.encode("utf-8", "surrogatepass")).partition(":")[2][:32]
