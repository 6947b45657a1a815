"""Tokens of other issuers: whose keys, which checks, in which order. The one module here that speaks HTTP to others.

Keys come from the issuer's discovery document (OpenID Connect Discovery 1.0 section 4) and are kept:
- for ten minutes, and used for a day longer when the issuer does not answer;
- a key id that is not among them makes us ask again, at most every 30 s: a flood of invented ids costs one request;
- one request at a time for each issuer; whoever finds usable keys does not wait for it.
A set that holds a private key is refused whole: whoever can read it can sign.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
from joserfc import jws as joserfc_jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enforcer import jws
from enforcer.policy.identity import LOOPBACK, IdentityPolicy, Issuer
from enforcer.problems import Unauthenticated, Unavailable

log = logging.getLogger(__name__)

TTL_S = 600.0
COOLDOWN_S = 30.0
STALE_S = 24 * 3600.0
TIMEOUT_S = 5.0
WAIT_S = 3 * TIMEOUT_S  # discovery and keys, and some
MAX_DOCUMENT_BYTES = 512 * 1024
LEEWAY_S = 30
MIN_RSA_BITS = 2048
Fetch = Callable[[str], Any]
Clock = Callable[[], float]

# The algorithm is the key's (RFC 8725 section 3.1): its `alg`, or else the one sound choice of its type. RFC 9864 has a
# second name for EdDSA on Ed25519.
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_ED25519 = ("EdDSA", "Ed25519")
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
# What only ID tokens carry (OpenID Connect Core sections 2 and 3.1.3.6).
_OF_ID_TOKENS = frozenset({"nonce", "at_hash", "c_hash"})


class IssuerUnusable(Exception):
    """The issuer does not answer, or not with what can be trusted."""


class _Claims(BaseModel):
    """The claims that every token needs; the others are read where they are wanted."""

    model_config = ConfigDict(strict=True)

    iss: str
    sub: str = Field(min_length=1, max_length=1_000)
    aud: str | list[str]
    exp: int
    iat: int
    nbf: int | None = None


@dataclass(frozen=True)
class VerifiedToken:
    """A token that passed every check of `Issuers.access_token` or `Issuers.subject_token`."""

    issuer: str
    subject: str
    expires_at: int
    claims: Mapping[str, Any]


@dataclass(frozen=True)
class _Key:
    key: RSAKey | ECKey | OKPKey
    algorithms: tuple[str, ...]


class Issuers:
    """The issuers that `identity.yaml` names, each with the keys it has now."""

    def __init__(self, policy: IdentityPolicy, *, fetch: Fetch | None = None, now: Clock = time.time) -> None:
        self.policy = policy
        self._now = now
        self._keys = {issuer: _Keys(issuer, fetch or _fetch, now) for issuer in policy.known_issuers}

    def access_token(self, token: str) -> tuple[Issuer, VerifiedToken]:
        """Check an access token of a configured issuer (RFC 9068 section 4).

        Raises:
            Unauthenticated: with the first check that failed.
            Unavailable: the issuer cannot be asked for its keys.
        """
        header, claims = self._unverified(token)
        issuer = self.policy.by_issuer.get(claims.iss)
        if issuer is None:
            raise Unauthenticated(f"`{claims.iss[:200]}` is no issuer whose access tokens are taken here")
        # An ID token says who somebody is to a client. It is no key to this API.
        if _media_type(header) != issuer.typ.lower():
            raise Unauthenticated(f"this token is refused: its `typ` is not `{issuer.typ}`; send the access token")
        verified = self._verified(token, header, claims, {issuer.audience})
        if issuer.typ == "JWT" and _OF_ID_TOKENS & set(verified.claims):
            raise Unauthenticated("this token is refused: it is an ID token; send the access token")
        return issuer, verified

    def subject_token(self, token: str) -> VerifiedToken:
        """Check a token that is to be traded, for any audience that a trust rule of its issuer names. Other jobs' and
        workloads' issuers write `typ: JWT` or none; one of our own kinds is never taken for theirs.

        Raises: as `access_token`.
        """
        header, claims = self._unverified(token)
        audiences = {rule.audience for rule in self.policy.trust_rules if rule.issuer == claims.iss}
        if not audiences:
            raise Unauthenticated(f"`{claims.iss[:200]}` is the issuer of no trust rule")
        if _media_type(header) not in ("jwt", ""):
            raise Unauthenticated("this token is refused: its `typ` is not `JWT`")
        return self._verified(token, header, claims, audiences)

    def _unverified(self, token: str) -> tuple[dict[str, Any], _Claims]:
        try:
            header, payload = jws.read_foreign(token)
            return header, _Claims.model_validate(payload)
        except jws.Malformed as error:
            raise Unauthenticated(f"this token is refused: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"][:1]))
            raise Unauthenticated(f"this token is refused: claim `{where}`: {first['msg'].lower()}") from error

    def _verified(self, token: str, header: dict[str, Any], claims: _Claims, audiences: set[str]) -> VerifiedToken:
        keys = self._keys[claims.iss]
        try:
            key = keys.get(header["kid"])
        except IssuerUnusable as error:
            log.warning("issuer %s: %s", claims.iss, error)
            raise Unavailable(f"the issuer `{claims.iss}` cannot be asked for its keys now; try again") from error
        if key is None:
            raise Unauthenticated("this token is refused: it is signed with a key that its issuer does not show")
        if header["alg"] not in key.algorithms:
            raise Unauthenticated("this token is refused: its `alg` is not the key's")
        try:
            verified = joserfc_jws.deserialize_compact(token, key.key, algorithms=[header["alg"]])
        except (JoseError, ValueError):
            raise Unauthenticated("this token is refused: its signature does not hold") from None
        payload: dict[str, Any] = json.loads(verified.payload)
        if not audiences & ({claims.aud} if isinstance(claims.aud, str) else set(claims.aud)):
            raise Unauthenticated("this token is refused: it is for another audience than this registry")
        now = self._now()
        if now > claims.exp + LEEWAY_S:
            raise Unauthenticated("this token has expired; sign in again (`swift-submit auth login`)")
        if max(claims.nbf or 0, claims.iat) > now + LEEWAY_S:
            raise Unauthenticated("this token is refused: it is not valid yet; are the clocks right?")
        return VerifiedToken(claims.iss, claims.sub, claims.exp, payload)


@dataclass
class _Keys:
    """The keys of one issuer, as last seen."""

    issuer: str
    fetch: Fetch
    now: Clock
    keys: dict[str, _Key] = field(default_factory=dict)
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, kid: str) -> _Key | None:
        """The key with this id; None when the issuer does not show it.

        Raises:
            IssuerUnusable: there are no keys that could still be trusted.
        """
        if kid not in self.keys or self._age() > TTL_S:
            self._refresh(wait=kid not in self.keys)
        if self._age() > STALE_S:
            raise IssuerUnusable("its keys were not to be had for a day")
        return self.keys.get(kid)

    def _age(self) -> float:
        return self.now() - self.fetched_at

    def _refresh(self, *, wait: bool) -> None:
        # Whoever has no usable key waits for a request that is under way; it tells of the key, or of none.
        if not self.lock.acquire(timeout=WAIT_S if wait else 0):
            return
        try:
            if self._tried_lately():
                return
            self.tried_at = self.now()
            self.keys = self._fetched()
            self.fetched_at = self.now()
        except IssuerUnusable as error:
            log.warning("the keys of %s are not renewed: %s", self.issuer, error)
        finally:
            self.lock.release()

    def _tried_lately(self) -> bool:
        return 0 <= self.now() - self.tried_at < COOLDOWN_S

    def _fetched(self) -> dict[str, _Key]:
        document = self.fetch(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if not isinstance(document, dict) or document.get("issuer") != self.issuer:
            raise IssuerUnusable("its discovery document names another issuer")
        uri = document.get("jwks_uri")
        if not isinstance(uri, str):
            raise IssuerUnusable("its discovery document names no `jwks_uri`")
        return _usable_keys(self.fetch(uri))


def _usable_keys(jwks: Any) -> dict[str, _Key]:
    """The signing keys of a JWKS by id. Keys for other uses and of unknown types are left aside, and so is an id that
    stands twice."""
    members = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(members, list):
        raise IssuerUnusable("its JWKS has no `keys`")
    found: dict[str, _Key] = {}
    twice: set[str] = set()
    for jwk in members:
        if not isinstance(jwk, dict):
            continue
        if _PRIVATE & set(jwk):
            raise IssuerUnusable("its JWKS holds a private or symmetric key")
        kid = jwk.get("kid")
        if jwk.get("use") != "sig" or not isinstance(kid, str):
            continue
        if kid in found:
            twice.add(kid)
        if (key := _usable_key(jwk)) is not None:
            found[kid] = key
    return {kid: key for kid, key in found.items() if kid not in twice}


def _usable_key(jwk: dict[str, Any]) -> _Key | None:
    said = jwk.get("alg")
    try:
        match jwk.get("kty"):
            case "RSA":
                rsa = RSAKey.import_key(jwk)
                if rsa.public_key.key_size < MIN_RSA_BITS or said not in (None, *_RSA):
                    return None
                return _Key(rsa, (said or "RS256",))
            case "EC":
                sound = _CURVES.get(str(jwk.get("crv")))
                return _Key(ECKey.import_key(jwk), (sound,)) if sound and said in (None, sound) else None
            case "OKP" if jwk.get("crv") == "Ed25519" and said in (None, *_ED25519):
                return _Key(OKPKey.import_key(jwk), (said,) if said else _ED25519)
    except (JoseError, ValueError, TypeError):
        return None
    return None


def _media_type(header: Mapping[str, Any]) -> str:
    """`typ` without its optional prefix, in lower case (RFC 7515 section 4.1.9)."""
    return str(header.get("typ", "")).lower().removeprefix("application/")


def _fetch(url: str) -> Any:
    """A JSON document of an issuer. No redirects, no plain HTTP beyond loopback, no more than half a megabyte.

    Raises:
        IssuerUnusable.
    """
    parts = urlsplit(url)
    local = parts.hostname in LOOPBACK
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise IssuerUnusable(f"`{url[:200]}` is not https")
    try:
        with (
            httpx2.Client(follow_redirects=False, timeout=TIMEOUT_S, trust_env=not local) as client,
            client.stream("GET", url, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise IssuerUnusable(f"`{url[:200]}` answered {answer.status_code}")
            content = b""
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > MAX_DOCUMENT_BYTES:
                    raise IssuerUnusable(f"`{url[:200]}` is larger than {MAX_DOCUMENT_BYTES} bytes")
        return json.loads(content)
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, RecursionError) as error:
        raise IssuerUnusable(f"`{url[:200]}` cannot be read: {type(error).__name__}") from error
