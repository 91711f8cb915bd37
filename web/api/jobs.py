"""``/v1/jobs``: taking a job in, and everything there is to ask or do about one."""

import base64
import binascii
import hashlib
import json
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from flask import Blueprint, Response, request
from pydantic import Field
from sqlalchemy.orm import Session

from shared import history, ids, receipts
from shared.errors import Conflict, DatabaseAway, Gone
from shared.history import JobView
from shared.ledger.cancel import cancel as cancel_job
from shared.ledger.deletion import delete as delete_job
from shared.ledger.deletion import hold_closed
from shared.ledger.retry import WHEN, failed_photos
from shared.ledger.retry import retry as retry_job
from shared.storage.keys import originals_of
from web.api.waiting import LONGEST_WAIT, PREFERENCE_APPLIED, wait
from web.asking import NoQuery, Strict, preferred_wait, read_query, wrong
from web.auth import caller
from web.intake import fingerprint
from web.intake.options import JobOptions, QueryOptions
from web.intake.submission import accept
from web.openapi import (
    CONTENT_LOCATION,
    ETAG,
    IDEMPOTENCY_KEY,
    IF_NONE_MATCH,
    LINK,
    LOCATION,
    PREFER_WAIT,
    REPLAYED,
    RETRY_AFTER,
    Answer,
    operation,
)
from web.outlook import outlook
from web.problems import (
    BROKEN_BODY,
    CONFLICT,
    DUPLICATE_CUSTOM_ID,
    GONE,
    INVALID_OPTIONS,
    MODEL_AWAY,
    NO_PHOTOS,
    NOT_FOUND,
    STORAGE_AWAY,
    TOO_LARGE,
    TOO_MANY_PHOTOS,
    UNKNOWN_MODEL,
    UNSUPPORTED_TYPE,
)
from web.replay import perform
from web.services import services
from web.wire import JobBody, ResultBody, Shape, State, job_body, next_link, respond, result_body

api = Blueprint("jobs", __name__)

_POLL_AFTER: Final = 2
_TAG: Final = "jobs"

_MULTIPART: Final = {
    "type": "object",
    "required": ["photos"],
    "properties": {
        "photos": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "job": {"$ref": "#/components/schemas/JobOptions"},
    },
}


class JobList(Shape):
    """A page of jobs, newest first."""

    jobs: list[JobBody]
    next: str | None = Field(description="Cursor of the next page")


class ListQuery(Strict):
    """What to list."""

    state: State | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(max_length=64)] | None = Field(default=None, description="`next` of the page before")


@api.post("/v1/jobs")
@operation(
    "Send photos",
    {
        200: Answer(
            "With `Prefer: wait=N`, for one photo: its answer, which came in time.",
            {"application/json": ResultBody},
            (LOCATION, CONTENT_LOCATION, REPLAYED, PREFERENCE_APPLIED),
        ),
        202: Answer(
            "The job is taken in: its photos are stored and accounted for.",
            {"application/json": JobBody},
            (LOCATION, CONTENT_LOCATION, REPLAYED),
        ),
    },
    tag=_TAG,
    scope="jobs:write",
    description="Photos as multipart parts named `photos` with an optional `job` part, or one photo as the raw body. "
    "A photo that is empty, damaged, too large or of a wrong type does not harm its job: it is answered `rejected`.",
    query=QueryOptions,
    body={"multipart/form-data": _MULTIPART, "image/*": {"type": "string", "format": "binary"}},
    schemas=(JobOptions,),
    headers=(IDEMPOTENCY_KEY, PREFER_WAIT),
    problems=(
        BROKEN_BODY,
        TOO_LARGE,
        TOO_MANY_PHOTOS,
        UNSUPPORTED_TYPE,
        INVALID_OPTIONS,
        NO_PHOTOS,
        DUPLICATE_CUSTOM_ID,
        UNKNOWN_MODEL,
        STORAGE_AWAY,
        MODEL_AWAY,
    ),
)
def create() -> Response:
    """Take a job in."""
    accepted = accept(services(), caller(), request)
    here = accepted.job.links.self
    headers = {"Location": here, "Content-Location": here}
    if accepted.replayed:
        headers["Idempotency-Replayed"] = "true"
    seconds = preferred_wait(LONGEST_WAIT)
    if seconds and accepted.job.total == 1 and "jobs:read" in caller().scopes:
        answer = _answer_in_time(ids.parse("job", accepted.job.id), seconds)
        if answer is not None:
            headers |= {"Preference-Applied": f"wait={seconds}"}
            headers["Content-Location"] = f"{services().settings.public_url}/v1/images/{answer.image}"
            return respond(answer, 200, headers)
    return respond(accepted.job, 202, headers)


