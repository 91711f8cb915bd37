"""``/v1/webhooks``: endpoints, their secrets, and the log of what was sent to them."""

from collections.abc import Callable, Sequence
from typing import Final

from flask import Blueprint, Response, request
from sqlalchemy.orm import Session

from shared import endpoints, ids, resending, webhooks
from shared.errors import Refused
from web.api.webhook_shapes import (
    CountBody,
    DeliveryBody,
    EndpointBody,
    EndpointChange,
    EndpointList,
    EndpointRequest,
    NewEndpointBody,
    SecretBody,
    SecretRequest,
    SinceRequest,
    delivery_body,
    endpoint_body,
)
from web.asking import NoQuery, read_json, read_query
from web.auth import caller, require
from web.intake import fingerprint
from web.operations import IDEMPOTENCY_KEY, LOCATION, REPLAYED, Answer, operation
from web.problems import (
    BROKEN_BODY,
    CONFLICT,
    INVALID_OPTIONS,
    NOT_FOUND,
    REFUSED,
    TOO_LARGE,
    TOO_MANY_WEBHOOKS,
    UNSUPPORTED_TYPE,
    Problem,
)
from web.replay import perform
from web.services import services
from web.wire import respond

api = Blueprint("webhooks", __name__)

_TAG: Final = "webhooks"
_SCOPE: Final = "webhooks"
_JSON_PROBLEMS: Final = (BROKEN_BODY, TOO_LARGE, UNSUPPORTED_TYPE, INVALID_OPTIONS, REFUSED)


@api.get("/v1/webhooks")
@operation(
    "List webhooks",
    {200: Answer("Every endpoint but the one-off ones.", {"application/json": EndpointList})},
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
)
def index() -> Response:
    """List the tenant's endpoints."""
    read_query(NoQuery)
    with services().database.transaction(caller().tenant_id) as session:
        found = endpoints.all_of(session)
    return respond(EndpointList(webhooks=[endpoint_body(endpoint) for endpoint in found]))


@api.post("/v1/webhooks")
@operation(
    "Make a webhook",
    {
        201: Answer(
            "The endpoint; its secret is shown once.", {"application/json": NewEndpointBody}, (LOCATION, REPLAYED)
        )
    },
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    body={"application/json": EndpointRequest},
    headers=(IDEMPOTENCY_KEY,),
    problems=(TOO_MANY_WEBHOOKS, *_JSON_PROBLEMS),
)
def create() -> Response:
    """Make an endpoint."""
    read_query(NoQuery)
    wanted = read_json(EndpointRequest)
    _check_url(wanted.url)
    _check_reading(wanted.detail, wanted.events)
    here, tenant = services(), caller().tenant_id

    def act(session: Session) -> NewEndpointBody:
        endpoints.check_room(session, tenant, here.settings.max_webhooks)
        made, secret = webhooks.create_endpoint(
            session,
            here.keyring,
            tenant,
            wanted.url,
            wanted.events,
            wanted.description,
            secret=wanted.secret,
            detail=wanted.detail,
            form=wanted.format,
        )
        return NewEndpointBody(**endpoint_body(made).model_dump(), secret=secret)

    def location(made: NewEndpointBody) -> str:
        return f"{here.settings.public_url}/v1/webhooks/{made.id}"

    mark = fingerprint.of_request("POST", request.path, wanted.model_dump(mode="json"))
    return perform(mark, NewEndpointBody, act, status=201, location=location, secret=True)


@api.get("/v1/webhooks/<webhook>")
@operation(
    "Read a webhook",
    {200: Answer("The endpoint.", {"application/json": EndpointBody})},
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    problems=(NOT_FOUND,),
)
def read(webhook: str) -> Response:
    """Return one endpoint."""
    read_query(NoQuery)
    endpoint_id = ids.parse("endpoint", webhook)
    with services().database.transaction(caller().tenant_id) as session:
        found = endpoints.get(session, endpoint_id)
    return respond(endpoint_body(found))


@api.patch("/v1/webhooks/<webhook>")
@operation(
    "Change a webhook",
    {200: Answer("The endpoint as it is now.", {"application/json": EndpointBody})},
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    body={"application/json": EndpointChange},
    problems=(NOT_FOUND, *_JSON_PROBLEMS),
)
def update(webhook: str) -> Response:
    """Change what is given; enabling a disabled endpoint sends what was kept for it."""
    read_query(NoQuery)
    endpoint_id = ids.parse("endpoint", webhook)
    wanted = read_json(EndpointChange)
    if wanted.url is not None:
        _check_url(wanted.url)
    with services().database.transaction(caller().tenant_id) as session:
        changed = endpoints.update(
            session,
            endpoint_id,
            url=wanted.url,
            kinds=wanted.events,
            description=wanted.description,
            state=wanted.state,
            detail=wanted.detail,
            form=wanted.format,
        )
        if wanted.url is not None or wanted.events is not None or wanted.detail is not None:
            _check_reading(changed.detail, changed.kinds)
    return respond(endpoint_body(changed))


