"""What we send to others, for the description of the service: each kind of webhook, with an example of every form.

The examples are made by what makes the bodies (``event_body``), so they cannot show anything else.
"""

import json
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from shared import event_body, ids
from shared.event_body import Format
from shared.views import ResultView
from shared.vocabulary import OUTCOMES
from shared.webhooks import Recorded
from web.examples import HERE

_STANDARD: Final = "application/json"
_CLOUD: Final = "application/cloudevents+json"
_HEADERS: Final = {
    "webhook-id": "The event's id, the same on every attempt.",
    "webhook-timestamp": "Unix seconds of this attempt.",
    "webhook-signature": "`v1,` and HMAC-SHA256 in base64; a space between several.",
}
_ID: Final = UUID("0192f0c1-e5a0-7bd2-a3c4-d5e6f708192a")
_BEFORE: Final = UUID("0192f0c1-e5a0-7bd2-a3c4-d5e6f7081929")
_DIGEST: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_ENDPOINT: Final = ids.text("endpoint", _ID)
_MODEL: Final = {"id": "demo-synthetic", "digest": _DIGEST}
_ENDED: Final = {"total": 1, "counts": {**dict.fromkeys(OUTCOMES, 0), "classified": 1}}
_BODIES: Final[dict[str, dict[str, Any]]] = {
    "job.accepted": {"total": 1, "priority": "interactive"},
    "job.started": {"total": 1},
    "job.progress": {"total": 100, "counts": {**dict.fromkeys(OUTCOMES, 0), "classified": 25}, "progress": 0.25},
    "job.completed": _ENDED,
    "job.stopped": _ENDED,
    "job.cancelled": _ENDED,
    "job.expired": _ENDED,
    "image.completed": {
        "image": ids.text("image", _ID),
        "ordinal": 0,
        "custom_id": "patient-7/photo-1",
        "outcome": "classified",
    },
    "endpoint.disabled": {"endpoint": _ENDPOINT, "reason": "nothing but failures for 121 hours"},
    "endpoint.warning": {"endpoint": _ENDPOINT, "reason": "nothing but failures; will be disabled in 59 hours"},
    "model.activated": {"change": ids.text("change", _ID), "role": "live", "from": None, "model": _MODEL},
    "model.drift": {"model": _MODEL, "why": "drifted", "problem": None, "difference": 0.02, "photos": 8},
    "ping": {"endpoint": _ENDPOINT},
}
_ANSWER: Final = ResultView(
    image_id=_ID,
    job_id=_ID,
    ordinal=0,
    client_name=None,
    custom_id="patient-7/photo-1",
    storage_key="",
    sha256=_DIGEST,
    bytes=0,
    duplicate_of=None,
    outcome="classified",
    label="mpox",
    answer={"probabilities": {"mpox": 0.93, "other": 0.07}, "prediction_set": ["mpox"]},
    reasons=(),
    model_id=_MODEL["id"],
    model_digest=_DIGEST,
    attempts=1,
    has_copy=True,
    timings=None,
    finished_at=None,
)


def webhook(kind: str) -> dict[str, Any]:
    """Return the path item's operation for a kind of event: Standard Webhooks 1.0.0, plain or as a CloudEvent 1.0."""
    return {
        "operationId": "webhook_" + kind.replace(".", "_"),
        "summary": f"`{kind}` happened",
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in _HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                _STANDARD: {"schema": _standard(kind), "examples": _examples(kind, "standard")},
                _CLOUD: {"schema": _cloud(kind), "examples": _examples(kind, "cloudevents")},
            },
        },
        "responses": {
            "2XX": {"description": "Received."},
            "410": {"description": "Never again: disables the endpoint."},
        },
    }


def _standard(kind: str) -> dict[str, Any]:
    properties = {"type": {"const": kind}, "timestamp": {"type": "string", "format": "date-time"}, "data": _data(kind)}
    return {"type": "object", "required": list(properties), "properties": properties}


def _cloud(kind: str) -> dict[str, Any]:
    properties = {
        "specversion": {"const": "1.0", "description": "Of CloudEvents"},
        "id": {"type": "string", "description": "Id of the event, as in `webhook-id`"},
        "source": {"type": "string", "format": "uri", "description": "The service that sends it"},
        "type": {"const": kind},
        "time": {"type": "string", "format": "date-time", "description": "When it happened"},
        "datacontenttype": {"const": _STANDARD, "description": "Media type of `data`"},
        "data": _data(kind),
    }
    subject = {"subject": {"type": "string", "description": "Id of the job it is about"}}
    return {"type": "object", "required": list(properties), "properties": properties | subject}


def _data(kind: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": {"type": "string", "description": "Id of the event"},
        "sequence": {"type": "integer", "description": "The tenant's number of the event, without a gap"},
        "previous_id": {"type": ["string", "null"], "description": "The event sent to this endpoint before"},
    }
    if kind == "image.completed":
        told["result"] = {"type": "object", "description": "The answer, in a full body"}
    elif kind in event_body.ANSWERED:
        told["results"] = {"type": "array", "description": "Answers, in a full body, as many as it holds"}
        told["results_complete"] = {"type": "boolean", "description": "Whether these are all answers of the job"}
    return {
        "type": "object",
        "required": ["id", "sequence", "previous_id"],
        "properties": told,
        "description": "What happened: ids, counts and links",
    }


def _examples(kind: str, form: Format) -> dict[str, Any]:
    shown = {"thin": {"summary": "Thin, as it comes unless more was asked for", "value": _example(kind, form, None)}}
    if kind in event_body.ANSWERED:
        shown["full"] = {"summary": "With `detail: full`", "value": _example(kind, form, [_ANSWER])}
    return shown


def _example(kind: str, form: Format, answers: list[ResultView] | None) -> dict[str, Any]:
    event = Recorded(
        tenant_id=_ID,
        seq=42,
        id=_ID,
        kind=kind,
        job_id=_ID if kind.startswith(("job.", "image.")) else None,
        round=0,
        body=_BODIES[kind],
        created_at=datetime(2027, 1, 31, 12, tzinfo=UTC),
    )
    told: dict[str, Any] = json.loads(event_body.render(event, HERE, _BEFORE, form, answers))
    return told
