"""`trust.json`: the keys of a registry as they are now, kept by somebody who will check runs later."""

import json
import os
from pathlib import Path
from typing import Any

from enforcer.chain import Trust
from enforcer.keys import DEV_PREFIX
from enforcer.problems import NotConfigured, OutputInvalid, RegistryUnreachable
from trainer.client import Registry


def gather(registry: Registry) -> Trust:
    """The issuer and its public keys by purpose, those that are over included: they signed what is verified later.

    Raises:
        RegistryUnreachable: no answer, or one without usable keys.
        NotConfigured: it signs with development keys, which nobody but this machine may trust.
    """
    sets = {"ticket": registry.keys(), "log": registry.log_keys(), "attestation": registry.attestation_keys()}
    document: dict[str, Any] = {"issuer": registry.settings.issuer}
    try:
        retired = _keys(registry.retired_keys())
        for purpose, jwks in sets.items():
            document[f"{purpose}_keys"] = _keys(jwks) + [key for key in retired if key.get("purpose") == purpose]
        found = Trust.read(json.dumps(document).encode())
    except (ValueError, KeyError, TypeError, NotConfigured) as error:
        raise RegistryUnreachable(
            f"`{registry.settings.server}` has no usable key sets: {error}", server=registry.settings.server
        ) from error
    held = [key for keys in (found.ticket_keys, found.log_keys, found.attestation_keys) for key in keys]
    if not found.on_loopback and any(key.kid.startswith(DEV_PREFIX) for key in held):
        raise NotConfigured(
            f"`{found.issuer}` signs with development keys (`{DEV_PREFIX}`), which only its own machine may trust",
            server=registry.settings.server,
        )
    return found


def write(trust: Trust, path: Path) -> None:
    """Write a trust file; others may read it, and nobody else may write it.

    Raises:
        OutputInvalid: it exists already, or cannot be written: what is trusted is never overwritten in passing.
    """
    text = json.dumps(trust.model_dump(mode="json", exclude_none=True), indent=1) + "\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise OutputInvalid(f"`{path}` cannot be written: {why}; a trust file is never overwritten") from error


def _keys(jwks: bytes) -> list[dict[str, Any]]:
    return [dict(key) for key in json.loads(jwks)["keys"]]
