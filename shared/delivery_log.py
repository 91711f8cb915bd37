"""The log of an endpoint's deliveries, for its owner: what is owed, every try, and what the receiver answered.

Every function works in a transaction of the owner's tenant; somebody else's id is not found.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import endpoints
from shared.errors import NotFound
from shared.tables import Attempt, Delivery, Event


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One try of a delivery, numbered from 1 for good; ``response`` holds the first 64 KiB of the answer."""

    number: int
    started_at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    response: bytes


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """An event owed to an endpoint, and every try so far, oldest first."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    sequence: int
    kind: str
    job_id: UUID | None
    previous_id: UUID | None
    state: str
    next_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    attempts: tuple[AttemptView, ...]


def deliveries(
    session: Session, endpoint_id: UUID, *, state: str | None = None, after: UUID | None = None, limit: int = 50
) -> list[DeliveryView]:
    """Return an endpoint's deliveries, newest first, each with its attempts; ``after`` is the last id of a page."""
    endpoints.get(session, endpoint_id)
    wanted = [Delivery.endpoint_id == endpoint_id]
    if state is not None:
        wanted.append(Delivery.state == state)
    if after is not None:
        # By number and not by id, so that the unique index on (endpoint, number) serves every page.
        wanted.append(Delivery.event_seq < sa.select(Delivery.event_seq).where(Delivery.id == after).scalar_subquery())
    return _views(session, wanted, limit)


def delivery(session: Session, delivery_id: UUID) -> DeliveryView:
    """Return one delivery with its attempts; raises ``NotFound``."""
    found = _views(session, [Delivery.id == delivery_id], 1, bodies=True)
    if not found:
        raise NotFound("there is no such delivery")
    return found[0]


def _views(
    session: Session, wanted: Sequence[sa.ColumnElement[bool]], limit: int, *, bodies: bool = False
) -> list[DeliveryView]:
    """Return deliveries, newest first; a list leaves out what receivers answered, up to 64 KiB a try."""
    found = session.execute(
        sa.select(Delivery, Event.id.label("event_id"), Event.kind, Event.job_id)
        .join(Event, (Event.tenant_id == Delivery.tenant_id) & (Event.seq == Delivery.event_seq))
        .where(*wanted)
        .order_by(Delivery.event_seq.desc())
        .limit(limit)
        .execution_options(populate_existing=True)
    ).all()
    attempts = _attempts(session, [row.Delivery.id for row in found], bodies=bodies)
    return [
        DeliveryView(
            id=row.Delivery.id,
            endpoint_id=row.Delivery.endpoint_id,
            event_id=row.event_id,
            sequence=row.Delivery.event_seq,
            kind=row.kind,
            job_id=row.job_id,
            previous_id=row.Delivery.previous_id,
            state=row.Delivery.state,
            next_at=row.Delivery.next_at if row.Delivery.state == "waiting" else None,
            created_at=row.Delivery.created_at,
            finished_at=row.Delivery.finished_at,
            attempts=tuple(attempts[row.Delivery.id]),
        )
        for row in found
    ]


def _attempts(session: Session, delivery_ids: Sequence[UUID], *, bodies: bool) -> dict[UUID, list[AttemptView]]:
    found: dict[UUID, list[AttemptView]] = defaultdict(list)
    response = Attempt.response if bodies else sa.null()
    columns = (Attempt.number, Attempt.started_at, Attempt.duration_ms, Attempt.status, Attempt.error)
    wanted = sa.select(Attempt.delivery_id, *columns, response.label("response"))
    rows = session.execute(wanted.where(Attempt.delivery_id.in_(delivery_ids)).order_by(Attempt.id))
    for row in rows if delivery_ids else ():
        found[row.delivery_id].append(
            AttemptView(row.number, row.started_at, row.duration_ms, row.status, row.error, bytes(row.response or b""))
        )
    return found
