"""Redeem a ticket where no registry answers: once on this host, or once on this cluster, and on record for later.

The replay cache is a folder with one empty file for each ticket that was used, made by `O_CREAT | O_EXCL`. It stands
for the registry's books and knows less: two hosts that share no cache both take a copy of a permit. The record that
each of them signs gives that away when it is uploaded.

A clock that is set back after a file was swept makes an old ticket look fresh: keep clocks right where this is used.
"""

import json
import os
import re
import stat
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from enforcer import records, wire
from enforcer.keys import SigningKey
from enforcer.problems import OutputInvalid, TicketInvalid, TicketUsed
from enforcer.runspec import canonical_bytes, digest
from enforcer.tickets import LEEWAY_S, Clock, VerifiedTicket, unverified_claims
from trainer.layout import RunFolder, write_private
from trainer.settings import Settings, host_id, replay_folder

STEP = 14
_USED = re.compile(r"(?P<exp>[0-9]{1,12})\.[0-9a-f-]{36}")


@dataclass(frozen=True)
class Redeemed:
    """An offline redemption: the record of it, and the key that will sign how it ended."""

    jti: str
    redemption_id: str
    record: str
    key: SigningKey

    def prove(self, report: wire.Report) -> str:
        told = digest(canonical_bytes(report.model_dump(mode="json")))
        return records.prove_report(self.key, jti=self.jti, redemption_id=self.redemption_id, report_digest=told)


def redeem(
    ticket: VerifiedTicket, key: SigningKey, folder: RunFolder, settings: Settings, now: Clock = time.time
) -> Redeemed:
    """Use a ticket up and leave the record of it in the run folder.

    Raises:
        TicketUsed: it was used here before.
        TicketInvalid: step 14, the replay cache cannot be relied on.
        NotConfigured: a cluster whose hosts share no replay cache.
        OutputInvalid: the record cannot be kept, so nothing may start.
    """
    claims = ticket.claims
    use_up(replay_folder(), claims.jti, claims.exp, now)
    redemption_id = str(uuid.uuid4())
    record = records.record(
        key, ticket=ticket.token, jti=claims.jti, redemption_id=redemption_id, host=host_id(), now=now
    )
    left = {"server": settings.server, "issuer": settings.issuer, "record": record}
    try:
        write_private(folder.redemption, json.dumps(left).encode())
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise OutputInvalid(f"the record of the redemption cannot be kept in `{folder.root}`: {why}") from error
    return Redeemed(claims.jti, redemption_id, record, key)


def resume(folder: RunFolder, key: SigningKey) -> Redeemed | None:
    """The redemption that a process made which is gone; None when it never came so far."""
    try:
        record = json.loads(folder.redemption.read_bytes())["record"]
        ticket = folder.ticket.read_text("ascii").strip()
        jti = str(unverified_claims(ticket)["jti"])
        said = records.check_record(record, ticket=ticket, jti=jti, jkt=key.thumbprint)
    except (OSError, ValueError, KeyError, TicketInvalid):
        return None
    return Redeemed(jti, said.redemption_id, record, key)


def use_up(cache: Path, jti: str, exp: int, now: Clock = time.time) -> None:
    """Enter a ticket into the replay cache, and take out those that nobody would take any more.

    Raises:
        TicketUsed: it stands there.
        TicketInvalid: step 14; the folder is not ours alone, or cannot be written to.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = cache.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise TicketInvalid(
                f"the replay cache `{cache}` is not a folder of your own; run `chmod 700 {cache}`", step=STEP
            )
        _enter(cache, f"{exp}.{jti}")
        for name in os.listdir(cache):
            used = _USED.fullmatch(name)
            if used and int(used["exp"]) + LEEWAY_S < now():
                (cache / name).unlink(missing_ok=True)
    except FileExistsError:
        raise TicketUsed(
            f"ticket `{jti}` was used here before; it starts one run and no second. Ask for a new one", step=STEP
        ) from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise TicketInvalid(
            f"the replay cache `{cache}` cannot be written: {why}; without it nobody knows whether the ticket was used",
            step=STEP,
        ) from error


def _enter(cache: Path, name: str) -> None:
    """On disk before anything starts: a power cut must not give the ticket back."""
    descriptor = os.open(cache / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    os.fsync(descriptor)
    os.close(descriptor)
    folder = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)
