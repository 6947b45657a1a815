"""Who am I, tokens of one's own, the trade of a job's token, and who is let in no longer."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from enforcer import wire
from enforcer.policy.rules import ACTIONS
from enforcer.problems import NotPermitted
from registry import access, api_tokens, db, etags, exchange, principals, revocations
from registry.access import Matter, May, Permit, Public, SignedIn
from registry.books import TheBooks
from registry.etags import IfNoneMatch, MayMatch, MustMatch
from registry.idempotency import OneChange, ToldOnce
from registry.limits import FORM

router = APIRouter(tags=["identity"])
CACHE_S = 600
_FORM = {
    "type": "object",
    "required": ["grant_type", "subject_token", "subject_token_type"],
    "properties": {
        "grant_type": {"type": "string", "const": exchange.GRANT},
        "subject_token": {"type": "string"},
        "subject_token_type": {"type": "string", "enum": sorted(exchange.TAKEN)},
        "requested_token_type": {"type": "string", "const": exchange.ACCESS_TOKEN},
        "audience": {"type": "string"},
        "resource": {"type": "string"},
        "scope": {"type": "string", "description": "some of the trust rule's scopes; left out, all of them"},
    },
}


@router.get("/.well-known/oauth-protected-resource", operation_id="protectedResource", dependencies=[Public])
def protected_resource(books: TheBooks, response: Response) -> wire.ProtectedResource:
    """Where to sign in (RFC 9728): the issuers whose access tokens are taken, and the client to ask them as."""
    response.headers["Cache-Control"] = f"public, max-age={CACHE_S}"
    issuers = books.issuers.policy.issuers
    return wire.ProtectedResource(
        resource=books.settings.issuer,
        resource_name="tagwarden registry",
        authorization_servers=[issuer.issuer for issuer in issuers],
        bearer_methods_supported=["header"],
        scopes_supported=sorted(ACTIONS),
        tagwarden_sign_in=[
            wire.SignIn(name=issuer.name, issuer=issuer.issuer, **issuer.login.model_dump())
            for issuer in issuers
            if issuer.login is not None
        ],
    )


@router.get("/v1/me", operation_id="whoAmI")
def who_am_i(caller: SignedIn) -> wire.Caller:
    """Who the credential says that you are, and what counts of it here."""
    return wire.Caller.model_validate(caller)


async def _token_form(request: Request) -> dict[str, str]:
    return exchange.read_form(await request.body())


@router.post(
    "/v1/token",
    operation_id="exchangeToken",
    dependencies=[Public, ToldOnce],
    openapi_extra={"requestBody": {"required": True, "content": {FORM: {"schema": _FORM}}}},
)
def exchange_token(
    request: Request, form: Annotated[dict[str, str], Depends(_token_form)], books: TheBooks, response: Response
) -> wire.AccessToken:
    """Trade the token of a CI job or workload for a short access token (RFC 8693). The subject token is the credential.

    Refusals are problem documents that carry `error` and `error_description` of RFC 6749 section 5.2 as well.
    """
    response.headers["Cache-Control"] = "no-store"
    subject = exchange.subject_of(books, form)
    rule = exchange.rule_for(books, subject)
    # From here on it is somebody whom we know, so a refusal is on record.
    detail = {"trust_rule": rule.id}
    access.attempt(request, "token.exchange", exchange.actor_for(rule, subject), detail=detail)
    actor = exchange.actor_for(rule, subject, form.get("scope"))
    with books.writing() as session:
        return exchange.trade(session, rule, subject, actor, books, now=db.utc_now())


@router.get("/v1/tokens", operation_id="listTokens")
def list_tokens(caller: SignedIn, books: TheBooks) -> wire.ApiTokenList:
    """The caller's own API tokens; never their secrets."""
    with books.reading() as session:
        rows = api_tokens.of(session, caller)
        return wire.ApiTokenList(items=[wire.ApiToken.model_validate(row) for row in rows])


@router.post("/v1/tokens", status_code=201, operation_id="createToken", dependencies=[ToldOnce])
def create_token(
    request: Request, asked: wire.ApiTokenRequest, caller: SignedIn, books: TheBooks, response: Response
) -> wire.ApiTokenMade:
    """A token of one's own, with at most the groups, scopes and life of the credential that asks. Shown once."""
    access.attempt(request, "token.create", caller)
    response.headers["Cache-Control"] = "no-store"
    with books.writing() as session:
        return api_tokens.create(session, asked, caller, now=db.utc_now())


@router.delete("/v1/tokens/{token_id}", status_code=204, operation_id="revokeToken")
def revoke_token(request: Request, token_id: str, caller: SignedIn, books: TheBooks) -> None:
    """End one of the caller's own tokens at once."""
    access.attempt(request, "token.revoke", caller)
    with books.writing() as session:
        api_tokens.revoke(session, token_id, caller)


async def _whom(request: Request, principal_id: str) -> Matter:
    request.state.attempt.facts["detail"] = {"principal": principal_id[:200]}
    return Matter()


@router.get(
    "/v1/principals/{principal_id}",
    operation_id="getPrincipal",
    response_model=wire.Principal,
    dependencies=[Depends(May("deactivate", about=_whom))],
)
def get_principal(principal_id: str, books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """Whether somebody's credentials open anything; for those who may change it."""
    with books.reading() as session:
        return etags.answer(principals.get(session, principal_id), if_none_match)


@router.post("/v1/principals/{principal_id}:disable", operation_id="disablePrincipal", response_model=wire.Principal)
def disable_principal(
    principal_id: str,
    why: wire.PrincipalChange,
    admin: Annotated[Permit, Depends(May("deactivate", about=_whom))],
    change: OneChange,
    seen: MayMatch,
) -> Response:
    """Let none of somebody's credentials open anything, from the next request on. Their tickets are revoked, and their
    runs save a checkpoint and stop."""
    if principal_id == admin.actor.id:
        raise NotPermitted("nobody disables themselves: somebody else has to be able to undo it")
    with change.writing() as session:
        row = principals.disable(session, principal_id, admin.actor, why.reason, seen=seen, **admin.provenance)
        revocations.revoke_all_of(session, principal_id, admin.actor, why.reason, **admin.provenance)
        return change.answer(session, principals.on_the_wire(principal_id, row), tagged=True)


@router.post("/v1/principals/{principal_id}:enable", operation_id="enablePrincipal", response_model=wire.Principal)
def enable_principal(
    principal_id: str,
    why: wire.PrincipalChange,
    admin: Annotated[Permit, Depends(May("deactivate", about=_whom))],
    change: OneChange,
    seen: MustMatch,
) -> Response:
    """Let somebody in again, who was shut out as the caller saw it: another may have shut them out for another reason
    since."""
    with change.writing() as session:
        principals.enable(session, principal_id, admin.actor, why.reason, seen=seen, **admin.provenance)
        return change.answer(session, principals.on_the_wire(principal_id, None), tagged=True)
