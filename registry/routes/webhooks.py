"""`/v1/webhooks`: who is told of events, and what came of it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from enforcer import wire
from enforcer.keys import KeyUnusable
from enforcer.problems import Unavailable
from registry import access, db, etags, webhook_delivery, webhook_pings, webhook_signing, webhooks
from registry.access import THE_HOUSE, Matter, May, Permit
from registry.books import Books, TheBooks
from registry.etags import IfNoneMatch, MayMatch
from registry.filters import Listing
from registry.idempotency import OneChange, ToldOnce
from registry.paging import Filter, Page, PageQuery
from registry.tables import Webhook, WebhookDelivery

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


NEWEST_FIRST = Listing(key=Webhook.id, descending=True)
NEWEST_EVENT_FIRST = Listing(key=WebhookDelivery.id, descending=True)


class WebhookQuery(PageQuery):
    business_unit: wire.Name | None = None


def _unit_in_body(asked: wire.WebhookRequest) -> Matter:
    return Matter(unit=asked.business_unit)


def _unit_in_query(query: Annotated[WebhookQuery, Query()]) -> Matter:
    return Matter(unit=query.business_unit)


def _unit_of_webhook(request: Request, books: TheBooks, webhook_id: str) -> Matter:
    request.state.attempt.facts["detail"] = {"webhook": webhook_id[:100]}
    with books.reading() as session:
        row = session.get(Webhook, webhook_id)
        return Matter(unit=row.business_unit) if row else THE_HOUSE


_may = Depends(May("webhook-admin", about=_unit_of_webhook))
Admin = Annotated[Permit, _may]


def _may_read(request: Request, books: Books, admin: Permit) -> None:
    """Whoever has others told of more, or gets what they trust, must be allowed to read it.

    Raises:
        NotPermitted
    """
    access.permit(request, books, admin.actor, "audit-read", Matter(unit=admin.unit))


@router.post("", status_code=201, operation_id="createWebhook", dependencies=[ToldOnce])
def create_webhook(
    request: Request,
    asked: wire.WebhookRequest,
    admin: Annotated[Permit, Depends(May("webhook-admin", about=_unit_in_body))],
    books: TheBooks,
    response: Response,
) -> wire.WebhookMade:
    """Tell an address of a unit's events from now on. Whoever has it told must be allowed to read them (`audit-read`).
    The secret is shown once."""
    _may_read(request, books, admin)
    with books.writing() as session:
        row = webhooks.create(session, asked, admin, books.settings.webhook_allowed)
        return _with_secret(books, row, response)


@router.get("", operation_id="listWebhooks")
def list_webhooks(
    query: Annotated[WebhookQuery, Query()],
    admin: Annotated[Permit, Depends(May("webhook-admin", about=_unit_in_query))],
    books: TheBooks,
) -> wire.WebhookPage:
    """Webhooks of one business unit, newest first, ended ones included; the caller's own unless another is named."""
    wanted = Filter(business_unit=None if admin.unit == "all" else admin.unit)
    page = Page(query, wanted, NEWEST_FIRST)
    with books.reading() as session:
        found, token = page.rows(session, Webhook)
        return wire.WebhookPage(items=[wire.Webhook.model_validate(row) for row in found], next_page_token=token)


