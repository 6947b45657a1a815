"""A signing key in a hardware security module: the plug-in `pkcs11` of a tagwarden registry.

The source of a key is `signer:pkcs11:TOKEN/KEY`: the label of a token, and the label of a key pair on it. Where the
module's library is and what opens the token comes from the environment: TAGWARDEN_PKCS11_MODULE, a path, and
TAGWARDEN_PKCS11_PIN_FILE, a file that holds the PIN (a PIN in an environment or in an argument shows in `ps` and logs).
"""

import base64
import hashlib
import os
import threading
from pathlib import Path

import pkcs11
from pkcs11.exceptions import PKCS11Error

_MECHANISMS = {"Ed25519": pkcs11.Mechanism.EDDSA, "ES256": pkcs11.Mechanism.ECDSA}


class HsmKey:
    """One key pair. The private half never leaves the module; one signature at a time, as sessions are not shared.

    Satisfies `enforcer.keys.Signer`. `kid` is the label; the registry gives the key an id of its own.
    """

    def __init__(self, token: str, label: str) -> None:
        self.kid, self._token = label, token
        self._lock = threading.Lock()
        self._open()
        public = self._find(pkcs11.ObjectClass.PUBLIC_KEY)
        # EC_POINT is a DER OCTET STRING (PKCS#11 2.40, 2.3.3): tag, length, then the point.
        point = bytes(public[pkcs11.Attribute.EC_POINT])[2:]
        if public.key_type == pkcs11.KeyType.EC_EDWARDS and len(point) == 32:
            self.alg, coordinates = "Ed25519", {"kty": "OKP", "crv": "Ed25519", "x": point}
        elif public.key_type == pkcs11.KeyType.EC and len(point) == 65:
            self.alg, coordinates = "ES256", {"kty": "EC", "crv": "P-256", "x": point[1:33], "y": point[33:]}
        else:
            raise ValueError(f"`{label}` is neither an Ed25519 nor a P-256 key")
        self._jwk = {name: _b64url(part) if isinstance(part, bytes) else part for name, part in coordinates.items()}

    def public_jwk(self) -> dict[str, str]:
        return {**self._jwk, "kid": self.kid, "alg": self.alg, "use": "sig"}

    def sign(self, content: bytes) -> bytes:
        # ECDSA signs a digest and answers r || s, which is what JOSE wants; Ed25519 signs the content itself.
        content = hashlib.sha256(content).digest() if self.alg == "ES256" else content
        with self._lock:
            try:
                return bytes(self._key.sign(content, mechanism=_MECHANISMS[self.alg]))
            except PKCS11Error:
                self._open()  # the session may be gone: a module that was restarted, a card that was put back
                return bytes(self._key.sign(content, mechanism=_MECHANISMS[self.alg]))

    def _open(self) -> None:
        library = pkcs11.lib(os.environ["TAGWARDEN_PKCS11_MODULE"])
        pin = Path(os.environ["TAGWARDEN_PKCS11_PIN_FILE"]).read_text("utf-8").strip()
        self._session = library.get_token(token_label=self._token).open(user_pin=pin)
        self._key = self._find(pkcs11.ObjectClass.PRIVATE_KEY)

    def _find(self, kind: pkcs11.ObjectClass):  # type: ignore[no-untyped-def]
        return self._session.get_key(object_class=kind, label=self.kid)


def open_key(argument: str) -> HsmKey:
    """The key behind `TOKEN/KEY`."""
    token, _, label = argument.partition("/")
    return HsmKey(token, label)


def _b64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
