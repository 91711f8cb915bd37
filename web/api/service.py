"""What the service says about itself: its limits and its own description."""

from typing import Final

from flask import Blueprint, Response, current_app, json
from pydantic import Field

from shared.ledger.idempotency import KEPT
from web.api.waiting import LONGEST_WAIT
from web.description import described
from web.operations import Answer, operation
from web.services import services
from web.wire import Shape, respond

api = Blueprint("service", __name__)

_TAG: Final = "service"
_DOCUMENT: Final = {"type": "object", "examples": [{"openapi": "3.1.0", "info": {"title": "PoxVisio"}, "paths": {}}]}
_PHOTO_TYPES: Final = ("image/jpeg", "image/png", "image/webp", "image/heic", "image/heif")


class Limits(Shape):
    """What a request may ask for; sizes in bytes, times in seconds."""

    max_photos: int = Field(description="Photos of one job; more are refused whole")
    max_photo_bytes: int = Field(description="A larger photo is answered `rejected`, alone")
    max_photo_pixels: int = Field(description="A photo of more pixels is answered `rejected`, alone")
    max_request_bytes: int
    photo_types: list[str]
    max_wait: int = Field(description="Of `Prefer: wait=N`")
    idempotency_kept: int
    max_expanded_bytes: int = Field(description="What an archive may hold in all, unpacked")
    max_waiting_clients: int = Field(
        description="Of a web process; half are for one tenant, others are answered at once"
    )
    max_event_streams: int = Field(description="Of a web process; half are for one tenant, others get 503")
    event_stream_seconds: float = Field(description="After which a stream of events ends, to be resumed")
    max_webhooks: int = Field(description="Of a tenant, without those of single jobs; a further one is refused: 409")
    event_days: int = Field(description="Days that events stay in the feed; asked for older ones it answers 410")
    tenant_backlog_seconds: float = Field(description="Where more waits before a tenant's new job: 429")
    backlog_seconds: float = Field(description="Where more waits for everybody: 503")
    tenant_backlog_photos: int = Field(description="Instead of seconds, while no worker says how fast it is: 429")
    backlog_photos: int = Field(description="Instead of seconds, while no worker says how fast it is: 503")
    key_rate: float = Field(description="Requests a second of one API key in the long run: 429; 0: not bounded")
    tenant_rate: float = Field(description="The same of all keys of a tenant together")
    rate_seconds: int = Field(description="Seconds of those rates that may come at once")
    refused_keys: int = Field(description="Unknown API keys of one address a minute: 429; 0: not bounded")
    address_rate: float = Field(description="Requests a second of one address that need no key: 429; 0: not bounded")


@api.get("/v1/limits")
@operation("Read the limits", {200: Answer("The limits.", {"application/json": Limits})}, tag=_TAG)
def limits() -> Response:
    """Return the limits as they are set."""
    settings = services().settings
    return respond(
        Limits(
            max_photos=settings.max_photos,
            max_photo_bytes=settings.max_photo_bytes,
            max_photo_pixels=settings.max_photo_pixels,
            max_request_bytes=settings.max_request_bytes,
            photo_types=list(_PHOTO_TYPES),
            max_wait=LONGEST_WAIT,
            idempotency_kept=int(KEPT.total_seconds()),
            max_expanded_bytes=settings.max_expanded_bytes,
            max_waiting_clients=settings.max_waiting_clients,
            max_event_streams=settings.max_event_streams,
            event_stream_seconds=settings.event_stream_seconds,
            max_webhooks=settings.max_webhooks,
            event_days=settings.event_days,
            tenant_backlog_seconds=settings.tenant_backlog_seconds,
            backlog_seconds=settings.backlog_seconds,
            tenant_backlog_photos=settings.tenant_backlog_photos,
            backlog_photos=settings.backlog_photos,
            key_rate=settings.key_rate,
            tenant_rate=settings.tenant_rate,
            rate_seconds=settings.rate_seconds,
            refused_keys=settings.refused_keys,
            address_rate=settings.address_rate,
        )
    )


@api.get("/openapi.json")
@operation(
    "Read this document",
    {200: Answer("OpenAPI 3.1.", {"application/json": _DOCUMENT})},
    tag=_TAG,
)
def openapi() -> Response:
    """Return the description of every route, made from the routes."""
    told = described(current_app, services().settings.public_url)
    answer = Response(json.dumps(told, ensure_ascii=False) + "\n", mimetype="application/json")
    answer.headers["Cache-Control"] = "public, max-age=300"
    return answer
