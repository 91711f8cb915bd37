"""``/v1/events``: everything that happened, numbered without a gap, to read instead of webhooks or after them."""

from typing import Annotated, Any, Final

from flask import Blueprint, Response, request
from pydantic import Field

from shared import event_body, events
from shared.webhooks import Recorded
from web.api.waiting import LONGEST_WAIT, PREFERENCE_APPLIED, wait
from web.asking import Strict, preferred_wait, read_query
from web.auth import caller
from web.openapi import LINK, PREFER_WAIT, Answer, operation
from web.problems import NOT_ACCEPTABLE, Problem
from web.services import services
from web.wire import Shape, next_link, respond

api = Blueprint("events", __name__)

_LARGEST_SEQUENCE: Final = 2**63 - 1
_NO_STREAM: Final = "The feed comes as application/json alone; `Prefer: wait=N` answers as soon as something happens."


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

    after: Annotated[int, Field(ge=0, le=_LARGEST_SEQUENCE)] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


@api.get("/v1/events")
@operation(
    "Read the feed",
    {200: Answer("Events after the given number.", {"application/json": EventList}, (LINK, PREFERENCE_APPLIED))},
    tag="events",
    scope="jobs:read",
    description="Unfiltered, and without a gap: who has seen a number has seen every smaller one.",
    query=EventsQuery,
    headers=(PREFER_WAIT,),
    problems=(NOT_ACCEPTABLE,),
)
def feed() -> Response:
    """Return what happened since; with ``Prefer: wait=N`` wait for something to happen."""
    query = read_query(EventsQuery)
    if request.accept_mimetypes and not request.accept_mimetypes.best_match(["application/json"]):
        raise Problem(NOT_ACCEPTABLE, _NO_STREAM, headers={"Vary": "Accept"})
    tenant, database = caller().tenant_id, services().database

    def look() -> list[Recorded]:
        with database.transaction(tenant) as session:
            return events.since(session, query.after, query.limit)

    seconds = preferred_wait(LONGEST_WAIT) or 0
    found, waited = wait(look(), look, lambda seen: bool(seen) or not seconds, seconds)
    url = services().settings.public_url
    last = found[-1].seq if found else query.after
    headers = {"Link": next_link(url + request.path, after=last, limit=query.limit)}
    if waited:
        headers["Preference-Applied"] = f"wait={seconds}"
    return respond(EventList(events=[_body(event, url) for event in found], next=last), headers=headers)


def _body(event: Recorded, url: str) -> EventBody:
    return EventBody(**event_body.document(event, url))
