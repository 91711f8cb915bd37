"""What goes in and out at ``/v1/webhooks``."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from shared import ids, signing
from shared.delivery_log import AttemptView, DeliveryView
from shared.errors import Refused
from shared.tables import Endpoint
from shared.webhooks import KINDS
from web.asking import PLAIN, StrictJson
from web.intake.options import Instant, WebhookDetail, WebhookFormat
from web.wire import Shape


def _kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"there is no such event; there are {', '.join(KINDS)}")
    return value


def _each_once(kinds: list[str]) -> list[str]:
    return list(dict.fromkeys(kinds))


def _secret(value: str) -> str:
    try:
        signing.secret_bytes(value)
    except Refused as error:
        raise ValueError(str(error)) from None
    return value


_EVENTS: Final = (
    "Kinds to hear of; none means every kind but `image.completed`, which comes for every photo, and only where it is "
    "named, by a key with the scope `jobs:read`"
)
Kind = Annotated[str, AfterValidator(_kind), Field(json_schema_extra={"enum": list(KINDS)})]
Secret = Annotated[str, Field(max_length=200), AfterValidator(_secret)]
Url = Annotated[str, Field(min_length=1, max_length=2048)]
Kinds = Annotated[list[Kind], Field(max_length=len(KINDS)), AfterValidator(_each_once)]
Description = Annotated[str, Field(max_length=500), PLAIN]


# What a delivery is called outside; within it is leased to a deliverer.
DeliveryState = Literal["waiting", "sending", "delivered", "dead"]
_SHOWN: Final = {"leased": "sending"}
_MEANT: Final = {"sending": "leased"}


class EndpointRequest(StrictJson):
    """The endpoint to make."""

    url: Url = Field(description="https, port 443 or 8443")
    events: Kinds = Field(default_factory=list, description=_EVENTS)
    description: Description = ""
    detail: WebhookDetail = "thin"
    format: WebhookFormat = "standard"
    secret: Secret | None = Field(
        default=None, description="`whsec_` and 24 to 64 bytes in base64; without one, one is made and shown once"
    )


class EndpointChange(StrictJson):
    """What to change; the rest stays."""

    url: Url | None = None
    events: Kinds | None = None
    description: Description | None = None
    detail: WebhookDetail | None = None
    format: WebhookFormat | None = None
    state: Literal["enabled", "disabled"] | None = None


class SecretRequest(StrictJson):
    """The new secret, or none: one is made then."""

    secret: Secret | None = None


class SinceRequest(StrictJson):
    """From when on; ``preview`` only counts."""

    since: Instant
    preview: bool = False


class EndpointBody(Shape):
    """An endpoint, without its secret."""

    id: str
    url: str
    description: str
    events: list[str] = Field(description="Kinds it hears of; empty: every kind but `image.completed`")
    job: str | None = Field(description="The one job it hears of")
    detail: WebhookDetail
    format: WebhookFormat
    state: Literal["enabled", "disabled"]
    state_reason: str | None
    failing_since: datetime | None
    created_at: datetime


class NewEndpointBody(EndpointBody):
    """An endpoint with its secret, which is shown this once."""

    secret: str


class EndpointList(Shape):
    """The tenant's endpoints, oldest first."""

    webhooks: list[EndpointBody]


class SecretBody(Shape):
    """A new secret, shown this once."""

    id: str
    secret: str
    previous_until: datetime | None = Field(description="Until then the old secret signs too")


class AttemptBody(Shape):
    """One try of a delivery."""

    number: int
    started_at: datetime
    duration_ms: int
    status: int | None
    error: str | None


class AttemptDetail(AttemptBody):
    """One try of a delivery with the beginning of the answer."""

    response: str = Field(description="The first 64 KiB, as text")


class DeliveryBody(Shape):
    """An event owed to an endpoint."""

    id: str
    webhook: str
    event: str
    sequence: int
    type: str
    job: str | None
    previous_id: str | None
    state: DeliveryState = Field(
        description="`waiting` for its time, `sending` (under way), `delivered`, or `dead` (given up)"
    )
    next_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    attempts: list[AttemptBody]


class DeliveryDetail(DeliveryBody):
    """An event owed to an endpoint, with what its receiver answered."""

    attempts: list[AttemptDetail]  # type: ignore[assignment]  # each attempt says more


class DeliveryList(Shape):
    """A page of deliveries, newest first."""

    deliveries: list[DeliveryBody]
    next: str | None


class CountBody(Shape):
    """How many there are."""

    count: int = Field(
        description="Of those sent, 10,000 a request and the oldest first: ask again until it is 0; of a preview all"
    )
    preview: bool = Field(description="They were only counted")


def endpoint_body(endpoint: Endpoint) -> EndpointBody:
    """Return an endpoint as it goes out."""
    return EndpointBody(
        id=ids.text("endpoint", endpoint.id),
        url=endpoint.url,
        description=endpoint.description or "",
        events=list(endpoint.kinds),
        job=ids.text("job", endpoint.job_id) if endpoint.job_id else None,
        detail=endpoint.detail,  # type: ignore[arg-type]  # the database holds no other
        format=endpoint.format,  # type: ignore[arg-type]  # the database holds no other
        state=endpoint.state,  # type: ignore[arg-type]  # the database holds no other
        state_reason=endpoint.state_reason,
        failing_since=endpoint.failing_since,
        created_at=endpoint.created_at,
    )


def delivery_state(shown: DeliveryState | None) -> str | None:
    """Return the state as the ledger of deliveries has it."""
    return None if shown is None else _MEANT.get(shown, shown)


def delivery_body(view: DeliveryView) -> DeliveryBody:
    """Return a delivery as it goes out, without what was answered."""
    attempts = [AttemptBody(**_attempt(attempt)) for attempt in view.attempts]
    return DeliveryBody(**_delivery(view), attempts=attempts)


def delivery_detail(view: DeliveryView) -> DeliveryDetail:
    """Return a delivery as it goes out, with what was answered."""
    attempts = [
        AttemptDetail(**_attempt(attempt), response=attempt.response.decode("utf-8", "replace"))
        for attempt in view.attempts
    ]
    return DeliveryDetail(**_delivery(view), attempts=attempts)


def _attempt(attempt: AttemptView) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "started_at": attempt.started_at,
        "duration_ms": attempt.duration_ms,
        "status": attempt.status,
        "error": attempt.error,
    }


def _delivery(view: DeliveryView) -> dict[str, Any]:
    return {
        "id": ids.text("delivery", view.id),
        "webhook": ids.text("endpoint", view.endpoint_id),
        "event": ids.text("event", view.event_id),
        "sequence": view.sequence,
        "type": view.kind,
        "job": ids.text("job", view.job_id) if view.job_id else None,
        "previous_id": ids.text("event", view.previous_id) if view.previous_id else None,
        "state": _SHOWN.get(view.state, view.state),
        "next_at": view.next_at,
        "created_at": view.created_at,
        "finished_at": view.finished_at,
    }
