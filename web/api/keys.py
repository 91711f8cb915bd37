"""``/v1/keys``: the tenant's own API keys."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response, request
from pydantic import AfterValidator, Field
from sqlalchemy.orm import Session

from shared import accounts, ids
from shared.tables import ApiKey
from web.asking import PLAIN, NoQuery, StrictJson, pointer, read_json, read_query
from web.auth import caller
from web.intake import fingerprint
from web.intake.options import Instant
from web.openapi import IDEMPOTENCY_KEY, LOCATION, REPLAYED, Answer, operation
from web.problems import (
    BROKEN_BODY,
    INVALID_OPTIONS,
    MISSING_SCOPE,
    NOT_FOUND,
    TOO_LARGE,
    UNSUPPORTED_TYPE,
    Problem,
    not_found,
)
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


def _each_once(scopes: list[Scope]) -> list[Scope]:
    return list(dict.fromkeys(scopes))


class KeyRequest(StrictJson):
    """The key to make."""

    name: Annotated[str, Field(min_length=1, max_length=100), PLAIN]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=5), AfterValidator(_each_once)]
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
    if "models" in wanted.scopes and "models" not in caller().scopes:
        # What serves is the same for all tenants: a tenant cannot give itself a say in it.
        raise Problem(MISSING_SCOPE, "Only a key with the scope 'models' can make another with it.")

    def act(session: Session) -> NewKeyBody:
        # Here and not before, because a replay is answered as it was, whatever has passed meanwhile.
        if wanted.expires_at is not None and wanted.expires_at <= datetime.now(UTC):
            entry = {"detail": "has passed already", "pointer": pointer(["expires_at"])}
            raise Problem(INVALID_OPTIONS, "An option is wrong; see errors.", errors=[entry])
        token = accounts.create_key(session, tenant, wanted.name, wanted.scopes, wanted.expires_at)
        made = session.get_one(ApiKey, UUID(hex=token.split("_")[1]))
        return NewKeyBody(**_fields(made), token=token)

    mark = fingerprint.of_request("POST", request.path, wanted.model_dump(mode="json"))
    here = services().settings.public_url
    return perform(mark, NewKeyBody, act, status=201, location=lambda key: f"{here}/v1/keys/{key.id}", secret=True)


@api.get("/v1/keys/<key>")
@operation(
    "Read a key",
    {200: Answer("The key, without its secret.", {"application/json": KeyBody})},
    tag=_TAG,
    scope="admin",
    query=NoQuery,
    problems=(NOT_FOUND,),
)
def read(key: str) -> Response:
    """Return one key."""
    read_query(NoQuery)
    key_id, tenant = ids.parse("key", key), caller().tenant_id
    with services().database.transaction(tenant) as session:
        found = session.scalar(sa.select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == tenant))
        if found is None:
            raise not_found()
        return respond(KeyBody(**_fields(found)))


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
