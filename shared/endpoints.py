"""Endpoints as their owners manage them: find, change, delete, and give a new secret.

Every function works in a transaction of the owner's tenant, so that row-level security shows what is theirs alone;
somebody else's id is not found. New endpoints are made by ``webhooks.create_endpoint``, where there is room for one.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events, signing
from shared.errors import Conflict, NotFound
from shared.event_body import Detail, Format
from shared.signing import Keyring
from shared.tables import Endpoint
from shared.webhooks import check_kinds

# How long the old secret goes on signing beside the new one.
OVERLAP: Final = timedelta(hours=24)


class EndpointsFull(Conflict):
    """The tenant has as many endpoints as it may have. Do not retry before one is deleted."""


def get(session: Session, endpoint_id: UUID) -> Endpoint:
    """Return an endpoint; raises ``NotFound``."""
    found = session.scalar(sa.select(Endpoint).where(Endpoint.id == endpoint_id))
    if found is None:
        raise NotFound("there is no such webhook")
    return found


def all_of(session: Session, *, job_id: UUID | None = None) -> list[Endpoint]:
    """Return the tenant's endpoints, oldest first; with ``job_id`` the one-off endpoints of that job instead."""
    whose = Endpoint.job_id.is_(None) if job_id is None else Endpoint.job_id == job_id
    return list(session.scalars(sa.select(Endpoint).where(whose).order_by(Endpoint.id)))


def check_room(session: Session, tenant_id: UUID, most: int) -> None:
    """Raise ``EndpointsFull`` where the tenant has ``most`` endpoints already; one-off ones are not counted.

    It holds the tenant's counter of events, so that of several who make one at once each sees those of the others.
    """
    events.hold(session, tenant_id)
    lasting = sa.select(sa.func.count()).select_from(Endpoint).where(Endpoint.job_id.is_(None))
    if session.execute(lasting.where(Endpoint.tenant_id == tenant_id)).scalar_one() >= most:
        raise EndpointsFull(f"there are {most} webhooks already, as many as a tenant may have: delete one first")


def update(
    session: Session,
    endpoint_id: UUID,
    *,
    url: str | None = None,
    kinds: Sequence[str] | None = None,
    description: str | None = None,
    state: Literal["enabled", "disabled"] | None = None,
    detail: Detail | None = None,
    form: Format | None = None,
) -> Endpoint:
    """Change what is given and leave the rest; the caller has asked ``webhooks.check_url`` about a new URL.

    An endpoint that is enabled again starts with a clean record, and what was kept for it goes out.
    """
    values: dict[str, Any] = {}
    if url is not None:
        values["url"] = url
    if kinds is not None:
        check_kinds(kinds)
        values["kinds"] = list(kinds)
    if description is not None:
        values["description"] = description
    if detail is not None:
        values["detail"] = detail
    if form is not None:
        values["format"] = form
    if state == "enabled":
        values |= {"state": state, "state_reason": None, "failing_since": None, "open_until": None}
    elif state == "disabled":
        values |= {"state": state, "state_reason": "disabled by its owner"}
    return _change(session, endpoint_id, values) if values else get(session, endpoint_id)


def delete(session: Session, endpoint_id: UUID) -> None:
    """Delete an endpoint with its deliveries and their log; raises ``NotFound``. Its events stay in the feed."""
    gone = session.execute(sa.delete(Endpoint).where(Endpoint.id == endpoint_id).returning(Endpoint.id)).first()
    if gone is None:
        raise NotFound("there is no such webhook")


def rotate_secret(session: Session, keyring: Keyring, endpoint_id: UUID, secret: str | None = None) -> str:
    """Give an endpoint a new secret and return it, shown this once; the old one signs too for another 24 hours."""
    shown = secret or signing.new_secret()
    signing.secret_bytes(shown)
    values = {
        "previous_secret": Endpoint.secret,
        "previous_until": sa.func.now() + OVERLAP,
        "secret": keyring.seal(shown.encode()),
    }
    _change(session, endpoint_id, values)
    return shown


def hold(session: Session, endpoint_id: UUID) -> None:
    """Keep an endpoint from being deleted before this transaction ends; raises ``NotFound`` where it just was.

    Whoever deletes it deletes its deliveries, in no order: one of the two waits here.
    """
    there = sa.select(Endpoint.id).where(Endpoint.id == endpoint_id).with_for_update(read=True, key_share=True)
    if session.execute(there).first() is None:
        raise NotFound("there is no such webhook")


def enabled(session: Session, endpoint_id: UUID) -> Endpoint:
    """Return an endpoint that messages go to; raises ``Conflict`` where it is disabled, and ``NotFound``."""
    endpoint = get(session, endpoint_id)
    if endpoint.state != "enabled":
        raise Conflict("the webhook is disabled; enable it first")
    return endpoint


def unpause(session: Session, endpoint_id: UUID) -> None:
    """Let what the owner asked for go out now, though the receiver asked for a pause."""
    session.execute(sa.update(Endpoint).where(Endpoint.id == endpoint_id).values(open_until=None))


def _change(session: Session, endpoint_id: UUID, values: dict[str, Any]) -> Endpoint:
    statement = sa.update(Endpoint).where(Endpoint.id == endpoint_id).values(**values).returning(Endpoint)
    found = session.scalar(statement, execution_options={"populate_existing": True})
    if found is None:
        raise NotFound("there is no such webhook")
    return found
