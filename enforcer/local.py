"""What a registry and those who ask it on the same machine agree on: which addresses never leave the machine, and where
the local person's token lies. Neither room imports the other, so it stands here."""

import ipaddress
import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:  # brackets that hold no address
        return False


def token_file() -> Path:
    """Where the embedded default leaves the token of the person who started it (0600), and their client finds it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "tagwarden" if runtime else Path(tempfile.gettempdir()) / f"tagwarden-{os.getuid()}"
    return folder / "token"