def _answer_in_time(job_id: UUID, seconds: int) -> ResultBody | None:
    """Return the answer of a job of one photo if it comes within these seconds."""
    tenant = caller().tenant_id
    try:
        view, _ = wait(_load(job_id), lambda: _load(job_id), lambda seen: seen.is_closed, seconds)
        if not view.is_closed:
            return None
        with services().database.transaction(tenant) as session:
            (row,) = history.results(session, view, limit=1).rows
    except DatabaseAway:
        return None  # the job is taken in all the same, and 202 says where to look
    return result_body(row, services().settings.public_url)


@api.get("/v1/jobs")
@operation(
    "List jobs",
    {200: Answer("Jobs, newest first.", {"application/json": JobList}, (LINK,))},
    tag=_TAG,
    scope="jobs:read",
    query=ListQuery,
)
def index() -> Response:
    """List the tenant's jobs."""
    query = read_query(ListQuery)
    after = None if query.cursor is None else _read_cursor(query.cursor)
    with services().database.transaction(caller().tenant_id) as session:
        found = history.jobs(session, state=query.state, after=after, limit=query.limit + 1)
        bodies = [_body(view, *outlook(session, view)) for view in found[: query.limit]]
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
    tag=_TAG,
    scope="jobs:read",
    query=NoQuery,
    headers=(IF_NONE_MATCH, PREFER_WAIT),
    problems=(NOT_FOUND, GONE),
)
def read(job: str) -> Response:
    """Read a job; with ``Prefer: wait=N`` once its state or counts change."""
    read_query(NoQuery)
    job_id = ids.parse("job", job)
    view = _load(job_id)
    seconds = preferred_wait(LONGEST_WAIT)
    known = set(request.if_none_match.as_set(include_weak=True)) or {_etag(view)}
    waited = False
    if seconds:
        view, waited = wait(
            view, lambda: _load(job_id), lambda seen: seen.is_closed or _etag(seen) not in known, seconds
        )
    headers = {"ETag": f'W/"{_etag(view)}"', "Content-Location": _url(view)}
    if not view.is_closed:
        headers["Retry-After"] = "0" if waited else str(_POLL_AFTER)
    if waited:
        headers["Preference-Applied"] = f"wait={seconds}"
    if request.if_none_match.contains_weak(_etag(view)):
        return Response(status=304, headers=headers)
    with services().database.transaction(caller().tenant_id) as session:
        rate, eta = outlook(session, view)
    return respond(_body(view, rate, eta), headers=headers)


@api.post("/v1/jobs/<job>/cancel")
@operation(
    "Cancel a job",
    {200: Answer("The job; finished photos keep their result.", {"application/json": JobBody}, (REPLAYED,))},
    tag=_TAG,
    scope="jobs:write",
    query=NoQuery,
    headers=(IDEMPOTENCY_KEY,),
    problems=(NOT_FOUND, GONE, CONFLICT),
)
def cancel(job: str) -> Response:
    """Cancel a job. Cancelling twice is no error."""
    read_query(NoQuery)
    job_id = ids.parse("job", job)
    tenant = caller().tenant_id

    def act(session: Session) -> JobBody:
        history.job(session, job_id)
        cancel_job(session, tenant, job_id)
        view = history.job(session, job_id)
        return _body(view, *outlook(session, view))

    return perform(fingerprint.of_request("POST", request.path, {}), JobBody, act)


