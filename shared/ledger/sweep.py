"""The sweep: everything that must happen even if nobody asks, every second or two.

Every step is safe to run twice; the advisory lock only spares several processes the same work.

1. Take back expired leases.
2. Promote units whose wait is over.
3. Tell which lanes have work, so that tokens can be sent for it.
4. End jobs whose deadline has passed, or more of whose photos failed than they allow: this may take long, and one that
   cannot be ended now is tried again in the next round.
5. Count what waits, for whoever must say how long something will take.
6. Tell of photos that were answered by the thousand when their job ended, for a while: the rest in the next round.
7. Look for closed jobs whose counters and results disagree: there must be none.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from shared import image_events
from shared.crash_points import passing
from shared.database import Database
from shared.errors import Unavailable
from shared.ledger import backlog, cancel
from shared.ledger.reap import Reaped, reap
from shared.logs import logger

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep found and did."""

    reaped: Reaped
    promoted: int
    expired: int
    ready: dict[str, int]
    workers: int
    stopped: int


# Expired leases looked at in a round; after an outage all of them, since in the next round they would count as crashes.
_SOME, _ALL = 500, 1_000_000

# Nothing else of a round waits for longer.
_TELLING_SECONDS = 1.0

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
# A rate of a few photos says nothing.
_FAILING = sa.text("""
    SELECT id FROM job
    WHERE closed_at IS NULL AND max_failure_rate IS NOT NULL
      AND total - remaining >= 50 AND rejected + failed > max_failure_rate * (total - remaining)
    ORDER BY id LIMIT 20
""")
# A look at the first thousand says enough: a token is permission to look at all of them.
_READY = sa.text("""
    SELECT lane, count(*) FROM (
      (SELECT lane FROM unit WHERE state = 'ready' AND kind = 'images' ORDER BY vft, id LIMIT 1000)
      UNION ALL
      (SELECT lane FROM unit WHERE state = 'ready' AND kind = 'intake' ORDER BY vft, id LIMIT 100)) AS head
    GROUP BY lane
""")
# At least one: a worker that has not reported itself yet must be woken too.
_WORKERS = sa.text("SELECT greatest(1, count(*)) FROM worker_node WHERE last_seen > now() - interval '30 seconds'")
_DISAGREEING = sa.text("""
    SELECT j.id FROM job j
    WHERE j.closed_at > now() - interval '5 minutes' AND j.deleted_at IS NULL
      AND (j.remaining <> 0 OR (SELECT count(*) FROM result r WHERE r.job_id = j.id) <> j.total)
    LIMIT 100
""")


def sweep(database: Database, *, after_outage: bool = False) -> Sweep | None:
    """Do one round; None where another process is at it.

    ``after_outage`` says that the last round could not reach the database: leases that ran out then are no crashes.

    Each step is a transaction of its own: one that has locked jobs must not go on to lock units.
    """
    with database.transaction() as session:
        if not session.execute(_LOCK).scalar_one():
            return None
        reaped = reap(session, _ALL if after_outage else _SOME, after_outage=after_outage)
        if reaped.total:
            passing("sweep.reaping")
    with database.transaction() as session:
        promoted = len(session.execute(_PROMOTE).all())
        ready = {lane: int(units) for lane, units in session.execute(_READY)}
        workers = int(session.execute(_WORKERS).scalar_one())
        overdue = list(session.execute(_OVERDUE).scalars())
        failing = list(session.execute(_FAILING).scalars())
    expired = sum(_end(database, job, cancel.expire) for job in overdue)
    stopped = sum(_end(database, job, cancel.stop) for job in failing)
    with database.transaction(lasting=False) as session:
        backlog.count(session)
    _tell(database)
    return Sweep(reaped, promoted, expired, ready, workers, stopped)


def _tell(database: Database) -> None:
    """Tell of photos for a while; what cannot be told now must not keep the round from waking workers."""
    end, told = time.monotonic() + _TELLING_SECONDS, 1
    while told and time.monotonic() < end:
        try:
            with database.transaction() as session:
                told = image_events.tell_more(session)
        except (Unavailable, DBAPIError) as error:
            log.error("photos_not_told", error=type(error).__name__)
            return


def _end(database: Database, job: UUID, end: Callable[[Session, UUID], None]) -> bool:
    """End one job and tell whether that was possible: a job that cannot be ended must not hold up the others."""
    try:
        with database.transaction() as session:
            end(session, job)
    except (Unavailable, DBAPIError) as error:
        log.error("job_not_ended", job=str(job), error=type(error).__name__)
        return False
    return True


def disagreements(session: Session) -> list[UUID]:
    """Return recently closed jobs whose results and counters disagree. It is always empty, or there is a bug."""
    return list(session.execute(_DISAGREEING).scalars())
