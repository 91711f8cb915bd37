"""``/v1/keys``: the tenant's own API keys."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from flask import Blueprint, Response, request
from pydantic import AfterValidator, Field
from sqlalchemy.orm import Session

from shared import accounts, ids
from shared.tables import ApiKey
from web.asking import PLAIN, NoQuery, StrictJson, pointer, read_json, read_query
from web.auth import caller
from web.intake import fingerprint
from web.intake.options import Instant
from web.operations import IDEMPOTENCY_KEY, LOCATION, REPLAYED, Answer, operation
from web.problems import (
    BROKEN_BODY,
    CONFLICT,
    INVALID_OPTIONS,
    MISSING_SCOPE,
    NOT_FOUND,
    TOO_LARGE,
    UNSUPPORTED_TYPE,
    Problem,
)
from web.replay import perform
from web.services import services
from web.wire import Shape, respond

api = Blueprint("keys", __name__)

Scope = Literal["jobs:read", "jobs:write", "webhooks", "models", "admin"]
_TAG: Final = "keys"
_GRACE: Final = 24 * 3600
_LONGEST_GRACE: Final = 30 * 24 * 3600


class KeyBody(Shape):
    """An API key, without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    previous_until: datetime | None = Field(
        description="Until when the token before the last rotation is good too; null where there was none"
    )


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


class RotationRequest(StrictJson):
    """How to rotate."""

    grace_seconds: Annotated[int, Field(ge=0, le=_LONGEST_GRACE)] = Field(
        default=_GRACE, description="How long the token of now is good beside the new one; 0 ends it at once"
    )
    expires_at: Instant | None = Field(default=None, description="When the key expires from now on; else as before")


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
    _refuse_wider(wanted.scopes)

    def act(session: Session) -> NewKeyBody:
        # Here and not before, because a replay is answered as it was, whatever has passed meanwhile.
        _refuse_passed(wanted.expires_at)
        token = accounts.create_key(session, tenant, wanted.name, wanted.scopes, wanted.expires_at)
        made = accounts.key_of(session, tenant, UUID(hex=token.split("_")[1]))
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
        found = accounts.key_of(session, tenant, key_id)
        return respond(KeyBody(**_fields(found)))


@api.post("/v1/keys/<key>/rotate")
@operation(
    "Rotate a key",
    {
        200: Answer(
            "The key with its new token, which is shown this once.", {"application/json": NewKeyBody}, (REPLAYED,)
        )
    },
    tag=_TAG,
    scope="admin",
    description="The key stays what it was, under the same id and with the same scopes, and gets another token. The "
    "one it had is good for `grace_seconds` more, so that programs can be changed over one by one. A token from a "
    "rotation before that ends at once: two are good at most. A key gives nobody more scopes than it has itself.",
    query=NoQuery,
    body={"application/json": RotationRequest},
    body_required=False,
    headers=(IDEMPOTENCY_KEY,),
    problems=(NOT_FOUND, CONFLICT, BROKEN_BODY, TOO_LARGE, UNSUPPORTED_TYPE, INVALID_OPTIONS),
)
def rotate(key: str) -> Response:
    """Give a key another token."""
    read_query(NoQuery)
    key_id, tenant = ids.parse("key", key), caller().tenant_id
    wanted = read_json(RotationRequest) if request.content_length or request.mimetype else RotationRequest()
    # Who learns the token of a key may do what it may. Here and not below, because a replay shows the token too.
    with services().database.transaction(tenant) as session:
        scopes = accounts.key_of(session, tenant, key_id).scopes
    _refuse_wider(scopes)

    def act(session: Session) -> NewKeyBody:
        _refuse_passed(wanted.expires_at)
        grace = timedelta(seconds=wanted.grace_seconds)
        token = accounts.rotate_key(session, tenant, key_id, grace, wanted.expires_at)
        return NewKeyBody(**_fields(accounts.key_of(session, tenant, key_id)), token=token)

    mark = fingerprint.of_request("POST", request.path, wanted.model_dump(mode="json"))
    return perform(mark, NewKeyBody, act, secret=True)


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


def _refuse_wider(scopes: Sequence[str]) -> None:
    """Raise ``Problem`` (403) where a key may do what its caller may not."""
    for scope in scopes:
        if scope not in caller().scopes:
            raise Problem(MISSING_SCOPE, f"Only a key with the scope {scope!r} can give that scope to another.")


def _refuse_passed(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= datetime.now(UTC):
        entry = {"detail": "has passed already", "pointer": pointer(["expires_at"])}
        raise Problem(INVALID_OPTIONS, "An option is wrong; see errors.", errors=[entry])


def _fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": ids.text("key", key.id),
        "name": key.name,
        "scopes": key.scopes,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "previous_until": key.previous_until,
    }
