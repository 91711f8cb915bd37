"""``/v1/jobs``: the list of jobs, and one job, which may be waited for."""

import base64
import binascii
from typing import Annotated, Final
from uuid import UUID

from flask import Blueprint, Response, request
from pydantic import Field, StringConstraints

from shared import ids, job_search
from web import news
from web.api.job_view import load, told, told_of_all
from web.api.waiting import LONGEST_WAIT, PREFERENCE_APPLIED, refused_meanwhile, wait
from web.asking import PLAIN, NoQuery, Strict, preferred_wait, read_query, wrong
from web.auth import caller
from web.intake.options import Instant, ModelId
from web.news import AsKnown
from web.operations import ETAG, IF_NONE_MATCH, LINK, PREFER_WAIT, RETRY_AFTER, Answer, operation
from web.problems import GONE, NOT_FOUND
from web.services import services
from web.wire import JobBody, Shape, State, job_url, next_link, respond

api = Blueprint("jobs", __name__)

_POLL_AFTER: Final = 2


class JobList(Shape):
    """A page of jobs, newest first."""

    jobs: list[JobBody]
    next: str | None = Field(
        description="Cursor of the next page. With conditions a page may hold fewer jobs than `limit`, even none, "
        "while there is more to look through: go on until this is null"
    )


class ListQuery(Strict):
    """What to list: jobs that fulfil every condition given."""

    state: State | None = None
    created_after: Instant | None = Field(default=None, description="At this time or later (RFC 3339)")
    created_before: Instant | None = Field(default=None, description="Before this time (RFC 3339)")
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), PLAIN] | None = Field(
        default=None,
        description="What the file name or `custom_id` of a photo begins with (as written, in capitals or in small "
        "letters), what the job's id begins with, the id of one of its photos, or part of a value of its metadata",
    )
    key: Annotated[str, Field(pattern=r"^key_[0-9a-f]{32}$")] | None = Field(
        default=None, description="Id of the API key that sent the job"
    )
    model: ModelId | None = Field(
        default=None, description="Id of the model that was asked for, or that answered one of the photos"
    )
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(max_length=64)] | None = Field(default=None, description="`next` of the page before")


@api.get("/v1/jobs")
@operation(
    "List jobs",
    {200: Answer("Jobs, newest first.", {"application/json": JobList}, (LINK,))},
    tag="jobs",
    scope="jobs:read",
    description="A search looks through 10,000 jobs a page at most, so that it stays fast however long the history is.",
    query=ListQuery,
)
def index() -> Response:
    """List the tenant's jobs."""
    query = read_query(ListQuery)
    wanted = job_search.Wanted(
        state=query.state,
        created_after=query.created_after,
        created_before=query.created_before,
        text=query.text,
        key_id=ids.parse("key", query.key) if query.key else None,
        model=query.model,
    )
    after = None if query.cursor is None else _read_cursor(query.cursor)
    with services().database.transaction(caller().tenant_id) as session:
        found = job_search.find(session, wanted, after=after, limit=query.limit)
        bodies = told_of_all(session, found.jobs)
    cursor = None if found.next is None else _cursor(found.next)
    headers = {}
    if cursor is not None:
        asked = query.model_dump(mode="json", exclude={"cursor", "limit"}, exclude_none=True)
        path = services().settings.public_url + request.path
        headers["Link"] = next_link(path, **asked, limit=query.limit, cursor=cursor)
    return respond(JobList(jobs=bodies, next=cursor), headers=headers)


@api.get("/v1/jobs/<job>")
@operation(
    "Read a job",
    {
        200: Answer("The job as it is now.", {"application/json": JobBody}, (ETAG, RETRY_AFTER, PREFERENCE_APPLIED)),
        304: Answer("Neither state nor counts have changed.", {}, (ETAG, RETRY_AFTER, PREFERENCE_APPLIED)),
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
    known = frozenset(request.if_none_match.as_set(include_weak=True)) or frozenset({news.mark(view)})
    headers: dict[str, str] = {}
    if seconds and not news.is_news(view, known):
        changed = wait(services().changes, AsKnown(job_id, known, caller().proof), seconds, headers)
        if changed and changed.is_refused:
            raise refused_meanwhile()
        view = load(job_id) if changed else view
    etag = news.mark(view)
    headers |= {"ETag": f'W/"{etag}"', "Content-Location": job_url(services().settings.public_url, view)}
    if view.is_closed:
        headers.pop("Retry-After", None)
    else:
        headers.setdefault("Retry-After", "0" if "Preference-Applied" in headers else str(_POLL_AFTER))
    if request.if_none_match.contains_weak(etag):
        return Response(status=304, headers=headers)
    with services().database.transaction(caller().tenant_id) as session:
        body = told(session, view)
    return respond(body, headers=headers)


def _cursor(job_id: UUID) -> str:
    return base64.urlsafe_b64encode(job_id.bytes).rstrip(b"=").decode()


def _read_cursor(text: str) -> UUID:
    try:
        return UUID(bytes=base64.b64decode(text.replace("-", "+").replace("_", "/") + "==", validate=True))
    except (binascii.Error, ValueError):
        raise wrong("cursor", "is not one that this list gave out") from None
