"""``/v1/jobs``: the list of jobs, and one job, which may be waited for."""

import base64
import binascii
import hashlib
import json
from typing import Annotated, Final
from uuid import UUID

from flask import Blueprint, Response, request
from pydantic import Field

from shared import history, ids
from shared.views import JobView
from web.api.job_view import load, told, told_of_all
from web.api.waiting import LONGEST_WAIT, PREFERENCE_APPLIED, wait
from web.asking import NoQuery, Strict, preferred_wait, read_query, wrong
from web.auth import caller
from web.openapi import ETAG, IF_NONE_MATCH, LINK, PREFER_WAIT, RETRY_AFTER, Answer, operation
from web.problems import GONE, NOT_FOUND
from web.services import services
from web.wire import JobBody, Shape, State, job_url, next_link, respond

api = Blueprint("jobs", __name__)

_POLL_AFTER: Final = 2


class JobList(Shape):
    """A page of jobs, newest first."""

    jobs: list[JobBody]
    next: str | None = Field(description="Cursor of the next page")


class ListQuery(Strict):
    """What to list."""

    state: State | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(max_length=64)] | None = Field(default=None, description="`next` of the page before")


@api.get("/v1/jobs")
@operation(
    "List jobs",
    {200: Answer("Jobs, newest first.", {"application/json": JobList}, (LINK,))},
    tag="jobs",
    scope="jobs:read",
    query=ListQuery,
)
def index() -> Response:
    """List the tenant's jobs."""
    query = read_query(ListQuery)
    after = None if query.cursor is None else _read_cursor(query.cursor)
    with services().database.transaction(caller().tenant_id) as session:
        found = history.jobs(session, state=query.state, after=after, limit=query.limit + 1)
        bodies = told_of_all(session, found[: query.limit])
    cursor = _cursor(found[query.limit - 1].id) if len(found) > query.limit else None
    headers = {}
    if cursor is not None:
        path = services().settings.public_url + request.path
        headers["Link"] = next_link(path, state=query.state, limit=query.limit, cursor=cursor)
    return respond(JobList(jobs=bodies, next=cursor), headers=headers)


@api.get("/v1/jobs/<job>")
@operation(
    "Read a job",
    {
        200: Answer("The job as it is now.", {"application/json": JobBody}, (ETAG, RETRY_AFTER, PREFERENCE_APPLIED)),
        304: Answer("Neither state nor counts have changed.", {}, (ETAG, RETRY_AFTER)),
    },
    tag="jobs",
    scope="jobs:read",
    query=NoQuery,
    headers=(IF_NONE_MATCH, PREFER_WAIT),
    problems=(NOT_FOUND, GONE),
)
def read(job: str) -> Response:
    """Read a job; with ``Prefer: wait=N`` once its state or counts change."""
    read_query(NoQuery)
    job_id = ids.parse("job", job)
    view = load(job_id)
    seconds = preferred_wait(LONGEST_WAIT)
    known = set(request.if_none_match.as_set(include_weak=True)) or {_etag(view)}
    waited = False
    if seconds:
        view, waited = wait(
            view, lambda: load(job_id), lambda seen: seen.is_closed or _etag(seen) not in known, seconds
        )
    headers = {"ETag": f'W/"{_etag(view)}"', "Content-Location": job_url(services().settings.public_url, view)}
    if not view.is_closed:
        headers["Retry-After"] = "0" if waited else str(_POLL_AFTER)
    if waited:
        headers["Preference-Applied"] = f"wait={seconds}"
    if request.if_none_match.contains_weak(_etag(view)):
        return Response(status=304, headers=headers)
    with services().database.transaction(caller().tenant_id) as session:
        body = told(session, view)
    return respond(body, headers=headers)


def _etag(view: JobView) -> str:
    """Return what names the state and the counts, and nothing that moves by itself."""
    seen = [view.id.hex, view.state, view.round, view.total, *sorted(view.counts.items())]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]


def _cursor(job_id: UUID) -> str:
    return base64.urlsafe_b64encode(job_id.bytes).rstrip(b"=").decode()


def _read_cursor(text: str) -> UUID:
    try:
        return UUID(bytes=base64.b64decode(text.replace("-", "+").replace("_", "/") + "==", validate=True))
    except (binascii.Error, ValueError):
        raise wrong("cursor", "is not one that this list gave out") from None
