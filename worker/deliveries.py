"""The delivery ledger as the deliverer moves it: claim what is due, settle it under its fence, take back what was lost.

Each function is one short transaction. Locks are taken in one order everywhere: the tenant's event counter, the
endpoint, the delivery.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events
from shared.database import new_id
from shared.event_body import Detail, Format
from shared.tables import Attempt, Delivery, Endpoint
from shared.webhooks import Recorded
from worker.endpoint_health import Patience, Verdict, apply, change_of

# One claimer at a time: each counts what is in flight before it takes more, and must see what the last one took.
_LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(hashtext('poxvisio deliveries'))")

# Most looks find nothing: these take no lock and read one row of an index. What is kept for a disabled endpoint is due
# for ever, so the second part asks who could get anything; it is evaluated only where the first part holds.
_ANY_DUE: Final = sa.text(
    """
    SELECT EXISTS (SELECT FROM delivery WHERE state = 'waiting' AND next_at <= now())
      AND EXISTS (
        SELECT FROM endpoint p WHERE p.state = 'enabled' AND (p.open_until IS NULL OR p.open_until <= now())
          AND EXISTS (SELECT FROM delivery d WHERE d.endpoint_id = p.id AND d.state = 'waiting' AND d.next_at <= now()))
    """
)

# `waiting` walks the index from endpoint to endpoint (a loose index scan), so that one endpoint's long queue costs
# the others nothing. Tenants take turns, and one tenant never has more than its share in flight: a thousand dead
# receivers of one of them delay nobody else's webhooks. Nor do they delay its own: what has been in flight for a second
# leaves the share to others, and endpoints that fail or were slow last get one at a time and a share of their own.
_CLAIM: Final = sa.text(
    """
    WITH RECURSIVE waiting AS (
      (SELECT endpoint_id FROM delivery WHERE state = 'waiting' ORDER BY endpoint_id LIMIT 1)
      UNION ALL
      SELECT (SELECT d.endpoint_id FROM delivery d WHERE d.state = 'waiting' AND d.endpoint_id > waiting.endpoint_id
              ORDER BY d.endpoint_id LIMIT 1)
      FROM waiting WHERE waiting.endpoint_id IS NOT NULL),
    flying AS MATERIALIZED (
      SELECT f.tenant_id, f.endpoint_id, f.lease_until < now() + make_interval(secs => :lease - 1) AS is_old,
        p.failing_since IS NOT NULL OR p.id = ANY (CAST(:slow AS uuid[])) AS is_suspect
      FROM delivery f JOIN endpoint p ON p.id = f.endpoint_id WHERE f.state = 'leased'),
    busy AS MATERIALIZED (
      SELECT tenant_id, count(*) AS n, count(*) FILTER (WHERE NOT is_old) AS young,
        count(*) FILTER (WHERE is_suspect) AS suspects
      FROM flying GROUP BY tenant_id),
    flight AS MATERIALIZED (
      SELECT endpoint_id, count(*) AS n, count(*) FILTER (WHERE is_old) AS old FROM flying GROUP BY endpoint_id),
    candidate AS (
      SELECT p.id, p.tenant_id, kind.is_suspect,
        CASE WHEN kind.is_suspect THEN 1 ELSE p.cap END - coalesce(flight.n + flight.old, 0) AS room
      FROM waiting
      JOIN endpoint p ON p.id = waiting.endpoint_id AND p.state = 'enabled'
        AND (p.open_until IS NULL OR p.open_until <= now())
      CROSS JOIN LATERAL (
        SELECT p.failing_since IS NOT NULL OR p.id = ANY (CAST(:slow AS uuid[])) AS is_suspect) kind
      LEFT JOIN flight ON flight.endpoint_id = p.id
      WHERE EXISTS (SELECT FROM delivery x WHERE x.endpoint_id = p.id AND x.state = 'waiting' AND x.next_at <= now())),
    ranked AS (
      SELECT c.id, c.room, c.is_suspect, coalesce(busy.n, 0) AS n, coalesce(busy.young, 0) AS young,
        coalesce(busy.suspects, 0) AS suspects,
        row_number() OVER (PARTITION BY c.tenant_id, c.is_suspect ORDER BY random()) AS turn,
        row_number() OVER (PARTITION BY c.is_suspect ORDER BY random()) AS place
      FROM candidate c LEFT JOIN busy ON busy.tenant_id = c.tenant_id
      WHERE c.room > 0),
    chosen AS MATERIALIZED (
      SELECT id, room FROM ranked
      WHERE n + turn <= :most_of_tenant
        AND CASE WHEN is_suspect
          THEN suspects + turn <= :suspects_of_tenant
            AND place + (SELECT coalesce(sum(suspects), 0) FROM busy) <= :all_suspects
          ELSE young + turn <= :of_tenant END
      ORDER BY turn, random() LIMIT :limit),
    pick AS MATERIALIZED (
      SELECT due.id
      FROM chosen
      CROSS JOIN LATERAL (
        SELECT id FROM delivery x WHERE x.endpoint_id = chosen.id AND x.state = 'waiting' AND x.next_at <= now()
        ORDER BY x.next_at, x.id LIMIT chosen.room FOR UPDATE SKIP LOCKED) due
      ORDER BY random() LIMIT :limit),
    taken AS (
      UPDATE delivery u
      SET state = 'leased', attempt = attempt + 1, fence = fence + 1,
        lease_until = now() + make_interval(secs => :lease)
      FROM pick WHERE u.id = pick.id
      RETURNING u.*)
    SELECT t.id, t.fence, t.attempt, t.tenant_id, t.endpoint_id, t.previous_id, t.event_seq,
      t.body AS kept, p.detail, p.format,
      p.url, p.secret, CASE WHEN p.previous_until > now() THEN p.previous_secret END AS previous_secret,
      e.id AS event_id, e.kind, e.job_id, e.round, e.body, e.created_at
    FROM taken t
    JOIN endpoint p ON p.id = t.endpoint_id
    JOIN event e ON e.tenant_id = t.tenant_id AND e.seq = t.event_seq
    ORDER BY t.event_seq
    """
)

_REAP: Final = sa.text(
    """
    WITH lost AS MATERIALIZED (
      SELECT id FROM delivery WHERE state = 'leased' AND lease_until < now()
      ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED)
    UPDATE delivery u
    SET state = CASE WHEN u.attempt >= :attempts THEN 'dead' ELSE 'waiting' END, next_at = now(), lease_until = NULL,
      finished_at = CASE WHEN u.attempt >= :attempts THEN now() END
    FROM lost WHERE u.id = lost.id
    RETURNING u.id, u.tenant_id, u.attempt
    """
)

# Whether the lease is ours still or ran out and was taken back: under the same fence nobody has sent anything since.
_GIVE_BACK: Final = sa.text(
    """
    WITH held AS MATERIALIZED (
      SELECT d.id FROM delivery d,
        unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[]), CAST(:attempts AS int[])) AS h (id, fence, attempt)
      WHERE d.id = h.id AND d.fence = h.fence AND d.attempt = h.attempt AND d.state <> 'delivered'
      ORDER BY d.id FOR UPDATE OF d)
    UPDATE delivery u
    SET state = 'waiting', attempt = u.attempt - 1, next_at = now(), lease_until = NULL, finished_at = NULL
    FROM held WHERE u.id = held.id
    RETURNING u.id
    """
)

# Of a deliverer's 512 places: endpoints of one tenant taken up within a second, its suspects (which fail, or were slow
# last), all that it may have in flight, and the suspects of everybody.
_SHARES: Final = {"of_tenant": 64, "suspects_of_tenant": 32, "most_of_tenant": 256, "all_suspects": 256}

LOST: Final = "lost: the deliverer ended before it could record the answer"


@dataclass(frozen=True, slots=True)
class Owed:
    """A delivery that this process holds until its lease runs out; ``attempt`` counts from 1 along the schedule."""

    id: UUID
    fence: int
    attempt: int
    endpoint_id: UUID
    url: str
    secrets: tuple[bytes, ...]
    event: Recorded
    previous_id: UUID | None
    detail: Detail = "thin"
    form: Format = "standard"
    kept: bytes | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """What one attempt came to, as its owner may read it later."""

    started_at: datetime
    seconds: float
    status: int | None
    error: str | None
    response: bytes


def claim(session: Session, limit: int, lease_seconds: float, slow: Collection[UUID] = ()) -> list[Owed]:
    """Take up to ``limit`` due deliveries, no endpoint above its cap and no tenant above its share, tenants in turn.

    ``slow`` are endpoints that took long to answer last.
    """
    if not session.execute(_ANY_DUE).scalar_one():
        return []
    session.execute(_LOCK)
    values = {"limit": limit, "lease": lease_seconds, "slow": [str(endpoint) for endpoint in slow], **_SHARES}
    found = session.execute(_CLAIM, values)
    return [
        Owed(
            id=row.id,
            fence=row.fence,
            attempt=row.attempt,
            endpoint_id=row.endpoint_id,
            url=row.url,
            secrets=tuple(bytes(sealed) for sealed in (row.secret, row.previous_secret) if sealed is not None),
            event=Recorded(
                tenant_id=row.tenant_id,
                seq=row.event_seq,
                id=row.event_id,
                kind=row.kind,
                job_id=row.job_id,
                round=row.round,
                body=row.body,
                created_at=row.created_at,
            ),
            previous_id=row.previous_id,
            detail=row.detail,
            form=row.format,
            kept=None if row.kept is None else bytes(row.kept),
        )
        for row in found
    ]


def reap(session: Session, attempts: int) -> int:
    """Return deliveries with an expired lease to the queue, or end those that had ``attempts`` tries; count them.

    Nobody knows whether the receiver got them, so they go again under the same id, and the log says so.
    """
    lost = session.execute(_REAP, {"attempts": attempts}).all()
    if lost:
        numbers = _next_numbers(session, [row.id for row in lost])
        session.execute(
            sa.insert(Attempt),
            [
                {
                    "id": new_id(),
                    "tenant_id": row.tenant_id,
                    "delivery_id": row.id,
                    "number": numbers[row.id],
                    "duration_ms": 0,
                    "error": LOST,
                }
                for row in lost
            ],
        )
    return len(lost)


def give_back(session: Session, unsent: Sequence[Owed]) -> int:
    """Return deliveries of which nothing was sent to the queue, as if they had not been claimed; count them."""
    values = {
        "ids": [str(owed.id) for owed in unsent],
        "fences": [owed.fence for owed in unsent],
        "attempts": [owed.attempt for owed in unsent],
    }
    return len(session.execute(_GIVE_BACK, values).all())


def settle(session: Session, owed: Owed, tried: Tried, verdict: Verdict, patience: Patience) -> bool:
    """Write what an attempt came to, unless the lease was lost: then nothing is written, and the answer is False.

    1. Read how the endpoint fares; hold the counter first if there may be an event to record.
    2. Lock the endpoint if it changes, then move the delivery under its fence.
    3. Add the attempt's row, change the endpoint, and record its warning or end.
    """
    change = change_of(session, owed.endpoint_id, verdict, patience)
    if change and change.kind:
        events.hold(session, owed.event.tenant_id)
    if change:
        session.execute(sa.select(Endpoint.id).where(Endpoint.id == owed.endpoint_id).with_for_update(key_share=True))
    if not _move(session, owed, verdict):
        return False
    session.add(
        Attempt(
            id=new_id(),
            tenant_id=owed.event.tenant_id,
            delivery_id=owed.id,
            number=_next_numbers(session, [owed.id])[owed.id],
            started_at=tried.started_at,
            duration_ms=round(tried.seconds * 1000),
            status=tried.status,
            error=tried.error,
            response=tried.response,
        )
    )
    session.flush()
    if change:
        apply(session, owed.event.tenant_id, owed.endpoint_id, change)
    return True


def _move(session: Session, owed: Owed, verdict: Verdict) -> bool:
    moved = session.execute(
        sa.update(Delivery)
        .where(Delivery.id == owed.id, Delivery.fence == owed.fence, Delivery.state == "leased")
        .values(
            state=verdict.state,
            lease_until=None,
            next_at=sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, verdict.delay),
            finished_at=None if verdict.state == "waiting" else sa.func.now(),
        )
        .returning(Delivery.id)
    ).first()
    return moved is not None


def _next_numbers(session: Session, delivery_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the number of each delivery's next attempt in its log; the caller holds the deliveries' rows.

    Sending again begins the schedule anew, so its place in the schedule would name two attempts.
    """
    found = session.execute(
        sa.select(Attempt.delivery_id, sa.func.max(Attempt.number).label("last"))
        .where(Attempt.delivery_id.in_(delivery_ids))
        .group_by(Attempt.delivery_id)
    )
    last: dict[UUID, int] = {row.delivery_id: row.last for row in found}
    return {delivery_id: last.get(delivery_id, 0) + 1 for delivery_id in delivery_ids}
