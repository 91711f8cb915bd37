"""``/v1/keys``: the tenant's own API keys."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from flask import Blueprint, Response, request
from pydantic import Field
from sqlalchemy.orm import Session

from shared import accounts, ids
from shared.tables import ApiKey
from web.asking import NoQuery, Strict, Text, read_json, read_query
from web.auth import caller
from web.intake import fingerprint
from web.intake.options import Instant
from web.openapi import IDEMPOTENCY_KEY, LOCATION, REPLAYED, Answer, operation
from web.problems import BROKEN_BODY, INVALID_OPTIONS, NOT_FOUND, TOO_LARGE, UNSUPPORTED_TYPE
from web.replay import perform
from web.services import services
from web.wire import Shape, respond

api = Blueprint("keys", __name__)

Scope = Literal["jobs:read", "jobs:write", "webhooks", "models", "admin"]
_TAG: Final = "keys"


class KeyBody(Shape):
    """An API key, without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKeyBody(KeyBody):
    """An API key with its token, which is shown this once."""

    token: str


class KeyList(Shape):
    """The tenant's keys, oldest first."""

    keys: list[KeyBody]


class KeyRequest(Strict):
    """The key to make."""

    name: Annotated[Text, Field(min_length=1, max_length=100)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=5)]
    expires_at: Instant | None = None


@api.get("/v1/keys")
@operation(
    "List keys", {200: Answer("Every key.", {"application/json": KeyList})}, tag=_TAG, scope="admin", query=NoQuery
)
def index() -> Response:
    """List the tenant's keys."""
    read_query(NoQuery)
    with services().database.transaction(caller().tenant_id) as session:
        found = accounts.keys(session, caller().tenant_id)
    return respond(KeyList(keys=[KeyBody(**_fields(key)) for key in found]))


@api.post("/v1/keys")
@operation(
    "Make a key",
    {201: Answer("The key; its token is shown this once.", {"application/json": NewKeyBody}, (LOCATION, REPLAYED))},
    tag=_TAG,
    scope="admin",
    query=NoQuery,
    body={"application/json": KeyRequest},
    headers=(IDEMPOTENCY_KEY,),
    problems=(BROKEN_BODY, TOO_LARGE, UNSUPPORTED_TYPE, INVALID_OPTIONS),
)
def create() -> Response:
    """Make a key."""
    read_query(NoQuery)
    wanted = read_json(KeyRequest)
    tenant = caller().tenant_id

    def act(session: Session) -> NewKeyBody:
        token = accounts.create_key(session, tenant, wanted.name, wanted.scopes, wanted.expires_at)
        made = session.get_one(ApiKey, UUID(hex=token.split("_")[1]))
        return NewKeyBody(**_fields(made), token=token)

    mark = fingerprint.of_request("POST", request.path, wanted.model_dump(mode="json"))
    here = services().settings.public_url
    return perform(mark, NewKeyBody, act, status=201, location=lambda key: f"{here}/v1/keys/{key.id}", secret=True)


@api.delete("/v1/keys/<key>")
@operation(
    "Revoke a key",
    {204: Answer("It is good for nothing any more.")},
    tag=_TAG,
    scope="admin",
    query=NoQuery,
    problems=(NOT_FOUND,),
)
def revoke(key: str) -> Response:
    """Revoke a key at once. Revoking twice is no error."""
    read_query(NoQuery)
    key_id = ids.parse("key", key)
    with services().database.transaction(caller().tenant_id) as session:
        accounts.revoke_key(session, caller().tenant_id, key_id)
    return Response(status=204)


def _fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": ids.text("key", key.id),
        "name": key.name,
        "scopes": key.scopes,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }
