"""Serving: what must hold before the first request, and the process itself."""

import gc
import json
import logging
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial

import uvicorn
from fastapi import FastAPI
from sqlmodel import Session, col, select

from enforcer import local
from enforcer.local import is_loopback
from enforcer.problems import LogInconsistent
from registry import (
    audit,
    db,
    delegations,
    exceptions,
    idempotency,
    log as tlog,
    logs,
    permits,
    policies,
    policy_folder,
    proposal_clock,
    publishing,
    quotas,
    retention,
    revisions,
    revocations,
    runs,
    shadow,
    spellings,
    tag_life,
    tags,
    tickets,
    webhook_couriers,
    webhook_delivery,
    webhooks,
)
from registry.app import create_app, describe
from registry.books import Books, whom_to_believe
from registry.identity import SERVICE, leave_local_token
from registry.keyring import Keyring
from registry.settings import Settings
from registry.tables import ApiToken, Tag

log = logging.getLogger("tagwarden")
SEQUENCE_EVERY_S = 1.0
SWEEP_EVERY_S = 60.0
DELIVER_EVERY_S = 1.0
MARK_LOST_EVERY_S = 5.0
LOOK_AT_KEYS_EVERY_S = 0.5
LOOK_AT_POLICY_EVERY_S = 0.4  # a change of the folder is taken at the second look that agrees: within a second


class RefusedToStart(Exception):
    """Serving like this would be unsafe or cannot work; the message says what to change."""


def prepare(settings: Settings) -> None:
    """Migrate, seed a registry that is empty, publish the policy folder, and make the keys that are missing.

    Raises:
        RefusedToStart: it would listen beyond loopback without a name of its own, or while nobody could sign in.
        PolicyInvalid: the policy folder cannot go live, and no policy is; or its `names.yaml` cannot be used.
    """
    if not is_loopback(settings.host) and settings.public_url is None:
        raise RefusedToStart(
            f"`{settings.host}` is not loopback, so tickets need the name under which clients reach the registry; "
            "set TAGWARDEN_PUBLIC_URL"
        )
    retention.load(settings.policies_dir)
    engine = db.open_engine(settings)
    db.migrate(engine)
    with db.writing(engine) as session:
        if session.exec(select(Tag.name)).first() is None:
            log.info("seeded %d task types", len(tags.seed(session, settings.policies_dir)))
        elif spellings.publish_rules(session, settings.policies_dir, tags.SEEDER):
            log.info("took over the words of %s", settings.policies_dir / "names.yaml")
    policy_folder.take_at_start(engine, settings)
    with db.reading(engine) as session:
        if not is_loopback(settings.host) and not _has_token(session) and not _has_issuer(session, settings):
            raise RefusedToStart(
                f"`{settings.host}` is not loopback, no API token exists and `identity.yaml` names no issuer, so "
                "nobody could sign in; make one first: `tagwarden token create USER --group platform-admins --unit all`"
            )
    Keyring(settings.keys_dir).complete(
        partial(audit.record_keys, engine, SERVICE), dev=settings.uses_dev_keys, now=db.utc_now()
    )
    engine.dispose()


def serve(settings: Settings) -> None:
    """Serve until interrupted.

    Raises:
        RefusedToStart: the address is taken, or `prepare` refuses.
    """
    logs.configure(settings.log_format)
    listener = _listen(settings)
    port = listener.getsockname()[1]
    settings = settings.model_copy(update={"port": port})
    prepare(settings)
    app = create_app(settings)
    try:
        tlog.check(app.state.books)
    except LogInconsistent as alarm:
        raise RefusedToStart(alarm.detail) from alarm
    _refuse_another_name(app.state.books)
    if settings.on_loopback:
        file = local.token_file()
        leave_local_token(app.state.books.engine, file)
        log.info("local user's token: %s", file)
    with app.state.books.reading() as session:
        log.info("serving %s (policy %s)", settings.issuer, app.state.books.gate(session).revision[:19])
    proposal_clock.end_provisional(app.state.books)  # what ended while nobody served decides nothing any more
    follow_policy(app.state.books)
    threading.Thread(target=_keep_following_policy, args=(app.state.books,), name="policy", daemon=True).start()
    threading.Thread(target=_keep_marking_lost, args=(app.state.books,), name="silent runs", daemon=True).start()
    threading.Thread(target=_keep_sequencing, args=(app.state.books,), name="sequencer", daemon=True).start()
    threading.Thread(target=_keep_telling_what_ended, args=(app.state.books,), name="what ended", daemon=True).start()
    threading.Thread(target=_keep_turning_keys, args=(app.state.books,), name="keys", daemon=True).start()
    threading.Thread(target=_keep_delivering, args=(app.state.books,), name="webhooks", daemon=True).start()
    kept = (app.state.books.engine, retention.load(settings.policies_dir))
    threading.Thread(target=retention.keep_running, args=kept, name="retention", daemon=True).start()
    gc.freeze()  # what stands by now is no garbage: collections need not look at it again and again
    try:
        uvicorn.Server(web_server(app, settings)).run(sockets=[listener])
    finally:
        app.state.books.writer.close()


def _refuse_another_name(books: Books) -> None:
    """A log keeps its name: clients look for it under the `iss` of their tickets, and remember its heads under it."""
    with books.reading() as session:
        known = tlog.name(books.settings, session)
    if known != books.settings.log_origin:
        raise RefusedToStart(
            f"the log of this database is `{known}`, and as `{books.settings.issuer}` it would be "
            f"`{books.settings.log_origin}`; set TAGWARDEN_PUBLIC_URL to the address that it was begun under "
            f"(`{known.removesuffix('/tlog')}`, with its scheme), or serve another database"
        )


def web_server(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Says nothing of itself, logs by our handler, and believes `X-Forwarded-For` only from proxies that are named:
    who writes it chooses by which address guesses are counted."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        lifespan="off",
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
    )


def _keep_sequencing(books: Books) -> None:
    """Give events their place in the log soon after they happened, so that the time in which a row could be taken away
    unnoticed stays short; and let heads of the log out, where nobody here can take them back. Sweep now and then."""
    publisher = publishing.Publisher(books)
    swept = time.monotonic()
    while True:
        time.sleep(SEQUENCE_EVERY_S)
        try:
            if time.monotonic() - swept > SWEEP_EVERY_S:
                swept = time.monotonic()
                with books.writing() as session:
                    tickets.sweep(session)
                    idempotency.sweep(session)
                permits.tend(books)
                release_lapsed(books)
            with books.reading() as session:
                waiting = tlog.is_pending(session)
            if waiting:
                tlog.integrate(books)
            publisher.publish_in_time()
        except LogInconsistent as alarm:
            log.critical("%s", alarm.detail)
        except Exception:
            log.exception("the log was not sequenced; it is tried again")


def _keep_turning_keys(books: Books) -> None:
    """Let the next key begin and the old one end when their time has come."""
    while True:
        time.sleep(LOOK_AT_KEYS_EVERY_S)
        try:
            books.ring.advance(partial(audit.record_keys, books.engine, SERVICE), now=db.utc_now())
        except Exception:
            log.exception("the keys were not turned; it is tried again")


def follow_policy(books: Books) -> None:
    """Take back what the live policy denies now; enter what a candidate would have answered; and put it on record where
    the live policy cannot be used here."""
    if taken := revocations.recheck(books):
        log.info("the policy changed: %d permits were taken back", taken)
    if counts := books.shadow.take():
        with books.writing() as session:
            shadow.add(session, counts)
    if books.policy_alarm is not None:
        policies.record_unusable(books.engine, books.policy_alarm.revision, books.policy_alarm.reason)


def _keep_following_policy(books: Books) -> None:
    """Look at the policy folder, where it is the source, and at the policy that is live."""
    watcher = policy_folder.Watcher(books.engine, books.settings) if books.settings.policy_source == "folder" else None
    while True:
        time.sleep(LOOK_AT_POLICY_EVERY_S)
        try:
            if watcher is not None:
                watcher.look()
            follow_policy(books)
            proposal_clock.end_provisional(books)
        except Exception:
            log.exception("the policy was not followed; it is tried again")


def _keep_marking_lost(books: Books) -> None:
    """Mark silent runs as lost. While we were away nobody could beat, so a start gives a lease's time first."""
    time.sleep(books.settings.lease_ttl_s)
    while True:
        try:
            mark_lost(books)
        except Exception:
            log.exception("silent runs were not looked for; it is tried again")
        time.sleep(MARK_LOST_EVERY_S)


def _keep_telling_what_ended(books: Books) -> None:
    while True:
        try:
            tell_of_exceptions(books)
            delegations.tend(books)
            proposal_clock.tend(books)
        except Exception:
            log.exception("what is due of exceptions and proposals was not told; it is tried again")
        try:
            let_sunsets_come(books)
        except Exception:
            log.exception("sunsets of task types were not written down; it is tried again")
        time.sleep(SWEEP_EVERY_S)


def _keep_delivering(books: Books) -> None:
    """Tell webhooks of events; a receiver that does not answer keeps no other waiting."""
    couriers, swept = webhook_couriers.Couriers(books), time.monotonic()
    while True:
        try:
            webhooks.pause_of_nobody(books)
            couriers.send_out()
            if time.monotonic() - swept > SWEEP_EVERY_S:
                swept = time.monotonic()
                webhook_delivery.forget_old(books, db.utc_now())
        except Exception:
            log.exception("webhooks were not told; it is tried again")
            time.sleep(DELIVER_EVERY_S)
        couriers.rest(DELIVER_EVERY_S)


def tell_of_exceptions(books: Books) -> int:
    """Write the events of exceptions that end soon, or ended; returns how many."""
    with books.reading() as session:
        gate = books.gate(session)
        if gate.revision != revisions.live_revision(session):  # one that it can use tells of them
            return 0
        if not exceptions.anything_to_tell(session, gate.policy, db.utc_now()):  # nearly always: no write lock is taken
            return 0
    with books.writing() as session:
        db.queue_for(session, "policy")  # what is granted or revoked meanwhile must not look as if it had gone
        told = exceptions.tell(session, revisions.live(session), db.utc_now(), SERVICE)
    if told:
        log.warning("%d exceptions from the policy end within a week, or ended; see `GET /v1/exceptions`", told)
    return told


def let_sunsets_come(books: Books) -> list[str]:
    """Write down which task types have ended by the clock. Tickets know it to the second without."""
    with books.reading() as session:
        if not tag_life.any_due(session, db.utc_now()):  # nearly always: no write lock is taken
            return []
    with books.writing() as session:
        db.queue_for(session, "vocabulary")
        ended = tag_life.let_sunsets_come(session, db.utc_now())
    if ended:
        log.warning("no new runs any more of %s", ", ".join(ended))
    return ended


def release_lapsed(books: Books) -> int:
    """Give back what tickets hold of quotas that nobody redeemed in time; returns how many."""
    found = 0
    while True:
        with books.reading() as session:
            waiting = quotas.any_lapsed(session)
        if not waiting:
            return found
        with books.writing() as session:
            released = quotas.release_lapsed(session)
        if not released:  # somebody holds those that are left; next time
            return found
        found += released


def mark_lost(books: Books) -> int:
    """Mark every run as lost that was silent for longer than lease and grace; returns how many."""
    grace, found = timedelta(seconds=books.settings.lease_grace_s), 0
    while True:
        with books.reading() as session:
            waiting = runs.any_silent(session, grace)
        if not waiting:  # a look takes no write lock; there is nothing to mark nearly always
            return found
        with books.writing() as session:
            found += runs.mark_lost(session, grace)


def openapi_json() -> str:
    """The OpenAPI document of an app over nothing: generated, committed, and checked for drift."""
    return json.dumps(describe(), indent=2, ensure_ascii=False) + "\n"


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise RefusedToStart(
            f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}); choose another with `--port`, "
            "or stop what listens there"
        ) from error
    return listener


def _has_issuer(session: Session, settings: Settings) -> bool:
    policy = whom_to_believe(settings, policies.live(session).directory)
    return bool(policy.issuers or policy.trust_rules)


def _has_token(session: Session) -> bool:
    now = datetime.now(UTC)
    return session.exec(select(ApiToken.id).where(col(ApiToken.expires_at) > now)).first() is not None
