"""`swift-submit ticket`: look at a permit, check it without a registry, take it back."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainer.cli.flags import Group
from trainer.cli.session import current

if TYPE_CHECKING:
    from trainer.layout import RunFolder

PLACE = click.argument("place", metavar="RUN_DIR_OR_FILE", type=click.Path(exists=True))


@click.group(cls=Group)
def ticket() -> None:
    """Run tickets: show, verify offline, revoke."""


@ticket.command()
@PLACE
def show(place: str) -> None:
    """What a ticket says. Nothing is checked: see `ticket verify`."""
    from enforcer.tickets import unverified_claims

    claims = unverified_claims(_token(_file(place)))
    lines = ["not verified:", *_lines(claims)]
    current().output.result({"verified": False, "claims": claims}, lines, brief=[str(claims.get("jti"))])


@ticket.command()
@PLACE
@click.option(
    "--jwks", type=click.Path(exists=True, dir_okay=False), help="Keys you trust; else those of the run folder."
)
@click.option("--audience", metavar="URN", help="Who the ticket must be for (this machine).")
@click.option("--at-issue", is_flag=True, help="Judge its times as of when it was issued, not as of now.")
@click.option("--revoked", type=click.Path(exists=True, dir_okay=False), help="A copy of /.well-known/revoked.json.")
def verify(place: str, jwks: str | None, audience: str | None, at_issue: bool, revoked: str | None) -> None:
    """Check a ticket offline against the run-spec.json beside it. Exits 0 when every step holds, else 8."""
    import time

    from enforcer import revoked as lists, tickets
    from enforcer.keys import KeySet, KeyUnusable
    from enforcer.problems import TicketInvalid
    from trainer.settings import local_audience

    session, folder = current(), _folder(place)
    token = _token(_file(place))
    issued = tickets.unverified_claims(token).get("iat")
    try:
        keys = KeySet.load(Path(jwks) if jwks else folder.jwks)
        specification = folder.run_spec.read_bytes()
    except (OSError, KeyUnusable) as error:
        raise TicketInvalid(f"`{place}` holds no complete permit: {error}") from error
    verified = tickets.verify(
        token,
        specification,
        keys,
        issuer=session.settings.issuer,
        audience=audience or local_audience(),
        allow_dev=session.settings.on_loopback,
        revoked=lists.read_file(Path(revoked), keys, issuer=session.settings.issuer) if revoked else (),
        now=(lambda: float(issued)) if at_issue and isinstance(issued, int) else time.time,
    )
    claims = verified.claims.model_dump()
    lines = ["verified: form, key, signature, issuer, audience, time, run-spec.json", *_lines(claims)]
    if jwks is None:
        session.output.talk("the keys are those of the run folder; pin your own with --jwks")
    session.output.result({"verified": True, "claims": claims}, lines, brief=[verified.claims.jti])


@ticket.command()
@click.argument("place", metavar="JTI_OR_RUN_DIR")
@click.option("--reason", required=True, help="Why; it is on record, and the run is told.")
def revoke(place: str, reason: str) -> None:
    """Take a ticket back: yours, or where you may cancel. A run that trains saves a checkpoint and stops."""
    from enforcer.tickets import unverified_claims

    session = current()
    jti = str(unverified_claims(_token(_file(place)))["jti"]) if Path(place).exists() else place
    with session.registry() as registry:
        status = registry.revoke(jti, reason)
    effect = "its run is told to stop" if status.redeemed_at else "nobody can redeem it"
    session.output.result(status.model_dump(mode="json"), [f"{status.jti}  revoked; {effect}"], brief=[status.jti])


def _folder(place: str) -> "RunFolder":
    from trainer.layout import RunFolder

    return RunFolder(Path(place) if Path(place).is_dir() else Path(place).parent)


def _file(place: str) -> Path:
    return _folder(place).ticket if Path(place).is_dir() else Path(place)


def _token(path: Path) -> str:
    from enforcer.problems import TicketInvalid

    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise TicketInvalid(f"`{path}` cannot be read as a ticket") from None


def _lines(claims: dict[str, Any]) -> list[str]:
    from trainer.cli.output import table

    def said(name: str) -> Any:
        value = claims.get(name)
        if name in ("iat", "nbf", "exp") and isinstance(value, int) and 0 <= value < 2**36:
            return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return value

    return [f"  {line}" for line in table(("claim", "value"), [(name, said(name)) for name in claims])]
