"""`tagwarden openapi`: the document of the API."""

from pathlib import Path

import click


@click.command()
@click.option("--check", type=click.Path(path_type=Path), help="Compare with this file instead of printing.")
def openapi(check: Path | None) -> None:
    """Print the OpenAPI document."""
    from registry.server import openapi_json

    written = openapi_json()
    if check is None:
        click.echo(written, nl=False)
    elif not check.exists() or check.read_text(encoding="utf-8") != written:
        raise click.ClickException(f"{check} differs from the app; run `make openapi`")
