"""``/v1/events``: everything that happened, numbered without a gap, to read instead of webhooks or after them."""

import re
from typing import Annotated, Any, Final

from flask import Blueprint, Response, request
from pydantic import Field

from shared import event_body, events
from shared.errors import DatabaseAway
from shared.webhooks import Recorded
from web.api.event_stream import MEDIA_TYPE, Stream
from web.api.streaming import in_place
from web.api.waiting import LONGEST_WAIT, PREFERENCE_APPLIED, refused_meanwhile, wait
from web.asking import Strict, preferred_wait, read_query
from web.auth import caller
from web.news import Reader
from web.operations import LAST_EVENT_ID, LINK, PREFER_WAIT, RETRY_AFTER, Answer, operation
from web.problems import BAD_REQUEST, EVENTS_GONE, NOT_ACCEPTABLE, TOO_MANY_EVENT_STREAMS, Problem, retry_after
from web.services import services
from web.wire import Shape, next_link, respond

api = Blueprint("events", __name__)

_LARGEST_SEQUENCE: Final = 2**63 - 1
_NUMBER: Final = re.compile(r"[0-9]{1,19}")
_JSON: Final = "application/json"
_FORMATS: Final = f"The feed comes as {_JSON}, with `Prefer: wait=N` as soon as something happens, or as {MEDIA_TYPE}."
# A stream that found no place goes on for an hour when it finds one: who comes back need not hurry.
_COME_BACK: Final = (10, 30)
_EXAMPLE: Final = """: research use only
retry: 2000

id: 41
event: job.completed
data: {"type":"job.completed","timestamp":"2026-11-23T09:51:05.000000Z","data":{"id":"evt_019abc","sequence":41}}

: still here

"""
_STREAM: Final = {
    "type": "string",
    "description": "Server-sent events: `id` is the sequence, `event` the type, `data` the event as in the JSON; a "
    "comment about every 15 s while nothing happens.",
    "examples": [_EXAMPLE],
}


class EventBody(Shape):
    """An event, as webhooks carry it."""

    type: str
    timestamp: str
    data: dict[str, Any] = Field(description="`id` and `sequence`, then what it is about, with links")


class EventList(Shape):
    """Events in order of their numbers."""

    events: list[EventBody]
    next: int = Field(description="Ask for what comes `after` this one; good for ever")


class EventsQuery(Strict):
    """Which events."""

    after: Annotated[int, Field(ge=0, le=_LARGEST_SEQUENCE)] | None = Field(
        default=None, description="The last number you have seen; without one the feed begins with the oldest there is"
    )
    limit: Annotated[int, Field(ge=1, le=1000)] = Field(default=100, description="Events of one page; no stream's")


@api.get("/v1/events")
@operation(
    "Read the feed",
    {
        200: Answer(
            "Events after the given number.",
            {_JSON: EventList, MEDIA_TYPE: _STREAM},
            (LINK, PREFERENCE_APPLIED, RETRY_AFTER),
        )
    },
    tag="events",
    scope="jobs:read",
    description="Unfiltered, and without a gap: who has seen a number has seen every smaller one. With `Accept: "
    "text/event-stream` it goes on as server-sent events (WHATWG HTML, section 9.2) until the time that `/v1/limits` "
    "tells; then the client comes back with `Last-Event-ID`. Who asked to wait where too "
    "many do is answered at once, with `Retry-After`. Events older than `/v1/limits` tells (`event_days`) are deleted: "
    "who asks for what comes after a number whose next one is gone hears so (410), and which is the `oldest` there is.",
    query=EventsQuery,
    headers=(PREFER_WAIT, LAST_EVENT_ID),
    problems=(BAD_REQUEST, NOT_ACCEPTABLE, EVENTS_GONE, TOO_MANY_EVENT_STREAMS),
)
def feed() -> Response:
    """Return what happened since; with ``Prefer: wait=N`` wait for something to happen, or tell it as a stream."""
    query = read_query(EventsQuery)
    accepted = request.accept_mimetypes
    best = accepted.best_match([_JSON, MEDIA_TYPE]) if accepted else _JSON
    if best is None:
        raise Problem(NOT_ACCEPTABLE, _FORMATS, headers={"Vary": "Accept"})
    after = _resumed(query.after)
    answer = _stream(after) if best == MEDIA_TYPE else _page(after, query.limit)
    answer.headers["Vary"] = "Accept"
    return answer


def _page(after: int | None, limit: int) -> Response:
    here, asking, url = services(), caller(), services().settings.public_url
    with here.database.transaction(asking.tenant_id) as session:
        found = events.since(session, after, limit)
    after = after or 0
    headers: dict[str, str] = {}
    if not found and (seconds := preferred_wait(LONGEST_WAIT)):
        news = wait(here.feed, Reader(after, asking.proof), seconds, headers)
        if news and news.is_refused:
            raise refused_meanwhile()
        if news and news.oldest:
            raise events.EventsGone(after, news.oldest)
        found = list(news.events[:limit]) if news else []
    last = found[-1].seq if found else after
    headers["Link"] = next_link(url + request.path, after=last, limit=limit)
    return respond(EventList(events=[_body(event, url) for event in found], next=last), headers=headers)


def _stream(after: int | None) -> Response:
    here, asking, url = services(), caller(), services().settings.public_url
    after = _beginning(after)
    place = here.event_streams.enter(asking.tenant_id, 0)
    if place is None:
        raise Problem(
            TOO_MANY_EVENT_STREAMS,
            "Every place for a stream of events is taken, or every one of yours.",
            headers={**retry_after(*_COME_BACK), "Vary": "Accept"},
        )
    stream = Stream(
        here, asking.tenant_id, Reader(after, asking.proof), lambda event: _body(event, url).model_dump_json()
    )
    answer = in_place(here.event_streams, place, stream, f"{MEDIA_TYPE}; charset=utf-8")
    # Otherwise nginx would collect a stream until it is worth sending.
    answer.headers["X-Accel-Buffering"] = "no"
    return answer


def _beginning(after: int | None) -> int:
    """Return behind which event a stream begins; raises ``EventsGone``, which it could only tell by its end."""
    here = services()
    try:
        with here.database.transaction(caller().tenant_id) as session:
            found = events.since(session, after, 1)
    except DatabaseAway:  # the stream waits for it: a client that is refused once does not come back
        return after or 0
    if after is None:
        return found[0].seq - 1 if found else 0
    return after


def _resumed(after: int | None) -> int | None:
    """Return behind which event to begin: the last that the client saw of the stream before, if it tells."""
    given = request.headers.get("Last-Event-ID", "").strip()
    if not given:
        return after
    if not _NUMBER.fullmatch(given) or int(given) > _LARGEST_SEQUENCE:
        raise Problem(BAD_REQUEST, "Last-Event-ID must be the `id` of an event of this feed: a number.")
    return int(given)


def _body(event: Recorded, url: str) -> EventBody:
    return EventBody(**event_body.document(event, url))
