"""Examples for the published document, made from its schemas: a value under each name, the same throughout.

What a schema gives as its own example goes first, then what this page knows of a model or of a name, then what the type
allows. All of it is synthetic, and a test holds each example against its schema.
"""

from collections.abc import Mapping
from typing import Any, Final

HERE: Final = "https://poxvisio.example"
_TAIL: Final = "0192f0c1e5a07bd2a3c4d5e6f708192a"
_JOB: Final = f"job_{_TAIL}"
_IMAGE: Final = f"img_{_TAIL}"
_DIGEST: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_TIME: Final = "2027-01-31T12:00:00Z"
_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - the one of the specification's own example
_COUNTS: Final = {
    "classified": 2, "abstained": 1, "rejected": 0, "failed": 0, "cancelled": 0, "expired": 0, "waiting": 0,
}  # fmt: skip
_EVENT: Final[dict[str, Any]] = {
    "type": "job.completed",
    "timestamp": _TIME,
    "data": {
        "id": f"evt_{_TAIL}",
        "sequence": 42,
        "previous_id": None,
        "job": _JOB,
        "total": 3,
        "counts": _COUNTS,
        "links": {"job": f"{HERE}/v1/jobs/{_JOB}", "results": f"{HERE}/v1/jobs/{_JOB}/results"},
    },
}

# By the name of a member, wherever it stands.
_NAMES: Final[dict[str, Any]] = {
    "age_seconds": 1.5,
    "asked_by": f"key_{_TAIL}",
    "attempts": 1,
    "bytes": 2_481_152,
    "card": {"id": "demo-synthetic", "clinical": False, "synthetic": True},
    "count": 12,
    "counts": _COUNTS,
    "custom_id": "patient-7/photo-1",
    "data": _EVENT["data"],
    "delivery": f"dlv_{_TAIL}",
    "description": "the ward's own receiver",
    "digest": _DIGEST,
    "disagreements": [],
    "event": f"evt_{_TAIL}",
    "events": ["job.completed"],
    "evidence": [round(0.1 * n - 2, 1) for n in range(49)],
    "expires_at": "2027-06-30T00:00:00Z",
    "file_name": "IMG_2041.jpg",
    "image": _IMAGE,
    "images_per_second": 37.5,
    "job": _JOB,
    "label": "mpox",
    "labels": ["mpox", "other"],
    "metadata": {"ward": "7"},
    "model": "demo-synthetic",
    "name": "ward 7",
    "next": None,
    "photo_types": ["image/jpeg", "image/png", "image/webp"],
    "previous_id": None,
    "probabilities": {"mpox": 0.93, "other": 0.07},
    "problem": None,
    "progress": 1.0,
    "response": "ok",
    "round": 0,
    "scopes": ["jobs:read", "jobs:write"],
    "secret": _SECRET,
    "sequence": 42,
    "sha256": _DIGEST,
    "share": 0.05,
    "timestamp": _TIME,
    "synthetic": True,
    "previous_until": "2027-02-01T12:00:00Z",
    "title": "There is nothing here",
    "token": f"pxv_{_TAIL}_{'0123456789abcdef' * 3}",
    "total": 3,
    "type": "job.completed",
    "url": "https://receiver.example/poxvisio",
    "version": "1",
    "webhook": f"whk_{_TAIL}",
}
_IDS: Final = {
    "JobBody": _JOB,
    "Tombstone": _JOB,
    "EndpointBody": f"whk_{_TAIL}",
    "NewEndpointBody": f"whk_{_TAIL}",
    "OneOffEndpoint": f"whk_{_TAIL}",
    "SecretBody": f"whk_{_TAIL}",
    "KeyBody": f"key_{_TAIL}",
    "NewKeyBody": f"key_{_TAIL}",
    "DeliveryBody": f"dlv_{_TAIL}",
    "DeliveryDetail": f"dlv_{_TAIL}",
    "ChangeBody": f"chg_{_TAIL}",
}
# Members of one model, where the name alone would not do.
_MODELS: Final[dict[str, dict[str, Any]]] = {
    "JobBody": {"state": "completed", **dict.fromkeys(("model", "eta", "deadline", "webhook", "expires_at"))},
    "Counts": _COUNTS,
    "JobLinks": {
        "self": f"{HERE}/v1/jobs/{_JOB}",
        **{name: f"{HERE}/v1/jobs/{_JOB}/{name}" for name in ("results", "receipt", "cancel")},
    },
    "Tombstone": {"state": "completed", "receipt": _DIGEST},
    "ResultBody": {
        "ordinal": 0,
        "outcome": "classified",
        "thresholds": {"mpox": 0.4, "other": 0.4},
        "prediction_set": ["mpox"],
        "reasons": [],
        "quality": {"blur": 120.5, "exposure": 0.5, "size": 900.0},
        "photo_url": f"{HERE}/v1/images/{_IMAGE}/photo",
        "heatmap_url": f"{HERE}/v1/images/{_IMAGE}/heatmap",
        "duplicate_of": None,
        "model": {"id": "demo-synthetic", "digest": _DIGEST},
        "times": {"decode_ms": 41.2, "network_ms": 6.8, "finished_at": _TIME},
    },
    "JobOptions": {"webhook": None, "photos": [{"custom_id": "patient-7/photo-1"}], "model": None},
    "JobList": {"images": [{"url": "https://photos.example/IMG_2041.jpg", "custom_id": "patient-7/photo-1"}]},
    "Model": {"id": "demo-synthetic"},
    "ModelBody": {"id": "demo-synthetic", "live": True, "canary_share": 0.0, "shadow_share": 0.0, "state": "ready"},
    "BundlePart": {"id": "demo-synthetic"},
    "KeyBody": {"revoked_at": None, "previous_until": None},
    "NewKeyBody": {"revoked_at": None, "last_used_at": None},
    "EndpointBody": {"job": None, "state_reason": None, "failing_since": None},
    "NewEndpointBody": {"job": None, "state_reason": None, "failing_since": None},
    "EventBody": _EVENT,
    "EventList": {"events": [_EVENT], "next": 42},
    "AttemptBody": {"number": 1, "duration_ms": 85, "status": 204, "error": None},
    "AttemptDetail": {"number": 1, "duration_ms": 85, "status": 204, "error": None},
    "DeliveryBody": {"state": "delivered", "next_at": None},
    "DeliveryDetail": {"state": "delivered", "next_at": None},
    "ChangeBody": {"state": "applied", "reason": None, "from_digest": None, "to_digest": _DIGEST, "role": "live"},
    "MigrationsPart": {"database": "0016", "program": "0016"},
    "KindBody": {
        "type": f"{HERE}/problems/not-yet",
        "status": 404,
        "title": "This is not there (yet)",
        "meaning": "The photo is known, but it has no working copy.",
        "do": "Read the photo's answer: while its `outcome` is null the picture may still come.",
        "example": {"type": f"{HERE}/problems/not-yet", "title": "This is not there (yet)", "status": 404},
    },
    "ResultList": {"state": "completed"},
    "Agreement": {
        "name": "mpox", "photos": 412, "agreeing": 398, "same_outcome": 390,
        "rate": 0.966, "low": 0.944, "high": 0.98, "data": "enough",
    },
    "Limits": {
        "max_photos": 50_000, "max_photo_bytes": 52_428_800, "max_photo_pixels": 40_000_000,
        "max_request_bytes": 10_737_418_240, "max_wait": 60, "idempotency_kept": 86_400,
        "max_expanded_bytes": 10_737_418_240, "max_waiting_clients": 48, "tenant_backlog_seconds": 21_600.0,
        "backlog_seconds": 86_400.0, "tenant_backlog_photos": 100_000, "backlog_photos": 400_000,
    },
}  # fmt: skip
_TEXTS: Final = {"date-time": _TIME, "uri": HERE, "byte": "/9j/4AAQSkZJRg==", "binary": "(the bytes)"}
_DEEPEST: Final = 12


