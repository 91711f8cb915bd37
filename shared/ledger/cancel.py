"""Ending a job early: by cancel, by its deadline or by its failures.

Finished photos keep their answers, the others get one now. Whoever holds a unit's row first wins: a completion that
came first keeps its results, a completion that comes later finds no leased unit and writes nothing.
"""

from collections import Counter
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.errors import Conflict, NotFound
from shared.ledger import closing, remainder
from shared.tables import Job

_OPEN_UNITS = sa.text("""
    SELECT id FROM unit WHERE job_id = :job AND state IN ('waiting', 'ready', 'leased') ORDER BY id FOR UPDATE
""")

_ANY_OPEN = sa.text("""
    SELECT EXISTS (SELECT FROM unit WHERE job_id = :job AND state IN ('waiting', 'ready', 'leased'))
""")

_END_UNITS = sa.text("""
    UPDATE unit SET state = 'cancelled', leased_by = NULL, lease_until = NULL WHERE id = ANY (CAST(:units AS uuid[]))
""")

# What was queued and never answered is no debt: the next job of the tenant waits behind what it still has in the lane,
# and not behind what it took back. A tag in the past is none either, since a job never begins before the virtual time.
_GIVE_TAGS_BACK = sa.text("""
    WITH ended AS (
      SELECT tenant_id, lane, min(vft) AS tag FROM unit WHERE id = ANY (CAST(:units AS uuid[]))
      GROUP BY tenant_id, lane),
    kept AS (
      SELECT max(u.vft) AS tag FROM unit u JOIN ended e USING (tenant_id, lane)
      WHERE u.state = 'ready' AND u.kind = 'images'
      UNION ALL SELECT max(u.vft) FROM unit u JOIN ended e USING (tenant_id, lane) WHERE u.state = 'waiting'
      UNION ALL SELECT max(u.vft) FROM unit u JOIN ended e USING (tenant_id, lane) WHERE u.state = 'leased')
    UPDATE flow f SET last_vft = least(f.last_vft, greatest(ended.tag, (SELECT max(tag) FROM kept)))
    FROM ended WHERE f.tenant_id = ended.tenant_id AND f.lane = ended.lane
""")

# OFFSET keeps the planner from joining units and photos by their job alone, which compares each with each.
_END_IMAGES = sa.text("""
    INSERT INTO result (image_id, tenant_id, job_id, ordinal, fence, outcome, reasons, attempts, has_copy)
    SELECT i.id, i.tenant_id, i.job_id, i.ordinal, u.fence, :outcome, '{}', u.attempt, false
    FROM unit u CROSS JOIN LATERAL (
      SELECT * FROM image WHERE job_id = u.job_id AND ordinal BETWEEN u.first AND u.first + u.n - 1 OFFSET 0) AS i
    WHERE u.id = ANY (CAST(:units AS uuid[]))
    ON CONFLICT (image_id) DO NOTHING
    RETURNING image_id
""")


def cancel(session: Session, tenant_id: UUID, job_id: UUID) -> None:
    """Cancel an open job. Cancelling twice is no error.

    Raises ``NotFound`` where the tenant has no such job, and ``Conflict`` where it closed another way before.
    """
    job = session.execute(
        sa.select(Job.state, Job.closed_at).where(Job.tenant_id == tenant_id, Job.id == job_id)
    ).one_or_none()
    if job is None:
        raise NotFound("there is no such job")
    if job.closed_at is None:
        _end(session, job_id, outcome="cancelled", state="cancelled")
    state = session.execute(sa.select(Job.state).where(Job.id == job_id)).scalar_one()
    if state != "cancelled":
        raise Conflict(f"the job is {state} already; there is nothing left to cancel")


def expire(session: Session, job_id: UUID) -> None:
    """End a job whose deadline has passed: photos never answered become ``expired``."""
    _end(session, job_id, outcome="expired", state="expired")


def stop(session: Session, job_id: UUID) -> None:
    """End a job too many of whose photos were rejected or failed: photos never answered become ``cancelled``."""
    _end(session, job_id, outcome="cancelled", state="stopped")


def _end(session: Session, job_id: UUID, *, outcome: str, state: str) -> None:
    written = 0
    # A lock that waited for a split finds the old unit closed and cannot see its pieces; the next look does.
    while session.execute(_ANY_OPEN, {"job": job_id}).scalar_one():
        ids = [str(unit) for unit in session.execute(_OPEN_UNITS, {"job": job_id}).scalars()]
        session.execute(_END_UNITS, {"units": ids})
        session.execute(_GIVE_TAGS_BACK, {"units": ids})
        written += len(session.execute(_END_IMAGES, {"units": ids, "outcome": outcome}).all())
    remainder.account(session, job_id, outcome)
    closing.count(session, {job_id: Counter({outcome: written})}, closing=state, ended=[job_id])
