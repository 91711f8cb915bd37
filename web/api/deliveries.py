"""``/v1/webhooks/{id}/deliveries``: the log of what was sent or is owed to an endpoint, and sending again."""

from typing import Annotated, Final
from uuid import UUID

from flask import Blueprint, Response, request
from pydantic import Field
from sqlalchemy.orm import Session

from shared import delivery_log, ids, resending
from shared.delivery_log import DeliveryView
from shared.errors import NotFound
from web.api.webhook_shapes import (
    DeliveryBody,
    DeliveryDetail,
    DeliveryList,
    DeliveryState,
    delivery_body,
    delivery_detail,
    delivery_state,
)
from web.asking import NoQuery, Strict, read_query, wrong
from web.auth import caller
from web.intake import fingerprint
from web.operations import IDEMPOTENCY_KEY, LINK, REPLAYED, Answer, operation
from web.problems import CONFLICT, NOT_FOUND
from web.replay import perform
from web.services import services
from web.wire import next_link, respond

api = Blueprint("deliveries", __name__)

_TAG: Final = "webhooks"
_SCOPE: Final = "webhooks"


class DeliveriesQuery(Strict):
    """Which deliveries."""

    state: DeliveryState | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    cursor: Annotated[str, Field(max_length=64)] | None = Field(default=None, description="`next` of the page before")


@api.get("/v1/webhooks/<webhook>/deliveries")
@operation(
    "List deliveries",
    {200: Answer("Deliveries, newest first, with every attempt.", {"application/json": DeliveryList}, (LINK,))},
    tag=_TAG,
    scope=_SCOPE,
    query=DeliveriesQuery,
    problems=(NOT_FOUND,),
)
def deliveries(webhook: str) -> Response:
    """List what was sent or is owed to an endpoint."""
    query = read_query(DeliveriesQuery)
    endpoint_id = ids.parse("endpoint", webhook)
    with services().database.transaction(caller().tenant_id) as session:
        found = delivery_log.deliveries(
            session, endpoint_id, state=delivery_state(query.state), after=_after(query.cursor), limit=query.limit + 1
        )
    shown = found[: query.limit]
    cursor = ids.text("delivery", shown[-1].id) if len(found) > query.limit else None
    headers = {}
    if cursor is not None:
        path = services().settings.public_url + request.path
        headers["Link"] = next_link(path, state=query.state, limit=query.limit, cursor=cursor)
    return respond(DeliveryList(deliveries=[delivery_body(view) for view in shown], next=cursor), headers=headers)


@api.get("/v1/webhooks/<webhook>/deliveries/<delivery>")
@operation(
    "Read a delivery",
    {200: Answer("The delivery; each attempt with the beginning of its answer.", {"application/json": DeliveryDetail})},
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    problems=(NOT_FOUND,),
)
def delivery_of(webhook: str, delivery: str) -> Response:
    """Return one delivery with what its receiver answered."""
    read_query(NoQuery)
    with services().database.transaction(caller().tenant_id) as session:
        found = _owned(session, webhook, delivery)
    return respond(delivery_detail(found))


@api.post("/v1/webhooks/<webhook>/deliveries/<delivery>/redeliver")
@operation(
    "Send again",
    {
        202: Answer(
            "The delivery, due at once under the id it always had.", {"application/json": DeliveryBody}, (REPLAYED,)
        )
    },
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    headers=(IDEMPOTENCY_KEY,),
    problems=(NOT_FOUND, CONFLICT),
)
def redeliver(webhook: str, delivery: str) -> Response:
    """Send an event again."""
    read_query(NoQuery)

    def act(session: Session) -> DeliveryBody:
        return delivery_body(resending.redeliver(session, _owned(session, webhook, delivery).id))

    return perform(fingerprint.of_request("POST", request.path, {}), DeliveryBody, act, status=202)


def _owned(session: Session, webhook: str, delivery: str) -> DeliveryView:
    found = delivery_log.delivery(session, ids.parse("delivery", delivery))
    if found.endpoint_id != ids.parse("endpoint", webhook):
        raise NotFound("there is no such delivery")
    return found


def _after(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return ids.parse("delivery", cursor)
    except NotFound:
        raise wrong("cursor", "is not one that this list gave out") from None
