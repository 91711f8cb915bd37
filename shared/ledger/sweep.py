"""The sweep: everything that must happen even if nobody asks. One process at a time, every second or two.

1. Take back expired leases.
2. Promote units whose wait is over.
3. End jobs whose deadline has passed.
4. Tell which lanes have work, so that tokens can be sent for it.
5. Look for closed jobs whose counters and results disagree: there must be none.
"""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.ledger import cancel
from shared.ledger.reap import Reaped, reap


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep found and did."""

    reaped: Reaped
    promoted: int
    expired: int
    ready: dict[str, int]


_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(hashtext('poxvisio sweep'))")
_PROMOTE = sa.text("""
    WITH w AS MATERIALIZED (
      SELECT id FROM unit WHERE state = 'waiting' AND available_at <= now()
      ORDER BY available_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
    UPDATE unit SET state = 'ready' FROM w WHERE unit.id = w.id RETURNING unit.id
""")
_OVERDUE = sa.text("""
    SELECT id FROM job WHERE closed_at IS NULL AND deadline IS NOT NULL AND deadline <= now() ORDER BY id LIMIT 20
""")
_READY = sa.text("SELECT lane, count(*) FROM unit WHERE state = 'ready' GROUP BY lane")
_DISAGREEING = sa.text("""
    SELECT j.id FROM job j
    WHERE j.closed_at > now() - interval '5 minutes'
      AND (j.remaining <> 0 OR (SELECT count(*) FROM result r WHERE r.job_id = j.id) <> j.total)
    LIMIT 100
""")


def sweep(session: Session) -> Sweep | None:
    """Do one round; None where another process is at it."""
    if not session.execute(_LOCK).scalar_one():
        return None
    reaped = reap(session)
    promoted = len(session.execute(_PROMOTE).all())
    overdue = list(session.execute(_OVERDUE).scalars())
    for job in overdue:
        cancel.expire(session, job)
    ready = {lane: int(units) for lane, units in session.execute(_READY).tuples()}
    return Sweep(reaped, promoted, len(overdue), ready)


def disagreements(session: Session) -> list[UUID]:
    """Return recently closed jobs whose results and counters disagree. It is always empty, or there is a bug."""
    return list(session.execute(_DISAGREEING).scalars())
