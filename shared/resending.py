"""Sending to an endpoint because its owner asks: a test, one delivery again, all that was given up, all it never got.

Every function works in a transaction of the owner's tenant; somebody else's id is not found.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared import endpoints, events, ids
from shared.database import new_id
from shared.delivery_log import DeliveryView, delivery
from shared.events import NewEvent
from shared.tables import Delivery, Event
from shared.webhooks import BY_NAME

# What is older is not sent again.
REACH: Final = timedelta(days=28)
# Sent again by one request, the oldest first; whoever asks again gets the next ones.
AT_ONCE: Final = 10_000


def send_test(session: Session, endpoint_id: UUID) -> DeliveryView:
    """Send a ``ping`` to this endpoint alone, whatever kinds it wants; raises ``Conflict`` where it is disabled."""
    endpoint = endpoints.enabled(session, endpoint_id)
    events.hold(session, endpoint.tenant_id)
    endpoints.hold(session, endpoint_id)
    body = {"endpoint": ids.text("endpoint", endpoint_id)}
    (event,) = events.record(session, [NewEvent(endpoint.tenant_id, "ping", None, 0, body, addressee=endpoint_id)])
    endpoints.unpause(session, endpoint_id)
    owed = sa.select(Delivery.id).where(Delivery.endpoint_id == endpoint_id, Delivery.event_seq == event.seq)
    return delivery(session, session.scalars(owed).one())


def redeliver(session: Session, delivery_id: UUID) -> DeliveryView:
    """Send an event again, at once and with a fresh schedule, under the id it always had.

    An attempt that is under way cannot write anything any more. Raises ``Conflict`` where the endpoint is disabled.
    """
    owed = delivery(session, delivery_id)
    endpoints.enabled(session, owed.endpoint_id)
    endpoints.unpause(session, owed.endpoint_id)
    _again(session, [Delivery.id == delivery_id])
    return delivery(session, delivery_id)


def recover(session: Session, endpoint_id: UUID, since: datetime, *, preview: bool) -> int:
    """Send again what was given up since then, 28 days back at most, the oldest ``AT_ONCE``; or only count it."""
    endpoints.get(session, endpoint_id)
    lost = [
        Delivery.endpoint_id == endpoint_id,
        Delivery.state == "dead",
        Delivery.created_at >= since,
        Delivery.created_at >= sa.func.now() - REACH,
    ]
    if preview:
        return session.scalar(sa.select(sa.func.count()).select_from(Delivery).where(*lost)) or 0
    endpoints.hold(session, endpoint_id)
    return _again(session, lost, AT_ONCE)


def replay(session: Session, endpoint_id: UUID, since: datetime, *, preview: bool) -> int:
    """Owe the endpoint the oldest ``AT_ONCE`` of the events since then that it was never owed; or only count them all.

    It reaches 28 days back at most.

    They are events from before the endpoint was made or of kinds it did not want then. They come without a
    ``previous_id``: they stand outside the endpoint's chain.
    """
    endpoint = endpoints.get(session, endpoint_id)
    owed = sa.exists().where(Delivery.endpoint_id == endpoint_id, Delivery.event_seq == Event.seq)
    missed = [Event.tenant_id == endpoint.tenant_id, Event.created_at >= since, ~owed, Event.kind != "ping"]
    missed.append(Event.created_at >= sa.func.now() - REACH)
    if endpoint.kinds:
        missed.append(Event.kind.in_(endpoint.kinds))
    else:
        missed.append(Event.kind.not_in(BY_NAME))
    if endpoint.job_id is not None:
        missed.append(Event.job_id == endpoint.job_id)
    if preview:
        return session.scalar(sa.select(sa.func.count()).select_from(Event).where(*missed)) or 0
    endpoints.hold(session, endpoint_id)
    numbers = session.scalars(sa.select(Event.seq).where(*missed).order_by(Event.seq).limit(AT_ONCE)).all()
    rows = [
        {"id": new_id(), "tenant_id": endpoint.tenant_id, "endpoint_id": endpoint_id, "event_seq": number}
        for number in numbers
    ]
    if rows:
        # Two at once owe each event once; whoever comes second owes nothing.
        owe = (
            insert(Delivery).on_conflict_do_nothing(index_elements=["endpoint_id", "event_seq"]).returning(Delivery.id)
        )
        return len(session.scalars(owe, rows).all())
    return 0


def _again(session: Session, wanted: Sequence[sa.ColumnElement[bool]], most: int = 1) -> int:
    values = {
        "state": "waiting",
        "attempt": 0,
        "fence": Delivery.fence + 1,
        "next_at": sa.func.now(),
        "lease_until": None,
        "finished_at": None,
    }
    # In order of id, as everywhere: two orders would be a deadlock. Ids rise with time.
    held = sa.select(Delivery.id).where(*wanted).order_by(Delivery.id).limit(most).with_for_update().cte("held")
    statement = sa.update(Delivery).where(Delivery.id == held.c.id).values(**values).returning(Delivery.id)
    return len(session.scalars(statement).all())