@api.post("/v1/jobs/<job>/retry")
@operation(
    "Try failed photos again",
    {200: Answer("The job, open again in a new round.", {"application/json": JobBody}, (REPLAYED,))},
    tag=_TAG,
    scope="jobs:write",
    description="Only for a closed job with failed photos whose originals are still kept; every other photo keeps its "
    "answer. It closes again with another event and with a receipt that names the one before. A deadline that has "
    "passed, and the failure rate of a job that was stopped by it, do not hold for the new round.",
    query=NoQuery,
    headers=(IDEMPOTENCY_KEY,),
    problems=(NOT_FOUND, GONE, CONFLICT, STORAGE_AWAY),
)
def retry(job: str) -> Response:
    """Try the failed photos of a closed job again."""
    read_query(NoQuery)
    job_id = ids.parse("job", job)
    tenant, weight = caller().tenant_id, caller().weight
    lanes: list[str] = []

    def act(session: Session) -> JobBody:
        _hold(session, tenant, job_id, WHEN)
        failed = failed_photos(session, job_id)
        kept = {item.key for item in services().storage.list(originals_of(job_id))} if failed else set()
        ordinals = [photo.ordinal for photo in failed if photo.storage_key in kept]
        if failed and not ordinals:
            raise Conflict("the originals of the failed photos are gone; send them as a new job")
        receipt = _receipt_digest(session, job_id)
        lanes.append(retry_job(session, tenant, job_id, ordinals, receipt=receipt, weight=weight))
        view = history.job(session, job_id)
        return _body(view, *outlook(session, view))

    answer = perform(fingerprint.of_request("POST", request.path, {}), JobBody, act)
    if lanes:
        services().broker.wake(lanes)
    return answer


@api.delete("/v1/jobs/<job>")
@operation(
    "Delete a job",
    {204: Answer("It is gone: its photos' rows and answers at once, what lies in the storage soon after.")},
    tag=_TAG,
    scope="jobs:write",
    description="Only a closed job can be deleted. What is left is its tombstone, which every later question about the "
    "job is answered with (410).",
    query=NoQuery,
    problems=(NOT_FOUND, GONE, CONFLICT),
)
def delete(job: str) -> Response:
    """Delete a closed job."""
    read_query(NoQuery)
    job_id = ids.parse("job", job)
    tenant = caller().tenant_id
    with services().database.transaction(tenant) as session:
        _hold(session, tenant, job_id, "cancel it first, then delete it")
        delete_job(session, tenant, job_id, _receipt_digest(session, job_id))
    return Response(status=204)


def _hold(session: Session, tenant: UUID, job_id: UUID, wish: str) -> None:
    """Lock a closed job; raises ``Conflict`` while it is open, ``NotFound``, or ``JobDeleted`` with its tombstone."""
    history.job(session, job_id)
    try:
        hold_closed(session, tenant, job_id, wish)
    except Gone:
        history.job(session, job_id)  # somebody was faster, and this says so with the tombstone
        raise


def _receipt_digest(session: Session, job_id: UUID) -> str:
    """Return the digest of the closed receipt of a job that the transaction holds."""
    view = history.job(session, job_id)
    return receipts.closed_digest(view, history.manifest(session, job_id), view.receipt_digest)


def _load(job_id: UUID) -> JobView:
    with services().database.transaction(caller().tenant_id) as session:
        return history.job(session, job_id)


def _etag(view: JobView) -> str:
    """Return what names the state and the counts, and nothing that moves by itself."""
    seen = [view.id.hex, view.state, view.round, view.total, *sorted(view.counts.items())]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]


def _body(view: JobView, rate: float | None, eta: datetime | None) -> JobBody:
    return job_body(view, services().settings.public_url, rate=rate, eta=eta)


def _url(view: JobView) -> str:
    return f"{services().settings.public_url}/v1/jobs/{ids.text('job', view.id)}"


def _cursor(job_id: UUID) -> str:
    return base64.urlsafe_b64encode(job_id.bytes).rstrip(b"=").decode()


def _read_cursor(text: str) -> UUID:
    try:
        return UUID(bytes=base64.b64decode(text.replace("-", "+").replace("_", "/") + "==", validate=True))
    except (binascii.Error, ValueError):
        raise wrong("cursor", "is not one that this list gave out") from None
