"""An identity provider by hand: keys of our own behind a real socket, and every token that one could be sent."""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from enforcer.jws import b64url

AUDIENCE = "urn:tagwarden:registry"
Key = RSAKey | ECKey | OKPKey


@dataclass
class Provider:
    """`answers` may be changed to misbehave: path -> (status, headers, document); `asked` counts requests by path.
    `script` holds what POSTs are answered, one after the other; `posted` the forms that came."""

    key: Key = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "one", "use": "sig"}))
    answers: dict[str, tuple[int, dict[str, str], Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    script: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    posted: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                self.answer(*provider.answers.get(self.path, (404, {}, {})))

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                provider.posted.append(dict(parse_qsl(form)))
                status, document = provider.script.pop(0) if provider.script else (400, {"error": "script-ended"})
                self.answer(status, {}, document)

            def answer(self, status: int, headers: dict[str, str], document: Any) -> None:
                content = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.publish(self.key.as_dict(private=False))
        discovery = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        self.answers["/.well-known/openid-configuration"] = (200, {}, discovery)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def publish(self, *keys: Mapping[str, Any]) -> None:
        self.answers["/jwks"] = (200, {}, {"keys": list(keys)})

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What a good access token says; None takes a claim away."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "248289761001",
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 300,
            "jti": f"token-{time.monotonic_ns()}",
            "client_id": "swift-submit",
            "groups": ["trainers"],
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, header: Mapping[str, Any] | None = None, key: Key | None = None, **claims: Any) -> str:
        """An access token signed by `key`; `header` and `claims` say what differs from a good one."""
        key = key or self.key
        algorithm = {"EC": "ES256", "RSA": "RS256", "OKP": "Ed25519"}[key.key_type]
        members = {"alg": algorithm, "typ": "at+jwt", "kid": self.key.kid, **(header or {})}
        members = {name: value for name, value in members.items() if value is not None}
        content = json.dumps(self.claims(**claims)).encode()
        return str(jws.serialize_compact(members, content, key, algorithms=[members["alg"]]))


def unsigned(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"x" * 64) -> str:
    """A token that no library would write."""
    return ".".join(b64url(part) for part in (json.dumps(header).encode(), json.dumps(claims).encode(), signature))