@api.delete("/v1/webhooks/<webhook>")
@operation(
    "Delete a webhook",
    {204: Answer("It is gone, with its log; events stay in the feed.")},
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    problems=(NOT_FOUND,),
)
def delete(webhook: str) -> Response:
    """Delete an endpoint."""
    read_query(NoQuery)
    endpoint_id = ids.parse("endpoint", webhook)
    with services().database.transaction(caller().tenant_id) as session:
        endpoints.delete(session, endpoint_id)
    return Response(status=204)


@api.post("/v1/webhooks/<webhook>/test")
@operation(
    "Send a ping",
    {202: Answer("The delivery that carries it.", {"application/json": DeliveryBody}, (REPLAYED,))},
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    headers=(IDEMPOTENCY_KEY,),
    problems=(NOT_FOUND, CONFLICT),
)
def test(webhook: str) -> Response:
    """Send a ``ping`` to this endpoint alone."""
    read_query(NoQuery)
    endpoint_id = ids.parse("endpoint", webhook)
    mark = fingerprint.of_request("POST", request.path, {})
    return perform(
        mark, DeliveryBody, lambda session: delivery_body(resending.send_test(session, endpoint_id)), status=202
    )


@api.post("/v1/webhooks/<webhook>/rotate-secret")
@operation(
    "Replace the secret",
    {
        200: Answer(
            "The new secret, shown once; the old one signs too for 24 hours.",
            {"application/json": SecretBody},
            (REPLAYED,),
        )
    },
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    body={"application/json": SecretRequest},
    body_required=False,
    headers=(IDEMPOTENCY_KEY,),
    problems=(NOT_FOUND, *_JSON_PROBLEMS),
)
def rotate_secret(webhook: str) -> Response:
    """Give the endpoint another secret."""
    read_query(NoQuery)
    endpoint_id = ids.parse("endpoint", webhook)
    wanted = read_json(SecretRequest) if request.content_length or request.mimetype else SecretRequest()
    keyring = services().keyring

    def act(session: Session) -> SecretBody:
        secret = endpoints.rotate_secret(session, keyring, endpoint_id, wanted.secret)
        until = endpoints.get(session, endpoint_id).previous_until
        return SecretBody(id=webhook, secret=secret, previous_until=until)

    mark = fingerprint.of_request("POST", request.path, wanted.model_dump(mode="json"))
    return perform(mark, SecretBody, act, secret=True)


@api.post("/v1/webhooks/<webhook>/recover")
@operation(
    "Send again what was given up",
    {200: Answer("How many deliveries that is.", {"application/json": CountBody}, (REPLAYED,))},
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    body={"application/json": SinceRequest},
    headers=(IDEMPOTENCY_KEY,),
    problems=(NOT_FOUND, *_JSON_PROBLEMS),
)
def recover(webhook: str) -> Response:
    """Send again every delivery that was given up since then, or only count them."""
    return _since(webhook, resending.recover)


@api.post("/v1/webhooks/<webhook>/replay")
@operation(
    "Send what was never owed",
    {200: Answer("How many events that is.", {"application/json": CountBody}, (REPLAYED,))},
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    body={"application/json": SinceRequest},
    headers=(IDEMPOTENCY_KEY,),
    problems=(NOT_FOUND, *_JSON_PROBLEMS),
)
def replay(webhook: str) -> Response:
    """Send the events since then that the endpoint was never owed, or only count them."""
    return _since(webhook, resending.replay)


def _since(webhook: str, send: Callable[..., int]) -> Response:
    read_query(NoQuery)
    endpoint_id = ids.parse("endpoint", webhook)
    wanted = read_json(SinceRequest)

    def act(session: Session) -> CountBody:
        return CountBody(count=send(session, endpoint_id, wanted.since, preview=wanted.preview), preview=wanted.preview)

    return perform(fingerprint.of_request("POST", request.path, wanted.model_dump(mode="json")), CountBody, act)


def _check_reading(detail: str, kinds: Sequence[str]) -> None:
    """Raise ``Problem`` (403) where somebody would hear of answers, or of each photo, who may not read them."""
    if detail == "full":
        require(caller(), "jobs:read", "A webhook that tells answers")
    if webhooks.BY_NAME.intersection(kinds):
        require(caller(), "jobs:read", "A webhook that tells of each photo")


def _check_url(url: str) -> None:
    try:
        webhooks.check_url(url, services().settings.webhook_loopback)
    except Refused as error:
        raise Problem(
            INVALID_OPTIONS, "An option is wrong; see errors.", errors=[{"detail": str(error), "pointer": "#/url"}]
        ) from None
