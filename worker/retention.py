"""What is forgotten with time: events, with the deliveries and attempts that hang on them, and endpoints of one job.

A tenant's events go from the oldest on and never out of their middle, so that the feed has no gap: one that somebody is
still owed keeps all that came after it. The newest stays whatever its age, so that a feed that is asked for what is
gone always has an event that shows it (``events.since``).

Events are not locked: what could owe one of them again reaches back ``resending.REACH``, and none goes that young.
"""

from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

#: Events and deliveries of one transaction, but for a single event with more deliveries than that.
_EVENTS: Final = 500
_DELIVERIES: Final = 2000

# One look into the index for each tenant, however many events it has.
_TENANTS: Final = sa.text("""
    SELECT c.tenant_id FROM event_counter c
    CROSS JOIN LATERAL (SELECT e.seq, e.created_at FROM event e WHERE e.tenant_id = c.tenant_id
                        ORDER BY e.seq LIMIT 1) oldest
    WHERE oldest.created_at < now() - make_interval(days => :days) AND oldest.seq < c.last
    ORDER BY random() LIMIT 1000
""")
_OLDEST: Final = sa.text("""
    SELECT e.seq, e.created_at < now() - make_interval(days => :days) AS is_old,
      (SELECT count(*) FROM delivery d WHERE d.tenant_id = e.tenant_id AND d.event_seq = e.seq) AS deliveries
    FROM event e
    WHERE e.tenant_id = :tenant AND e.seq < (SELECT last FROM event_counter WHERE tenant_id = :tenant)
    ORDER BY e.seq LIMIT :many
""")
# What waits for an endpoint that is disabled is kept as long as all the rest, and no longer.
_HOLD: Final = sa.text("""
    SELECT d.id, d.event_seq, d.state = 'leased' OR (d.state = 'waiting' AND p.state = 'enabled') AS is_owed
    FROM delivery d JOIN endpoint p ON p.id = d.endpoint_id
    WHERE d.tenant_id = :tenant AND d.event_seq <= :last
    ORDER BY d.id FOR UPDATE OF d SKIP LOCKED
""")
_OTHERS: Final = sa.text("""
    SELECT min(event_seq) FROM delivery
    WHERE tenant_id = :tenant AND event_seq <= :last AND id <> ALL (CAST(:held AS uuid[]))
""")
_DELETE: Final = sa.text("DELETE FROM event WHERE tenant_id = :tenant AND seq <= :last")
_ONE_OFFS: Final = sa.text("""
    DELETE FROM endpoint WHERE id = ANY (ARRAY(
      SELECT p.id FROM endpoint p JOIN job j ON j.tenant_id = p.tenant_id AND j.id = p.job_id
      WHERE p.job_id IS NOT NULL AND p.created_at < now() - make_interval(days => :days)
        AND j.closed_at < now() - make_interval(days => :days)
        AND NOT EXISTS (SELECT FROM delivery d WHERE d.endpoint_id = p.id)
      LIMIT :many))
    RETURNING 1
""")


def tenants(session: Session, days: int) -> list[UUID]:
    """Return tenants with events older than so many days, a thousand at most, in no order."""
    return list(session.execute(_TENANTS, {"days": days}).scalars())


def forget(session: Session, tenant: UUID, days: int) -> int:
    """Delete some of a tenant's events that are older than so many days, the oldest, with what hangs on them.

    1. Take some of the oldest, up to the first that is young.
    2. Lock their deliveries: what somebody else holds, or is still to be delivered, ends the piece before it.
    3. Delete the events; the database deletes deliveries and attempts with them.

    Returns how many events those were; 0 where there is nothing more to delete now.
    """
    found = session.execute(_OLDEST, {"tenant": tenant, "days": days, "many": _EVENTS}).all()
    old = _piece(found)
    if not old:
        return 0
    given = {"tenant": tenant, "last": old[-1]}
    held = session.execute(_HOLD, given).all()
    busy = session.execute(_OTHERS, given | {"held": [str(row.id) for row in held]}).scalar_one()
    kept = [row.event_seq for row in held if row.is_owed] + ([] if busy is None else [busy])
    gone = [seq for seq in old if not kept or seq < min(kept)]
    if gone:
        session.execute(_DELETE, {"tenant": tenant, "last": gone[-1]})
    return len(gone)


def forget_one_offs(session: Session, days: int) -> int:
    """Delete endpoints of jobs that closed so many days ago and have no delivery left; return how many."""
    return len(session.execute(_ONE_OFFS, {"days": days, "many": _EVENTS}).all())


def _piece(found: Any) -> list[int]:
    """Return the numbers of the first events that are old, as many as have not too many deliveries together."""
    piece: list[int] = []
    deliveries = 0
    for event in found:
        deliveries += event.deliveries
        if not event.is_old or (piece and deliveries > _DELIVERIES):
            break
        piece.append(event.seq)
    return piece
