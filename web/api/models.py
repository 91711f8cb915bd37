"""``/v1/models``: the bundles there are, and publishing one."""

from typing import Final

from flask import Blueprint, Response, request
from sqlalchemy.orm import Session

from shared.bundle import REPORT, Bundle, sha256_of
from shared.errors import BundleError, Conflict, NotFound
from shared.registry import bundles, records, serving
from web.api.model_shapes import ModelBody, ModelList, published, started_with
from web.asking import NoQuery, read_query
from web.auth import caller
from web.intake import fingerprint
from web.intake.bundle_upload import received
from web.intake.pressure import entrance
from web.operations import IDEMPOTENCY_KEY, LOCATION, REPLAYED, Answer, operation
from web.problems import (
    BROKEN_BODY,
    CONFLICT,
    MODEL_AWAY,
    MODEL_REFUSED,
    STORAGE_AWAY,
    TOO_LARGE,
    TOO_MANY_UPLOADS,
    TOO_SLOW,
    UNSUPPORTED_TYPE,
)
from web.replay import perform
from web.services import services
from web.wire import respond

api = Blueprint("models", __name__)

_TAG: Final = "models"
_SCOPE: Final = "models"


@api.get("/v1/models")
@operation(
    "List models",
    {200: Answer("Every model, with its card.", {"application/json": ModelList})},
    tag=_TAG,
    scope="jobs:read",
    query=NoQuery,
    problems=(MODEL_AWAY,),
)
def index() -> Response:
    """Return all models; 503 where there is none, or the only one is missing or altered."""
    read_query(NoQuery)
    with services().database.transaction(caller().tenant_id) as session:
        rows, now = records.every(session), serving.read(session)
    listed = [published(row, now) for row in rows]
    try:
        bundle = services().model.bundle()
    except BundleError:
        if not rows:
            raise
    else:
        if all(row.digest != bundle.digest for row in rows):
            listed.append(started_with(bundle, now))
    return respond(ModelList(models=listed))


@api.post("/v1/models")
@operation(
    "Publish a model",
    {
        201: Answer(
            "It is stored, and checked before it may serve.", {"application/json": ModelBody}, (LOCATION, REPLAYED)
        )
    },
    tag=_TAG,
    scope=_SCOPE,
    description="The bundle's files as parts of their own names: `card.json`, `calibration.json`, "
    "`weights.safetensors`, `gate.safetensors`, `parity.safetensors`; `report.html`, 16 MiB at most, where there is a "
    "report, which no digest covers. Publishing the same bundle twice is no error; its report takes the place of an "
    "earlier one.",
    query=NoQuery,
    body={
        "multipart/form-data": {
            "type": "object",
            "required": list(bundles.FILES),
            "properties": {name: {"type": "string", "format": "binary"} for name in (*bundles.FILES, "report.html")},
        }
    },
    headers=(IDEMPOTENCY_KEY,),
    problems=(
        BROKEN_BODY,
        TOO_LARGE,
        TOO_SLOW,
        UNSUPPORTED_TYPE,
        MODEL_REFUSED,
        CONFLICT,
        STORAGE_AWAY,
        TOO_MANY_UPLOADS,
    ),
)
def publish() -> Response:
    """Take a bundle in."""
    read_query(NoQuery)
    here, asking = services(), caller()
    with entrance(here, asking) as place, received(request, here.settings.max_model_bytes, place) as bundle:
        mark = fingerprint.of_request("POST", request.path, _told_apart(bundle))
        size = sum(bundle.file(name).stat().st_size for name in bundles.FILES)

        def act(session: Session) -> ModelBody:
            row = records.publish(session, bundle, size, asking.key_id)
            return published(row, serving.read(session))

        def before() -> None:
            with here.database.transaction(asking.tenant_id) as session:
                _refuse_taken_id(session, bundle)
            bundles.store(here.storage, bundle)

        return perform(
            mark, ModelBody, act, before=before, status=201, location=lambda _: f"{here.settings.public_url}/v1/models"
        )


def _told_apart(bundle: Bundle) -> dict[str, str]:
    """What two uploads under one idempotency key must agree on."""
    report = bundle.file(REPORT)
    return {"digest": bundle.digest} | ({"report": sha256_of(report)} if report.is_file() else {})


def _refuse_taken_id(session: Session, bundle: Bundle) -> None:
    """Raise before anything is stored where the id is another bundle's."""
    try:
        found = records.find(session, bundle.id).digest
    except NotFound:
        try:
            default = services().model.bundle()
        except BundleError:
            return
        found = default.digest if default.id == bundle.id else bundle.digest
    if found != bundle.digest:
        raise Conflict(f"another bundle has the id {bundle.id!r}; give this one an id of its own")
