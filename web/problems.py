"""Every HTTP error there is, and the one place that chooses its status code (RFC 9457, problem+json).

Each kind has an address of its own, ``/problems/<name>``, with a page that says what it means and what to do.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flask import Flask, Response, current_app, g, json, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from shared import errors
from shared.accounts import KeyUnknown
from shared.endpoints import EndpointsFull
from shared.events import EventsGone
from shared.ledger import idempotency
from shared.logs import logger
from shared.views import JobDeleted
from web.wire import tombstone

log = logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """A documented type of problem: its name in the address, its status, its title and what its page says."""

    name: str
    status: int
    title: str
    meaning: str


KINDS: Final[dict[str, Kind]] = {}


def _kind(name: str, status: int, title: str, meaning: str) -> Kind:
    KINDS[name] = Kind(name, status, title, meaning)
    return KINDS[name]


BAD_REQUEST = _kind("bad-request", 400, "The request cannot be understood", "A header or the address is malformed.")
BROKEN_BODY = _kind(
    "broken-body",
    400,
    "The body is broken",
    "The body ended early, is empty, or does not follow its Content-Type. Nothing was kept.",
)
UNAUTHORIZED = _kind(
    "unauthorized",
    401,
    "A valid API key is needed",
    "There was no `Authorization: Bearer pxv_...`, or its key is unknown, expired or revoked.",
)
MISSING_SCOPE = _kind(
    "missing-scope",
    403,
    "The API key may not do this",
    "The key is valid but lacks the scope that the answer names.",
)
BAD_LINK = _kind(
    "bad-link",
    403,
    "This link is not one of ours",
    "A link to a picture holds only as it was given out: whole and unaltered. This one is not.",
)
NOT_FOUND = _kind(
    "not-found",
    404,
    "There is nothing here",
    "The address is unknown, or what it names belongs to nobody you may ask for. Both look the same on purpose.",
)
NOT_YET = _kind(
    "not-yet",
    404,
    "This is not there (yet)",
    "The photo is known, but it has no working copy or no evidence: it still waits, or its outcome has none. "
    "Or the model is known, and came without a report.",
)
METHOD_NOT_ALLOWED = _kind(
    "method-not-allowed",
    405,
    "This method is not offered here",
    "There is something at this address, but not by this method.",
)
NOT_ACCEPTABLE = _kind(
    "not-acceptable",
    406,
    "No such format",
    "The Accept header names no format that this answer comes in; the detail lists those there are.",
)
CONFLICT = _kind(
    "conflict", 409, "The present state does not allow this", "It has moved on since you last looked, or not yet."
)
TOO_MANY_WEBHOOKS = _kind(
    "too-many-webhooks",
    409,
    "There are as many webhooks as a tenant may have",
    "Nothing was made. `/v1/limits` tells how many there may be (`max_webhooks`); the `webhook` of a single job does "
    "not count, and one webhook may hear of any number of kinds.",
)
GONE = _kind(
    "gone",
    410,
    "The job was deleted",
    "Its photos and answers are gone for good; `tombstone` says what it was.",
)
EVENTS_GONE = _kind(
    "events-gone",
    410,
    "These events were deleted",
    "Events stay in the feed as long as `/v1/limits` tells, and the number asked for is older: the next one is gone. "
    "`oldest` is the smallest number there is; go on with `after` one below it, and read the jobs themselves for what "
    "happened before. Without `after` the feed begins with the oldest event there is.",
)
LINK_ENDED = _kind(
    "link-ended",
    410,
    "This link has ended",
    "Links to pictures are good for minutes, and no longer than the API key that asked for them.",
)
IN_FLIGHT = _kind(
    "request-in-flight",
    409,
    "A request with this Idempotency-Key is still running",
    "The first request with this key has no answer yet. It ends soon, or it is taken over by who asks again.",
)
LENGTH_REQUIRED = _kind(
    "length-required",
    411,
    "A body of this type needs a Content-Length",
    "Without one, a photo or an archive that breaks off on the way looks whole. Send its length, or send it as "
    "multipart/form-data, which says itself where it ends.",
)
TOO_LARGE = _kind(
    "request-too-large", 413, "The request is too large", "It has more bytes than the service takes at once."
)
TOO_MANY_PHOTOS = _kind(
    "too-many-photos", 413, "Too many photos for one job", "It has more photos than a job may have."
)
UNSUPPORTED_TYPE = _kind(
    "unsupported-type",
    415,
    "This type of body is not taken here",
    "The answer says which types are: photos come as multipart/form-data, as one image/* body, as application/zip or "
    "in application/json, the rest as application/json.",
)
INVALID_OPTIONS = _kind(
    "invalid-options",
    422,
    "An option is wrong",
    "`errors` names each one: `pointer` (a JSON pointer) in a JSON document, `parameter` in the query.",
)
REFUSED = _kind("refused", 422, "This cannot be done", "It is well-formed, but asks for what cannot be.")
NO_PHOTOS = _kind(
    "no-photos", 422, "The job has no photos", "A form came without a part named `photos`, or a list without an image."
)
DUPLICATE_CUSTOM_ID = _kind(
    "duplicate-custom-id",
    422,
    "A custom_id occurs twice",
    "Within a job each custom_id must be unique; `errors` points at the second one.",
)
UNKNOWN_MODEL = _kind(
    "unknown-model", 422, "There is no such model", "The job asks for a model that is not served here."
)
MODEL_REFUSED = _kind(
    "model-refused",
    422,
    "The model cannot serve",
    "The bundle is not whole, its id is not one, or it failed the check that each must pass; the detail says which.",
)
KEY_REUSED = _kind(
    "idempotency-key-reused",
    422,
    "This Idempotency-Key was used for another request",
    "A key stands for one request, and this one was used for a request with another body or other options.",
)
TENANT_FULL = _kind(
    "too-much-waiting",
    429,
    "Too much of yours waits already",
    "What you have queued in this lane takes longer than the service lets anybody queue. Nothing was kept. Come back "
    "when Retry-After has passed, or cancel a job; other lanes may be free: name one with `priority` in the query.",
)
RATE_LIMITED = _kind(
    "rate-limited",
    429,
    "Too many requests",
    "The API key, all keys of its tenant together, whoever opens the links that it gave, or an address without a key "
    "ask more often than the service lets anybody ask. Nothing was done. Come back when Retry-After has passed; the "
    "RateLimit header of every answer to a key says what is left, and `/v1/limits` what there is.",
)
TOO_MANY_REFUSED = _kind(
    "too-many-refused-keys",
    429,
    "Too many unknown API keys came from this address",
    "The address that the request comes from sent too many keys that are unknown, expired or revoked, so this one was "
    "not looked up. Come back when Retry-After has passed. Keys that were good a moment ago are served meanwhile.",
)
INTERNAL = _kind(
    "internal-error",
    500,
    "Something went wrong on our side",
    "Nothing half done was kept. Tell us the answer's `request_id`.",
)
DATABASE_AWAY = _kind("database-away", 503, "The database is out of reach", "Nothing was lost.")
STORAGE_AWAY = _kind("storage-away", 503, "The photo storage is out of reach", "It is away or full. Nothing was kept.")
MODEL_AWAY = _kind(
    "model-away",
    503,
    "There is no model to answer with",
    "The bundle is missing or altered. Jobs are accepted and wait; no score is ever made up.",
)
SERVICE_FULL = _kind(
    "service-full",
    503,
    "Too much waits in all",
    "The service has more to do than it promises to hold; bulk is turned away first. Nothing was kept. Come back when "
    "Retry-After has passed.",
)
TOO_MANY_UPLOADS = _kind(
    "too-many-uploads",
    503,
    "Too many uploads at once",
    "All places for bodies that come in are taken. Nothing was read. Try again when Retry-After has passed.",
)
TOO_MANY_STREAMS = _kind(
    "too-many-streams",
    503,
    "Too many results are streamed at once",
    "All places for results that stream out are taken, or all of yours. Try again when Retry-After has passed, or read "
    "them by pages of JSON, which need no place.",
)
TOO_MANY_EVENT_STREAMS = _kind(
    "too-many-event-streams",
    503,
    "Too many streams of events at once",
    "All places for streams of events are taken, or all of yours. Come back when Retry-After has passed with the same "
    "Last-Event-ID, or read the feed as application/json: nothing is missed either way.",
)
TOO_SLOW = _kind(
    "too-slow",
    408,
    "The body comes in too slowly",
    "Less came than a mobile telephone sends on a bad line. Nothing was kept. Send it again where the line is better.",
)
UNAVAILABLE = _kind(
    "unavailable",
    503,
    "A part we need is out of reach",
    "The service cannot work without it. Nothing half done was kept.",
)


_NOTHING: Final = "There is no such thing here."


class Problem(Exception):  # the name RFC 9457 gives it
    """Ends a request with an answer of the given kind.

    ``errors`` are RFC 9457 validation entries: ``{"detail", "pointer"}`` or ``{"detail", "parameter"}``; ``members``
    are further members of the answer.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def response(self) -> Response:
        """Return the answer: the same bytes for the same problem and request id, so that it tells nothing apart."""
        body: dict[str, Any] = {
            "type": f"{current_app.extensions['poxvisio'].settings.public_url}/problems/{self.kind.name}",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = self.errors
        body |= self.members
        if request_id := g.get("request_id"):
            body["request_id"] = request_id
        answer = Response(json.dumps(body, ensure_ascii=False) + "\n", status=self.kind.status, mimetype=MEDIA_TYPE)
        answer.headers.update(self.headers)
        return answer


def not_found() -> Problem:
    """Return the one answer to every id that is malformed, unknown or another tenant's."""
    return Problem(NOT_FOUND, _NOTHING)


def retry_after(least: int = 1, most: int = 5) -> dict[str, str]:
    """Return a short, jittered Retry-After, so that clients do not come back all at once."""
    return {"Retry-After": str(random.randint(least, most))}  # noqa: S311  # spreads load, guards nothing


_ANSWERS: Final[tuple[tuple[type[errors.PoxVisioError], Kind, str], ...]] = (
    (KeyUnknown, UNAUTHORIZED, "The API key is unknown, expired or revoked."),
    (errors.NotFound, NOT_FOUND, _NOTHING),
    # An empty sentence: the error's own text, which is written for people.
    (idempotency.InFlight, IN_FLIGHT, ""),
    (idempotency.TakenOver, IN_FLIGHT, ""),
    (EventsGone, EVENTS_GONE, ""),
    (errors.Gone, GONE, ""),
    (EndpointsFull, TOO_MANY_WEBHOOKS, ""),
    (errors.Conflict, CONFLICT, ""),
    (errors.Refused, REFUSED, ""),
    (errors.DatabaseAway, DATABASE_AWAY, "The database is out of reach; try again in a moment."),
    (errors.StorageAway, STORAGE_AWAY, "The photo storage is out of reach or full; try again in a moment."),
    (errors.BundleError, MODEL_AWAY, "The model cannot be served at present; jobs are accepted and wait."),
    (errors.Unavailable, UNAVAILABLE, "A part we need is out of reach; try again in a moment."),
    (errors.PoxVisioError, INTERNAL, "Something went wrong on our side."),
)


def problem_of(error: errors.PoxVisioError) -> Problem:
    """Return what the world hears of one of our own errors."""
    kind, detail = next((kind, detail) for cause, kind, detail in _ANSWERS if isinstance(error, cause))
    headers = {}
    if kind is UNAUTHORIZED:
        headers = challenge()
    elif isinstance(error, idempotency.InFlight):
        headers = {"Retry-After": str(error.retry_after)}
    elif kind is IN_FLIGHT or kind.status == UNAVAILABLE.status:
        headers = retry_after()
    members: dict[str, Any] = {}
    if isinstance(error, JobDeleted):
        members = {"tombstone": tombstone(error.tombstone).model_dump(mode="json")}
    elif isinstance(error, EventsGone):
        members = {"oldest": error.oldest}
    return Problem(kind, detail or _sentence(error), headers=headers, members=members)


def challenge() -> dict[str, str]:
    """Return the header that a 401 must carry (RFC 9110, section 11.6.1)."""
    return {"WWW-Authenticate": 'Bearer realm="poxvisio"'}


def _sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


_HTTP = {
    400: BAD_REQUEST,
    404: NOT_FOUND,
    405: METHOD_NOT_ALLOWED,
    413: TOO_LARGE,
    415: UNSUPPORTED_TYPE,
}


def _from_werkzeug(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400:  # noqa: PLR2004  # a redirect of the router
        return Response(status=status, headers=dict(error.get_headers()))
    kind = _HTTP.get(status, INTERNAL if status >= 500 else BAD_REQUEST)  # noqa: PLR2004
    if kind is NOT_FOUND:
        return not_found().response()
    if methods := ", ".join(sorted(getattr(error, "valid_methods", None) or ())):
        return Problem(kind, f"Offered here: {methods}.", headers={"Allow": methods}).response()
    return Problem(kind, f"{HTTP_STATUS_CODES.get(status, 'Error')}.").response()


def install(app: Flask) -> None:
    """Answer every error of the application as problem+json."""

    @app.errorhandler(Problem)
    def problem(error: Problem) -> Response:
        return error.response()

    @app.errorhandler(errors.PoxVisioError)
    def ours(error: errors.PoxVisioError) -> Response:
        answer = problem_of(error)
        if answer.kind.status >= 500:  # noqa: PLR2004
            log.warning("request_unavailable", why=str(error))
        return answer.response()

    @app.errorhandler(HTTPException)
    def werkzeug(error: HTTPException) -> Response:
        return _from_werkzeug(error)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.error("request_failed", endpoint=request.endpoint, exc_info=error)
        return Problem(INTERNAL, "Something went wrong on our side.").response()
