"""The description of the whole service, for ``/openapi.json`` and ``/docs`` alike: its routes, and what it sends."""

from typing import Any

from flask import Flask

from shared.webhooks import KINDS
from web.examples import HERE
from web.openapi import document

_KEPT = "poxvisio.description"
_HEADERS = {
    "webhook-id": "The event's id, the same on every attempt.",
    "webhook-timestamp": "Unix seconds of this attempt.",
    "webhook-signature": "`v1,` and HMAC-SHA256 in base64; a space between several.",
}


def described(app: Flask, url: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the application; it is made once."""
    kept: dict[str, Any] | None = app.extensions.get(_KEPT)
    if kept is None:
        kept = app.extensions[_KEPT] = document(app, url, {kind: {"post": _webhook(kind)} for kind in KINDS})
    return kept


def _webhook(kind: str) -> dict[str, Any]:
    """Return what we send to others when this happens, as Standard Webhooks 1.0.0 has it."""
    data = {
        "type": "object",
        "required": ["id", "sequence", "previous_id"],
        "properties": {
            "id": {"type": "string"},
            "sequence": {"type": "integer", "description": "The tenant's number of the event, without a gap"},
            "previous_id": {"type": ["string", "null"], "description": "The event sent to this endpoint before"},
        },
    }
    properties = {"type": {"const": kind}, "timestamp": {"type": "string", "format": "date-time"}, "data": data}
    example = {
        "type": kind,
        "timestamp": "2027-01-31T12:00:00Z",
        "data": {"id": "evt_0192f0c1e5a07bd2a3c4d5e6f708192a", "sequence": 42, "previous_id": None, "links": {}},
    }
    if kind.startswith("job."):
        job = "job_0192f0c1e5a07bd2a3c4d5e6f708192a"
        example["data"] = {**example["data"], "job": job, "links": {"job": f"{HERE}/v1/jobs/{job}"}}  # type: ignore[dict-item]  # a dict
    schema = {"type": "object", "required": list(properties), "properties": properties}
    return {
        "operationId": "webhook_" + kind.replace(".", "_"),
        "summary": f"`{kind}` happened",
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in _HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
        "responses": {
            "2XX": {"description": "Received."},
            "410": {"description": "Never again: disables the endpoint."},
        },
    }
