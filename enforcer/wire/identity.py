"""Who calls, by what token; and the document that every refusal is."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from enforcer.runspec import Digest
from enforcer.wire.base import Answer, Name, Reason, Request


class Caller(Answer):
    """Who a credential says that you are, and what counts of it here."""

    id: str
    groups: list[str]
    groups_digest: Digest
    business_unit: str
    scopes: list[str]
    expires_at: datetime | None


class ApiTokenRequest(Request):
    """A token of one's own, never with more than the credential that asks. `scopes` are actions of the policy; `*` is
    all that the groups allow, and has to be said. Left out, `groups` and the end are those of the credential (30 days
    at most)."""

    scopes: list[Name] = Field(max_length=50)
    groups: list[Name] | None = Field(default=None, max_length=200)
    life_s: Annotated[int, Field(ge=60, le=90 * 86_400)] | None = None


class ApiToken(Answer):
    id: str
    actor: str
    groups: list[str]
    business_unit: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None


class ApiTokenMade(ApiToken):
    """`token` is shown once."""

    token: str


class ApiTokenList(Answer):
    items: list[ApiToken]


class AccessToken(Answer):
    """RFC 8693 section 2.2.1."""

    access_token: str
    issued_token_type: Literal["urn:ietf:params:oauth:token-type:access_token"]
    token_type: Literal["Bearer"]
    expires_in: int
    scope: str


class PrincipalChange(Request):
    reason: Reason


class Principal(Answer):
    """Somebody, and whether their credentials open anything."""

    id: str
    enabled: bool
    disabled_at: datetime | None
    disabled_by: str | None
    reason: str | None


class SignIn(Answer):
    """How `swift-submit auth login` asks one provider (RFC 8628)."""

    name: str
    issuer: str
    client_id: str
    scope: str
    resource: str | None


class ProtectedResource(Answer):
    """RFC 9728 metadata; `tagwarden_sign_in` is our own member (section 2 allows such)."""

    resource: str
    resource_name: str
    authorization_servers: list[str]
    bearer_methods_supported: list[str]
    scopes_supported: list[str]
    tagwarden_sign_in: list[SignIn]


class ProblemDocument(BaseModel):
    """RFC 9457 problem details. `code` is stable; further members depend on it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str
