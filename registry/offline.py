"""Runs that redeemed their ticket where nobody could ask us: they upload a record, signed by the run's own key.

Weaker than a redemption here, and it says so (SECURITY.md): a copied permit file can start a run on each host that
shares no replay cache with the others. The second record gives it away, and is an alarm; so is one of a ticket that
was revoked, or that the books never knew.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import update
from sqlmodel import Session, col

from enforcer import records, wire
from enforcer.problems import Malformed, RevokedTicketUsed, TicketInvalid, TicketUsedTwice
from enforcer.runspec import RunSpec, canonical_bytes, digest
from enforcer.tickets import LEEWAY_S
from registry import permits, quotas, runs, tickets
from registry.access import BorneTicket
from registry.books import Books
from registry.tables import Run, Ticket


def upload(session: Session, borne: BorneTicket, told: wire.Upload, books: Books) -> wire.ReportedRun:
    """Enter the redemption at the time that its record says, and the report that it ended with. Again changes nothing.

    Raises:
        TicketInvalid: the record or the report is not by the run's key, or the ticket is none for offline use.
        TicketNeverIssued, RevokedTicketUsed, TicketUsedTwice: an alarm each.
        RunClosed: it ended with another report.
    """
    claims = borne.claims
    ticket, run = tickets.find(session, claims)
    if (claims.redeem, ticket.redeem) != ("offline", "offline"):
        raise TicketInvalid("this ticket is redeemed online, by `:redeem`; a record does not stand for that", step=14)
    record = records.check_record(told.record, ticket=borne.token, jti=claims.jti, jkt=ticket.jkt)
    if told.report is not None:
        if told.report_proof is None:
            raise Malformed("`report` comes without its `report_proof`")
        signed = digest(canonical_bytes(told.report.model_dump(mode="json")))
        records.check_report(told.report_proof, of=record, jkt=ticket.jkt, report_digest=signed)
    # As the books have it: who has an old ticket key could sign the same ticket with a longer life.
    begins, ends = int(ticket.issued_at.timestamp()), int(ticket.expires_at.timestamp())
    if not begins - LEEWAY_S <= record.redeemed_at <= ends + LEEWAY_S:
        raise TicketInvalid("the record says that the ticket was redeemed outside of its lifetime", step=10)
    _register(session, ticket, run, borne, record)
    if told.report is not None:
        return runs.report(session, run.id, told.report, books)
    return runs.reported(session, run)


def _register(session: Session, ticket: Ticket, run: Run, borne: BorneTicket, record: records.Record) -> None:
    redeemed_at = datetime.fromtimestamp(record.redeemed_at, UTC)
    won = session.connection().execute(
        update(Ticket)
        .where(col(Ticket.jti) == ticket.jti, col(Ticket.state) == "issued")
        .values(state="redeemed", redeemed_at=redeemed_at, redemption_id=record.redemption_id)
    )
    session.refresh(ticket)
    session.refresh(run, with_for_update=True)
    where = f"on `{record.host}` at {redeemed_at:%Y-%m-%dT%H:%M:%SZ}"
    if ticket.redemption_id not in (None, record.redemption_id):
        raise TicketUsedTwice(
            f"ticket `{ticket.jti}` was redeemed {where}, and before that by redemption `{ticket.redemption_id}` at "
            f"{ticket.redeemed_at:%Y-%m-%dT%H:%M:%SZ}; one permit was copied"
        )
    if ticket.state == "revoked" and ticket.redemption_id is None:
        raise RevokedTicketUsed(
            f"ticket `{ticket.jti}` was revoked at {ticket.revoked_at:%Y-%m-%dT%H:%M:%SZ} and redeemed {where}"
        )
    if won.rowcount == 0:
        return
    spec = RunSpec.read(ticket.run_spec, expected_digest=run.run_spec_digest)
    run.state, run.started_at, run.ended_at = "running", redeemed_at, None
    run.stop = None if run.stop == permits.NOBODY else run.stop  # it was redeemed, and we did not know
    # It sends no heartbeats: its time limit is its lease, and after that it is lost like any other.
    run.lease_expires_at = redeemed_at + timedelta(seconds=spec.limits.max_runtime_s)
    session.add(run)
    quotas.settle(session, run)
    tickets.record_redeemed(session, run, borne.claims, offline=True, host=record.host, at=redeemed_at.isoformat())
    session.flush()