def example_of(schema: Mapping[str, Any], definitions: Mapping[str, Any], name: str = "", depth: int = 0) -> Any:
    """Return a value that fits a JSON schema; ``definitions`` are the schemas that it refers to, by name."""
    if depth > _DEEPEST:
        raise ValueError(f"the schema of {name!r} has no end")
    if "examples" in schema:
        return schema["examples"][0]
    if "const" in schema:
        return schema["const"]
    if "$ref" in schema:
        model = str(schema["$ref"]).rpartition("/")[2]
        return _object(definitions[model], definitions, model.rpartition("__")[2], depth + 1)
    if name in _NAMES and _fits(_NAMES[name], schema):
        return _NAMES[name]
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if choice.get("type") != "null":
            return example_of(choice, definitions, name, depth + 1)
    return _plain(schema, definitions, name, depth)


def _object(schema: Mapping[str, Any], definitions: Mapping[str, Any], model: str, depth: int) -> Any:
    known = _MODELS.get(model, {})
    if "properties" not in schema:
        return example_of(schema, definitions, model, depth)
    ids = {"id": _IDS[model]} if model in _IDS else {}
    return {
        name: ({**ids, **known})[name] if name in known or name in ids else example_of(part, definitions, name, depth)
        for name, part in schema["properties"].items()
        if not (model == "JobList" and "images" in schema["properties"] and name not in ("images", "priority"))
    }


def _plain(schema: Mapping[str, Any], definitions: Mapping[str, Any], name: str, depth: int) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("default") not in (None, [], {}, ""):
        return schema["default"]
    kind = (_listed(schema.get("type")) or ["object"])[0]
    if kind == "array":
        return [example_of(schema.get("items", {}), definitions, name.removesuffix("s"), depth + 1)]
    if kind == "object":
        return _object(schema, definitions, name, depth) if "properties" in schema else {}
    if kind == "string":
        return _TEXTS.get(schema.get("format", ""), name or "text")
    return {"boolean": False, "integer": max(1, schema.get("minimum", 0)), "number": 0.5}[kind]


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Tell whether a value is of the type, so that a name that stands for two things does no harm."""
    choices = [schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())]
    kinds = {kind for choice in choices for kind in _listed(choice.get("type"))}
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    own = "null" if value is None else names[type(value)]
    enums = [choice["enum"] for choice in choices if "enum" in choice]
    return (own in kinds or (own == "integer" and "number" in kinds)) and all(value in enum for enum in enums)


def _listed(kind: Any) -> list[str]:
    return kind if isinstance(kind, list) else [kind] if kind else []
