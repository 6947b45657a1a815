"""Where a private key is: a file, an environment variable, or a device behind a plug-in.

A plug-in is an entry point of the group `tagwarden.signers`: a function that takes one text argument and returns an
`enforcer.keys.Signer`. `deploy/pkcs11/` is one, for hardware security modules.
"""

import base64
import binascii
import os
import re
from importlib.metadata import entry_points
from pathlib import Path

from enforcer import keys
from enforcer.keys import KeyUnusable, PublicKey, Signer, SigningKey
from enforcer.problems import Invalid

SIGNER_GROUP = "tagwarden.signers"
_FILE = re.compile(r"[A-Za-z0-9_-]{1,100}\.pem")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def open_source(source: str, alg: str, folder: Path) -> Signer:
    """The key behind `file:<name>.pem` (in `folder`), `env:<VARIABLE>` (base64 of PKCS#8) or
    `signer:<entry point>:<argument>`.

    Raises:
        Invalid: none of these.
        KeyUnusable: it cannot be trusted or read, or is not a key for `alg`.
    """
    kind, _, rest = source.partition(":")
    if kind == "file" and _FILE.fullmatch(rest):
        return SigningKey.load(folder / rest, alg)
    if kind == "env" and _VARIABLE.fullmatch(rest):
        return _from_environment(rest, alg)
    if kind == "signer" and rest:
        return _from_entry_point(*rest.partition(":")[::2], alg)
    raise Invalid(
        f"`{source[:80]}` is no source of a key; it is `file:NAME.pem` (in the registry's folder `keys`), "
        "`env:VARIABLE` or `signer:NAME:ARGUMENT`"
    )


def check(signer: Signer, source: str, public: PublicKey) -> None:
    """Have it sign once, before it is published: a key that cannot sign, or answers in another form, must not get a day
    to be found out in.

    Raises:
        KeyUnusable: it does not sign, or not as `public` verifies.
    """
    probe = b"tagwarden: this key can sign"
    try:
        holds = public.verify(probe, signer.sign(probe))
    except Exception as error:
        raise KeyUnusable(f"`{source}` does not sign: {error!r}"[:300]) from error
    if not holds:
        raise KeyUnusable(f"`{source}` signs, but not as its public key says; a signature is 64 raw bytes")


def _from_environment(variable: str, alg: str) -> Signer:
    # Taken out at once, so that neither a child process nor a dump of the environment shows it.
    value = os.environ.pop(variable, None)
    if value is None:
        raise KeyUnusable(f"the environment variable `{variable}` is not set; it holds a signing key, base64 of PKCS#8")
    try:
        return SigningKey.from_pkcs8(base64.b64decode(value, validate=True), alg)
    except (binascii.Error, ValueError) as error:
        why = "is not base64" if isinstance(error, binascii.Error) else str(error)
        raise KeyUnusable(f"the environment variable `{variable}` {why}") from None


def _from_entry_point(name: str, argument: str, alg: str) -> Signer:
    found = tuple(entry_points(group=SIGNER_GROUP, name=name))
    if len(found) != 1:
        how_many = "no package" if not found else "more than one package"
        raise KeyUnusable(f"{how_many} installed here offers the signer `{name[:80]}` (entry points `{SIGNER_GROUP}`)")
    try:
        signer: Signer = found[0].load()(argument)
        if signer.alg != alg and {signer.alg, alg} != {keys.ED25519, keys.EDDSA}:
            raise KeyUnusable(f"the signer `{name}` has a key for {signer.alg}, not for {alg}")
        keys.public_key(signer.public_jwk(), alg)
    except KeyUnusable:
        raise
    except Exception as error:  # somebody else's code, and a key that is away is no broken promise of ours
        raise KeyUnusable(f"the signer `{name}` cannot be used: {error!r}"[:300]) from error
    return signer
