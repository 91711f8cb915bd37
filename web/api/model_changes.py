"""``/v1/models/changes`` and what asks for one: activate, canary, shadow and rollback."""

from collections.abc import Callable
from typing import Final

from flask import Blueprint, Response, request
from sqlalchemy.orm import Session

from shared import ids
from shared.errors import Conflict, NotFound
from shared.registry import changes, records, serving
from shared.tables import ModelChange
from web.api.model_shapes import ChangeBody, ChangeList, Share, change_of
from web.asking import NoQuery, read_json, read_query
from web.auth import caller
from web.intake import fingerprint
from web.operations import IDEMPOTENCY_KEY, LOCATION, REPLAYED, Answer, operation
from web.problems import (
    BROKEN_BODY,
    CONFLICT,
    INVALID_OPTIONS,
    MODEL_AWAY,
    MODEL_REFUSED,
    NOT_FOUND,
    TOO_LARGE,
    UNSUPPORTED_TYPE,
    Problem,
    not_found,
)
from web.replay import perform
from web.services import services
from web.wire import respond

api = Blueprint("model_changes", __name__)

_TAG: Final = "models"
_SCOPE: Final = "models"
_WITH_SHARE: Final = ("canary", "shadow")
_SUMMARIES: Final = {
    "activate": "Make a model live",
    "canary": "Let a model answer a share of jobs",
    "shadow": "Let a model look at a share of photos, unseen",
    "rollback": "Take a model back",
}


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
        found = [change_of(change) for change in changes.history(session)]
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
        return respond(change_of(found))


def _asked(kind: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Describe a route that asks for a change."""
    takes_share = kind in _WITH_SHARE
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


@api.post("/v1/models/<model>/shadow")
@_asked("shadow")
def shadow(model: str) -> Response:
    """Ask that a model looks at a share of photos beside what answers them, seen by nobody but in its report."""
    return _ask("shadow", model, read_json(Share).share)


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
        return change_of(made)

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
            raise Problem(MODEL_REFUSED, f"{model} did not pass its check: {(row.problem or '').rstrip('.')}.")
    if kind in _WITH_SHARE and digest is None:
        raise Problem(MODEL_REFUSED, f"{model} is the bundle that the service was started with: publish it first.")
    if kind != "rollback" and digest == now.live:
        raise Conflict(f"{model} is live already")
    return digest
