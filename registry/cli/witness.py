"""`tagwarden witness`: witness another registry's log."""

from pathlib import Path
from typing import Any

import click

from registry.cli.errors import in_words


@click.group()
def witness() -> None:
    """Witness another registry's log."""


@witness.command("serve")
@click.option("--name", required=True, help="The witness's name, like `witness.example/w1`.")
@click.option("--log", "logs", multiple=True, required=True, help="A log's verifier key (`tagwarden audit vkey`).")
@click.option("--key", "key_file", required=True, type=click.Path(path_type=Path), help="Key file; made when missing.")
@click.option("--state", required=True, type=click.Path(path_type=Path), help="File that remembers what was cosigned.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8711, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
def serve_witness(name: str, logs: tuple[str, ...], key_file: Path, state: Path, host: str, port: int) -> None:
    """Cosign a log's head after it was shown to continue the last one (C2SP tlog-witness)."""
    from enforcer.keys import SigningKey
    from enforcer.notes import ED25519, LogInvalid, NoteKey
    from registry import witness as witnessing

    def listen() -> Any:
        if not key_file.exists():
            SigningKey.generate().save(key_file)
        try:
            known = [NoteKey.parse(vkey) for vkey in logs]
            if any(key.kind != ED25519 for key in known):
                raise LogInvalid("`--log` takes a log's key (kind 01)")
            if len({key.name for key in known}) < len(known):
                raise LogInvalid("two of the logs have one name (on loopback all do); they need a witness each")
            seen = witnessing.Witness(name, SigningKey.load(key_file), {key.name: key for key in known}, state)
        except (LogInvalid, ValueError) as error:
            raise click.ClickException(str(error)) from error
        return seen, witnessing.server(seen, host, port)

    seen, server = in_words(listen)
    click.echo(f"witness {seen.key.vkey}")
    click.echo(f"listening on {host}:{server.server_address[1]}")
    server.serve_forever()
