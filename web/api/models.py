"""``/v1/models``: the bundles there are, which of them serves, and changes of that."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from flask import Blueprint, Response, request
from pydantic import Field
from sqlalchemy.orm import Session

from shared import ids
from shared.bundle import RESEARCH_USE, Bundle
from shared.errors import BundleError, Conflict, NotFound
from shared.registry import bundles, changes, records, serving
from shared.registry.records import ModelRow
from shared.registry.serving import Serving
from shared.tables import ModelChange
from web.asking import NoQuery, StrictJson, read_json, read_query
from web.auth import caller
from web.intake import fingerprint
from web.intake.bundle_upload import received
from web.intake.pressure import entrance
from web.openapi import IDEMPOTENCY_KEY, LOCATION, REPLAYED, Answer, operation
from web.problems import (
    BROKEN_BODY,
    CONFLICT,
    INVALID_OPTIONS,
    MODEL_AWAY,
    MODEL_REFUSED,
    NOT_FOUND,
    STORAGE_AWAY,
    TOO_LARGE,
    TOO_MANY_UPLOADS,
    TOO_SLOW,
    UNSUPPORTED_TYPE,
    Problem,
    not_found,
)
from web.replay import perform
from web.services import services
from web.wire import USE, ResearchUse, Shape, respond

api = Blueprint("models", __name__)

_TAG: Final = "models"
_SCOPE: Final = "models"
_SUMMARIES: Final = {
    "activate": "Make a model live",
    "canary": "Let a model answer a share of jobs",
    "rollback": "Take a model back",
}


class ModelBody(Shape):
    """A model: a bundle of the register, or the one that the setting MODEL names."""

    id: str
    digest: str
    live: bool
    canary_share: float = Field(description="Share of jobs that it answers as a canary; 0 for every other model")
    state: Literal["checking", "ready", "refused"] = Field(description="Only a `ready` model can serve")
    problem: str | None = Field(description="Why it was refused")
    published_at: datetime | None = Field(description="null for the bundle that the service was started with")
    labels: list[str]
    clinical: bool
    synthetic: bool = Field(description="Trained on synthetic photos: it shows how the service works and nothing else")
    card: dict[str, Any]


class ModelList(Shape):
    """The models there are, newest first; the one that the service was started with comes last."""

    models: list[ModelBody]
    notice: str = RESEARCH_USE
    use: ResearchUse = USE


class ChangeBody(Shape):
    """A change of what serves, as it was asked for and what became of it."""

    id: str
    kind: Literal["activate", "canary", "rollback"]
    model: str
    share: float | None
    state: Literal["waiting", "applied", "refused"]
    reason: str | None
    role: Literal["live", "canary"] | None
    from_digest: str | None = Field(description="null: the bundle that the service was started with, or none")
    to_digest: str | None
    asked_by: str | None = Field(description="The key that asked")
    asked_at: datetime
    done_at: datetime | None


class ChangeList(Shape):
    """Changes, newest first."""

    changes: list[ChangeBody]


class Share(StrictJson):
    """How much a canary answers."""

    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(description="Share of jobs, above 0 to 1")


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
    listed = [_published(row, now) for row in rows]
    try:
        bundle = services().model.bundle()
    except BundleError:
        if not rows:
            raise
    else:
        if all(row.digest != bundle.digest for row in rows):
            listed.append(_default(bundle, now))
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
    "`weights.safetensors`, `gate.safetensors`, `parity.safetensors`. Publishing the same bundle twice is no error.",
    query=NoQuery,
    body={
        "multipart/form-data": {
            "type": "object",
            "required": list(bundles.FILES),
            "properties": {name: {"type": "string", "format": "binary"} for name in bundles.FILES},
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
        mark = fingerprint.of_request("POST", request.path, {"digest": bundle.digest})
        size = sum(bundle.file(name).stat().st_size for name in bundles.FILES)

        def act(session: Session) -> ModelBody:
            row = records.publish(session, bundle, size, asking.key_id)
            return _published(row, serving.read(session))

        def before() -> None:
            with here.database.transaction(asking.tenant_id) as session:
                _refuse_taken_id(session, bundle)
            bundles.store(here.storage, bundle)

        return perform(
            mark, ModelBody, act, before=before, status=201, location=lambda _: f"{here.settings.public_url}/v1/models"
        )


@api.get("/v1/models/changes")
@operation(
    "List changes of what serves",
    {200: Answer("The last fifty, newest first.", {"application/json": ChangeList})},
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
)
def list_changes() -> Response:
    """Return who changed what, and when."""
    read_query(NoQuery)
    with services().database.transaction(caller().tenant_id) as session:
        found = [_change(change) for change in changes.history(session)]
    return respond(ChangeList(changes=found))


@api.get("/v1/models/changes/<change>")
@operation(
    "Read a change",
    {200: Answer("The change.", {"application/json": ChangeBody})},
    tag=_TAG,
    scope=_SCOPE,
    query=NoQuery,
    problems=(NOT_FOUND,),
)
def read_change(change: str) -> Response:
    """Return one change."""
    read_query(NoQuery)
    change_id = ids.parse("change", change)
    with services().database.transaction(caller().tenant_id) as session:
        found = session.get(ModelChange, change_id)
        if found is None:
            raise not_found()
        return respond(_change(found))


def _asked(kind: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Describe a route that asks for a change."""
    takes_share = kind == "canary"
    return operation(
        _SUMMARIES[kind],
        {202: Answer("The change is made in a moment, once the model has passed its check.",
                     {"application/json": ChangeBody}, (LOCATION, REPLAYED))},
        tag=_TAG,
        scope=_SCOPE,
        query=NoQuery,
        body={"application/json": Share} if takes_share else None,
        headers=(IDEMPOTENCY_KEY,),
        problems=(
            NOT_FOUND,
            CONFLICT,
            MODEL_REFUSED,
            MODEL_AWAY,
            *((BROKEN_BODY, TOO_LARGE, UNSUPPORTED_TYPE, INVALID_OPTIONS) if takes_share else ()),
        ),
    )  # fmt: skip


