"""What an event looks like on the wire: thin or full, as it is or as a CloudEvent.

A thin body is built anew for every attempt from the event's row and is the same, byte for byte, each time. A full one
also tells the answer of a photo, or those of a closed job, which a later round may change: it is built once and kept
with its delivery. ``webhook-id`` is the event's id, so that ``previous_id``, the event sent to that endpoint before,
can be held against it: a receiver knows that it missed none.
"""

import json
from collections.abc import Sequence
from datetime import UTC
from typing import Any, Final, Literal
from uuid import UUID

from shared import ids
from shared.views import ResultView
from shared.webhooks import Recorded

Detail = Literal["thin", "full"]
Format = Literal["standard", "cloudevents"]

MAX_BODY: Final = 20_000
#: Kinds of events after which a photo, or every photo of a job, has its one answer: a full body tells what it is.
ANSWERED: Final = frozenset({"job.completed", "job.stopped", "job.cancelled", "job.expired", "image.completed"})
# Facts of the event itself; a body cannot replace them.
_RESERVED: Final = ("id", "sequence", "previous_id", "job", "round", "links", "use")
# A body beginning so is a CloudEvent.
_CLOUD: Final = b'{"specversion"'


def document(event: Recorded, public_url: str) -> dict[str, Any]:
    """Return an event as programs see it: type, timestamp and data with ids, counts and links (RFC 3339 times)."""
    data: dict[str, Any] = {"id": ids.text("event", event.id), "sequence": event.seq}
    about: dict[str, Any] = {}
    links: dict[str, str] = {}
    if event.job_id is not None:
        about = {"job": ids.text("job", event.job_id), "round": event.round}
        links["job"] = f"{public_url}/v1/jobs/{about['job']}"
        links["results"] = links["job"] + "/results"
        links["receipt"] = links["job"] + "/receipt"
    if isinstance(event.body.get("image"), str):
        links["image"] = f"{public_url}/v1/images/{event.body['image']}"
    if isinstance(event.body.get("endpoint"), str):
        links["endpoint"] = f"{public_url}/v1/webhooks/{event.body['endpoint']}"
    # Sorted, because a JSON column promises no order and the bytes must be the same on every attempt.
    data |= about | {key: event.body[key] for key in sorted(event.body) if key not in _RESERVED}
    if links:
        data["links"] = links
    if event.kind.startswith(("job.", "image.", "model.")):
        data["use"] = "research-only"
    timestamp = event.created_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"type": event.kind, "timestamp": timestamp, "data": data}


def render(
    event: Recorded,
    public_url: str,
    previous_id: UUID | None,
    form: Format = "standard",
    answers: Sequence[ResultView] | None = None,
) -> bytes:
    """Return the body of a webhook: the event's document with ``previous_id`` in its data.

    With ``answers``, the first of a closed job's in the order of its photos, it holds as many of them as there is room
    for, and says in ``results_complete`` whether that is all; the link leads to the rest. Of an event of one photo they
    are that one's, and it stands in ``result``. A body that would pass 20 kB without them loses what the event's author
    put in and says ``truncated``; one that would pass them with a single answer says so and leaves that out.
    """
    told = document(event, public_url)
    told["data"]["previous_id"] = None if previous_id is None else ids.text("event", previous_id)
    if len(_encode(_formed(told, public_url, form))) >= MAX_BODY:
        told["data"] = {key: told["data"][key] for key in _RESERVED if key in told["data"]} | {"truncated": True}
    room = MAX_BODY - len(_encode(_formed(told, public_url, form)))
    if answers and event.kind == "image.completed":
        alone = {"result": _result(answers[0])}
        told["data"] |= alone if len(_encode(alone)) < room else {"truncated": True}
    elif answers is not None:
        _add(told, answers, room)
    return _encode(_formed(told, public_url, form))


def content_type(body: bytes) -> str:
    """Return the media type of a body by its beginning: a kept one may be older than its endpoint's form."""
    return "application/cloudevents+json" if body.startswith(_CLOUD) else "application/json"


def _formed(told: dict[str, Any], public_url: str, form: Format) -> dict[str, Any]:
    """Return a document in the form that was asked for (CloudEvents 1.0, JSON format, structured mode)."""
    if form == "standard":
        return told
    about = {"subject": told["data"]["job"]} if "job" in told["data"] else {}
    return {
        "specversion": "1.0",
        "id": told["data"]["id"],
        "source": public_url,
        "type": told["type"],
        **about,
        "time": told["timestamp"],
        "datacontenttype": "application/json",
        "data": told["data"],
    }


def _add(told: dict[str, Any], answers: Sequence[ResultView], room: int) -> None:
    total = told["data"].get("total")
    results: list[dict[str, Any]] = []
    room -= len(_encode({"results": [], "results_complete": False}))
    for answer in answers:
        result = _result(answer)
        room -= len(_encode(result)) + 1
        if room <= 0:
            break
        results.append(result)
    told["data"] |= {"results": results, "results_complete": len(results) == total}


def _result(view: ResultView) -> dict[str, Any]:
    """Return an answer without its evidence and without the photo's name, which may say who it shows."""
    answer = view.answer or {}
    return {
        "image": ids.text("image", view.image_id),
        "ordinal": view.ordinal,
        "custom_id": view.custom_id,
        "outcome": view.outcome,
        "label": view.label,
        "probabilities": answer.get("probabilities"),
        "prediction_set": answer.get("prediction_set"),
        "reasons": list(view.reasons),
        "model": None if view.model_id is None else {"id": view.model_id, "digest": view.model_digest},
    }


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
