"""What to do about each type of problem, and what its answer looks like: for the pages its ``type`` leads to."""

from dataclasses import dataclass, field
from typing import Any, Final

from web.problems import Kind


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, the ``detail`` of an example, whether the same request may work later, and its further members."""

    do: str
    detail: str
    again: bool = False
    members: dict[str, Any] = field(default_factory=dict)


_WAIT: Final = (
    "Send the same request again once Retry-After has passed. With its Idempotency-Key nothing is done twice. "
)
_ID: Final = "0192f0c1e5a07bd2a3c4d5e6f708192a"

ADVICE: Final[dict[str, Advice]] = {
    "bad-request": Advice(
        "Compare the header or the address that the detail names with `/docs`.",
        "The Idempotency-Key must be 1 to 255 printable ASCII characters.",
    ),
    "broken-body": Advice(
        "Check that the body is what its Content-Type says and that the line held to its end; then send it again.",
        "The JSON cannot be read.",
    ),
    "unauthorized": Advice(
        "Send the key as `Authorization: Bearer pxv_...`. If it was rotated, use the new token; if it expired or was "
        "revoked, ask whoever administers your tenant for another.",
        "The API key is unknown, expired or revoked.",
    ),
    "missing-scope": Advice(
        "Use a key that has the scope, or have one made: a key cannot get more scopes than it has.",
        "This needs a key with the scope 'jobs:write'.",
    ),
    "bad-link": Advice(
        "Ask for new links with your key: `GET /v1/images/{image}?links=300`.",
        "This link was altered or cut, or is not one of ours.",
    ),
    "not-found": Advice(
        "Check the id and that the key belongs to the tenant that owns it. If it was deleted, do not ask again.",
        "There is no such thing here.",
    ),
    "not-yet": Advice(
        "Read the photo's answer: while its `outcome` is null the picture may still come; later it will not.",
        "There is no working copy of this photo.",
    ),
    "method-not-allowed": Advice("Use one of the methods in the Allow header.", "Offered here: GET, HEAD, OPTIONS."),
    "not-acceptable": Advice(
        "Name one of the formats in the Accept header, or none.",
        "Results come as application/json, application/x-ndjson, text/csv, application/vnd.apache.parquet.",
    ),
    "conflict": Advice(
        "Read what it is now, and decide again. Where there is a Retry-After, wait for it first.",
        "The job is not closed yet.",
    ),
    "too-many-webhooks": Advice(
        "Delete one that nobody needs (`GET /v1/webhooks` lists them), or let one address take more kinds of events.",
        "Each start of a program made another webhook, and none was ever deleted.",
    ),
    "gone": Advice(
        "Take the job out of your own list; the tombstone has its counts and the digest of its last receipt.",
        "The job was deleted.",
    ),
    "events-gone": Advice(
        "Read the jobs for what happened meanwhile, and go on with `after` one below `oldest`.",
        "The number asked for is older than events are kept.",
    ),
    "link-ended": Advice(
        "Ask for new links with a key that is good: `GET /v1/images/{image}?links=300`.",
        "The time of this link is over.",
    ),
    "request-in-flight": Advice(
        _WAIT + "Do not make a new key: that would be another request.",
        "A request with this Idempotency-Key is still running.",
        again=True,
    ),
    "length-required": Advice(
        "Send Content-Length, or send the photo as multipart/form-data.",
        "A body of image/* or application/zip needs a Content-Length.",
    ),
    "request-too-large": Advice(
        "Read `/v1/limits`, and send several smaller requests.", "A JSON body may have 1 MiB at most."
    ),
    "too-many-photos": Advice(
        "Read `max_photos` in `/v1/limits`, and send several jobs.", "A job may have 50000 photos at most."
    ),
    "unsupported-type": Advice(
        "Set Content-Type to what the body is, out of the types that `/docs` lists for the route.",
        "Send the body as application/json.",
    ),
    "invalid-options": Advice(
        "Mend each entry of `errors`, and send the request again; nothing was done.",
        "An option is wrong; see errors.",
        members={"errors": [{"detail": "has passed already", "pointer": "#/deadline"}]},
    ),
    "refused": Advice("Read the detail; the same request will not work later either.", "There is no such scope."),
    "no-photos": Advice(
        "Name the parts of the form `photos`, one for each file.", "The form has no part named photos."
    ),
    "duplicate-custom-id": Advice(
        "Give each photo a `custom_id` of its own, or none.",
        "A custom_id occurs twice; see errors.",
        members={"errors": [{"detail": "occurs twice", "pointer": "#/photos/3/custom_id"}]},
    ),
    "unknown-model": Advice(
        "Choose one of `GET /v1/models`, or leave `model` out: then the live one answers.",
        "There is no such model; see errors.",
        members={"errors": [{"detail": "is not served; see /v1/models", "pointer": "#/model"}]},
    ),
    "model-refused": Advice(
        "Read the detail and `problem` of the model; publish a bundle that is whole, under an id of its own.",
        "second did not pass its check: it answers otherwise than its card says.",
    ),
    "idempotency-key-reused": Advice(
        "Make a new key, a random UUID, for each new request, and keep it for its retries alone.",
        "This Idempotency-Key was used for a request with another body or options.",
    ),
    "too-much-waiting": Advice(
        _WAIT + "Or cancel a job, or name another lane with `priority` in the query.",
        "More of yours waits in this lane than the service lets anybody queue.",
        again=True,
    ),
    "rate-limited": Advice(
        _WAIT + "Ask for pages of more rows, and wait with `Prefer: wait=N` rather than ask often.",
        "This API key asks too often.",
        again=True,
    ),
    "too-many-refused-keys": Advice(
        "Stop whatever sends the wrong key from this address, then wait for Retry-After.",
        "Too many unknown keys came from this address.",
        again=True,
    ),
    "internal-error": Advice(
        "Send it again once. If it stays, tell whoever runs the service the `request_id` of the answer.",
        "Something went wrong on our side.",
        again=True,
    ),
    "database-away": Advice(_WAIT, "The database is out of reach; try again in a moment.", again=True),
    "storage-away": Advice(_WAIT, "The photo storage is out of reach or full; try again in a moment.", again=True),
    "model-away": Advice(
        _WAIT + "Without `model` in the options a job is taken in now, and waits.",
        "The model cannot be served at present; jobs are accepted and wait.",
        again=True,
    ),
    "service-full": Advice(_WAIT, "More waits in all than the service promises to hold.", again=True),
    "too-many-uploads": Advice(_WAIT, "Too many bodies come in at once; try again soon.", again=True),
    "too-many-streams": Advice(
        _WAIT + "Or read pages of JSON, which need no place.", "Too many results are streamed at once.", again=True
    ),
    "too-many-event-streams": Advice(
        _WAIT + "Or read the feed as application/json with `Prefer: wait=60`.",
        "Every place for a stream of events is taken, or every one of yours.",
        again=True,
    ),
    "too-slow": Advice(
        "Send it again where the line is better, or fewer photos at once.", "The body comes in too slowly.", again=True
    ),
    "unavailable": Advice(_WAIT, "A part we need is out of reach; try again in a moment.", again=True),
}
_NONE: Final = Advice("Read the detail of the answer.", "See the title.")


def advice_of(kind: Kind) -> Advice:
    """Return what to do about a problem."""
    return ADVICE.get(kind.name, _NONE)


def example_of_problem(kind: Kind, url: str) -> dict[str, Any]:
    """Return an answer of this kind, as a service at ``url`` gives it."""
    advice = advice_of(kind)
    head = {"type": f"{url}/problems/{kind.name}", "title": kind.title, "status": kind.status, "detail": advice.detail}
    return {**head, **advice.members, "request_id": _ID}