@router.get("/{webhook_id}", operation_id="getWebhook", dependencies=[_may], response_model=wire.Webhook)
def get_webhook(webhook_id: str, books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """How far it was told, and since when it takes nothing."""
    with books.reading() as session:
        return etags.answer(wire.Webhook.model_validate(webhooks.get(session, webhook_id)), if_none_match)


@router.patch("/{webhook_id}", operation_id="changeWebhook", response_model=wire.Webhook)
def change_webhook(
    request: Request, webhook_id: str, asked: wire.WebhookChange, admin: Admin, books: TheBooks, change: OneChange,
    seen: MayMatch,
) -> Response:  # fmt: skip
    """Pause it, resume it where it was, or choose other kinds of events; all but a pause takes `audit-read`, too. Its
    ETag moves with every delivery, so `If-Match` is welcome here and not required."""
    if asked.kinds is not None or asked.state == "active":
        _may_read(request, books, admin)
    with change.writing() as session:
        changed = wire.Webhook.model_validate(webhooks.change(session, webhook_id, asked, admin, seen=seen))
        return change.answer(session, changed, tagged=True)


@router.delete("/{webhook_id}", status_code=204, operation_id="endWebhook")
def end_webhook(webhook_id: str, admin: Admin, books: TheBooks, seen: MayMatch) -> None:
    """End it for good. It and its deliveries stay to be read."""
    with books.writing() as session:
        webhooks.end(session, webhook_id, admin, seen=seen)


@router.post("/{webhook_id}:rotate-secret", operation_id="rotateWebhookSecret", dependencies=[ToldOnce])
def rotate_webhook_secret(
    request: Request, webhook_id: str, admin: Admin, books: TheBooks, response: Response
) -> wire.WebhookMade:
    """The next secret, shown once; takes `audit-read`, too. For a day every message carries a signature by either."""
    _may_read(request, books, admin)
    with books.writing() as session:
        return _with_secret(books, webhooks.rotate_secret(session, webhook_id, admin), response)


@router.post("/{webhook_id}:test", operation_id="testWebhook")
def ping_webhook(webhook_id: str, admin: Admin, books: TheBooks) -> wire.WebhookTest:
    """Send the event of this very test, at once, and say what came back. One at a time for each webhook, and few for
    all of them."""
    _root_key(books)
    with webhook_pings.one(webhook_id):
        with books.writing() as session:
            row, event = webhooks.ping(session, webhook_id, admin)
            session.flush()
            session.expunge_all()
        said = webhook_delivery.send(books, row, event, now=db.utc_now())
    return wire.WebhookTest(delivered=said.outcome == "delivered", answer=said.answer)


@router.post("/{webhook_id}:replay", operation_id="replayWebhook", response_model=wire.Webhook)
def replay_webhook(
    request: Request,
    webhook_id: str,
    since: Annotated[str, Query(alias="from", max_length=100, description="an event's id, or a time with its zone")],
    admin: Admin,
    books: TheBooks,
    change: OneChange,
) -> Response:
    """Tell it again of everything since an event or a moment, under the same ids; takes `audit-read`, too."""
    _may_read(request, books, admin)
    with change.writing() as session:
        return change.answer(session, wire.Webhook.model_validate(webhooks.replay(session, webhook_id, since, admin)))


@router.get("/{webhook_id}/deliveries", operation_id="listWebhookDeliveries", dependencies=[_may])
def list_webhook_deliveries(
    webhook_id: str, query: Annotated[PageQuery, Query()], books: TheBooks
) -> wire.WebhookDeliveryPage:
    """What it took and what it refused, the newest events first. Delivered ones are kept for thirty days."""
    page = Page(query, Filter(webhook_id=webhook_id), NEWEST_EVENT_FIRST)
    with books.reading() as session:
        webhooks.get(session, webhook_id)
        found, token = page.rows(session, WebhookDelivery)
        items = [wire.WebhookDelivery.model_validate(row) for row in found]
    return wire.WebhookDeliveryPage(items=items, next_page_token=token)


def _with_secret(books: Books, row: Webhook, response: Response) -> wire.WebhookMade:
    response.headers["Cache-Control"] = "no-store"
    secret = webhook_signing.secret(_root_key(books), row.id, row.generation)
    return wire.WebhookMade.model_validate({**row.model_dump(), "secret": secret})


def _root_key(books: Books) -> bytes:
    """Raises Unavailable."""
    try:
        return webhook_signing.root_key(books.settings.keys_dir)
    except KeyUnusable as error:
        raise Unavailable(f"nothing can be signed for webhooks: {error}") from error
