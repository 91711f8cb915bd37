"""``POST /v1/jobs``: photos in, and 202 with the job; for one photo that somebody waits for, its answer."""

from typing import Final
from uuid import UUID

from flask import Blueprint, Response, request

from shared import ids
from shared.errors import DatabaseAway
from web.api.waiting import LONGEST_WAIT, PREFERENCE_APPLIED, answer, applied
from web.asking import preferred_wait, prefers_async
from web.auth import caller
from web.intake.options import JobList, JobOptions, QueryOptions
from web.intake.pressure import entrance
from web.intake.submission import accept
from web.operations import CONTENT_LOCATION, IDEMPOTENCY_KEY, LOCATION, PREFER_WAIT, REPLAYED, Answer, operation
from web.problems import (
    BROKEN_BODY,
    DUPLICATE_CUSTOM_ID,
    INVALID_OPTIONS,
    LENGTH_REQUIRED,
    MODEL_AWAY,
    NO_PHOTOS,
    SERVICE_FULL,
    STORAGE_AWAY,
    TENANT_FULL,
    TOO_LARGE,
    TOO_MANY_PHOTOS,
    TOO_MANY_UPLOADS,
    TOO_SLOW,
    UNKNOWN_MODEL,
    UNSUPPORTED_TYPE,
)
from web.services import services
from web.wire import JobBody, ResultBody, respond, result_body

api = Blueprint("sending", __name__)

_MULTIPART: Final = {
    "type": "object",
    "required": ["photos"],
    "properties": {
        "photos": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "job": {"$ref": "#/components/schemas/JobOptions"},
    },
}


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
            (LOCATION, CONTENT_LOCATION, REPLAYED, PREFERENCE_APPLIED),
        ),
    },
    tag="jobs",
    scope="jobs:write",
    description="Photos as multipart parts named `photos` with an optional `job` part, or one photo as the raw body. "
    "A photo that is empty, damaged, too large or of a wrong type does not harm its job: it is answered `rejected`. "
    "An archive is expanded, and addresses of a list are fetched, after the answer: the job is `receiving` until then, "
    "and `total` of an archive grows. Every entry and every address gets one answer; what is refused says why.",
    query=QueryOptions,
    body={
        "multipart/form-data": _MULTIPART,
        "image/*": {"type": "string", "format": "binary"},
        "application/zip": {"type": "string", "format": "binary"},
        "application/json": JobList,
    },
    schemas=(JobOptions,),
    headers=(IDEMPOTENCY_KEY, PREFER_WAIT),
    problems=(
        BROKEN_BODY,
        LENGTH_REQUIRED,
        TOO_LARGE,
        TOO_MANY_PHOTOS,
        UNSUPPORTED_TYPE,
        INVALID_OPTIONS,
        NO_PHOTOS,
        DUPLICATE_CUSTOM_ID,
        UNKNOWN_MODEL,
        STORAGE_AWAY,
        MODEL_AWAY,
        TENANT_FULL,
        SERVICE_FULL,
        TOO_MANY_UPLOADS,
        TOO_SLOW,
    ),
)
def create() -> Response:
    """Take a job in."""
    with entrance(services(), caller()) as place:
        accepted = accept(services(), caller(), request, place)
    here = accepted.job.links.self
    headers = {"Location": here, "Content-Location": here}
    if accepted.replayed:
        headers["Idempotency-Replayed"] = "true"
    done = ["respond-async"] if prefers_async() else []
    seconds = preferred_wait(LONGEST_WAIT)
    if seconds and accepted.job.total == 1 and "jobs:read" in caller().scopes:
        body, waited = _answer_in_time(ids.parse("job", accepted.job.id), seconds, is_new=not accepted.replayed)
        if body is not None:
            headers |= {"Preference-Applied": applied(seconds)}
            headers["Content-Location"] = f"{services().settings.public_url}/v1/images/{body.image}"
            return respond(body, 200, headers)
        if waited:
            done.append(applied(seconds))
    if done:
        headers["Preference-Applied"] = ", ".join(done)
    return respond(accepted.job, 202, headers)


def _answer_in_time(job_id: UUID, seconds: int, *, is_new: bool) -> tuple[ResultBody | None, bool]:
    """Return the answer of a job of one photo if it comes within these seconds, and whether it was waited for."""
    try:
        found, waited = answer(job_id, seconds, is_new=is_new)
    except DatabaseAway:
        return None, False  # the job is taken in all the same, and 202 says where to look
    return None if found is None else result_body(found, services().settings.public_url), waited