@api.post("/v1/models/<model>/activate")
@_asked("activate")
def activate(model: str) -> Response:
    """Ask that a model answers every job."""
    return _ask("activate", model)


@api.post("/v1/models/<model>/canary")
@_asked("canary")
def canary(model: str) -> Response:
    """Ask that a model answers a share of jobs, always the same of the same job."""
    return _ask("canary", model, read_json(Share).share)


@api.post("/v1/models/<model>/rollback")
@_asked("rollback")
def rollback(model: str) -> Response:
    """Ask that a model gives up what it has: what was live before it is live again."""
    return _ask("rollback", model)


def _ask(kind: str, model: str, share: float | None = None) -> Response:
    read_query(NoQuery)
    asking = caller()

    def act(session: Session) -> ChangeBody:
        digest = _may_change(session, kind, model)
        made = changes.ask(session, kind, model, digest, share=share, tenant=asking.tenant_id, key=asking.key_id)
        return _change(made)

    mark = fingerprint.of_request("POST", request.path, {"share": share})
    here = services().settings.public_url
    return perform(mark, ChangeBody, act, status=202, location=lambda made: f"{here}/v1/models/changes/{made.id}")


def _may_change(session: Session, kind: str, model: str) -> str | None:
    """Return the digest of the model, None for the default; raises where the change can never be made as things are."""
    now = serving.read(session)
    digest: str | None
    try:
        row = records.find(session, model)
    except NotFound:
        if services().model.bundle().id != model:
            raise
        digest = None
    else:
        digest = row.digest
        if kind != "rollback" and row.state == "refused":
            raise Problem(MODEL_REFUSED, f"{model} did not pass its check: {row.problem}.")
    if kind == "canary" and digest is None:
        raise Problem(MODEL_REFUSED, f"{model} is the bundle that the service was started with: publish it first.")
    if kind != "rollback" and digest == now.live:
        raise Conflict(f"{model} is live already")
    return digest


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


def _published(row: ModelRow, now: Serving) -> ModelBody:
    return ModelBody(
        id=row.id,
        digest=row.digest,
        live=row.digest == now.live,
        canary_share=now.canary_share if row.digest == now.canary else 0.0,
        state=row.state,  # type: ignore[arg-type]  # the database holds no other
        problem=row.problem,
        published_at=row.published_at,
        labels=list(row.labels),
        clinical=row.clinical,
        synthetic=row.synthetic,
        card=dict(row.card),
    )


def _default(bundle: Bundle, now: Serving) -> ModelBody:
    return ModelBody(
        id=bundle.id,
        digest=bundle.digest,
        live=now.live is None,
        canary_share=0.0,
        state="ready",
        problem=None,
        published_at=None,
        labels=list(bundle.labels),
        clinical=bundle.clinical,
        synthetic=bundle.synthetic,
        card=dict(bundle.card),
    )


def _change(made: ModelChange) -> ChangeBody:
    return ChangeBody(
        id=ids.text("change", made.id),
        kind=made.kind,  # type: ignore[arg-type]  # the database holds no other
        model=made.model_id,
        share=made.share,
        state=made.state,  # type: ignore[arg-type]
        reason=made.reason,
        role=made.role,  # type: ignore[arg-type]
        from_digest=made.from_digest,
        to_digest=made.to_digest,
        asked_by=None if made.by_key is None else ids.text("key", made.by_key),
        asked_at=made.asked_at,
        done_at=made.done_at,
    )
