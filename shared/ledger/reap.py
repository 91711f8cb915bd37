"""Taking units back: from workers that died or slept (a crash), and from workers that give them back (no crash).

A unit of several photos that was under a worker when it died is split into single photos; each of these then runs
alone. A photo that was under three dying workers is answered ``failed: quarantined``, and so is the rest of an archive
or list that three workers died of without getting on in between: such a unit is never split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.database import new_id
from shared.ledger import closing, remainder
from shared.ledger.claim import Lease
from shared.ledger.complete import Outcome, write_results

CRASHES = 3
QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Reaped:
    """What became of lost leases."""

    ready: int = 0
    split: int = 0
    quarantined: int = 0

    @property
    def total(self) -> int:
        """Return how many leases were lost."""
        return self.ready + self.split + self.quarantined


_LOST = """
    WITH s AS MATERIALIZED (
      SELECT id, {blameless} AS blameless FROM unit WHERE state = 'leased' AND {which}
      ORDER BY lease_until LIMIT :limit FOR UPDATE SKIP LOCKED)
    UPDATE unit u SET leased_by = NULL, lease_until = NULL, crashes = crashes + CASE WHEN blameless THEN 0 ELSE 1 END,
      state = CASE WHEN blameless THEN 'ready' WHEN n > 1 THEN 'split' WHEN crashes + 1 >= :crashes THEN 'dead'
              ELSE 'ready' END
    FROM s WHERE u.id = s.id
    RETURNING u.id, u.job_id, u.kind, u.first, u.n, u.state
"""
# No worker could prolong a lease that ran out while the server was away, or just after: nobody crashed.
_EXPIRED = sa.text(
    _LOST.format(
        which="lease_until < now()",
        blameless=":after_outage OR lease_until < pg_postmaster_start_time() + interval '2 seconds'",
    )
)
_OF_HOLDER = sa.text(_LOST.format(which="leased_by = :holder", blameless="false"))

_SPLIT = sa.text("""
    INSERT INTO unit (id, tenant_id, job_id, kind, lane, first, n, state, vft, attempt, crashes)
    SELECT x.id, u.tenant_id, u.job_id, u.kind, u.lane, x.ordinal, 1, 'ready', u.vft, u.attempt, u.crashes
    FROM unnest(CAST(:ids AS uuid[]), CAST(:parents AS uuid[]), CAST(:ordinals AS int[])) AS x(id, parent, ordinal)
    JOIN unit u ON u.id = x.parent
""")

# Units are locked in the order of their ids, as everywhere: two orders would be a deadlock.
_GIVE_BACK = sa.text("""
    WITH held AS MATERIALIZED (
      SELECT u.id FROM unit u, unnest(CAST(:units AS uuid[]), CAST(:fences AS bigint[])) AS h(id, fence)
      WHERE u.id = h.id AND u.fence = h.fence AND u.state = 'leased' ORDER BY u.id FOR UPDATE OF u)
    UPDATE unit u SET state = 'ready', attempt = attempt - 1, leased_by = NULL, lease_until = NULL
    FROM held WHERE u.id = held.id
    RETURNING u.id
""")


def reap(session: Session, limit: int = 500, *, after_outage: bool = False) -> Reaped:
    """Take back units whose lease has expired.

    ``after_outage`` says that the database was out of reach until now, so that an expired lease is no sign of a crash.
    """
    asked = {"limit": limit, "crashes": CRASHES, "after_outage": after_outage}
    return _bury(session, session.execute(_EXPIRED, asked).all())


def holders(session: Session, host: str) -> list[str]:
    """Return the names under which processes of a host hold leases; names begin with the host and a slash."""
    names = sa.text("SELECT DISTINCT leased_by FROM unit WHERE state = 'leased' AND starts_with(leased_by, :host)")
    return list(session.execute(names, {"host": f"{host}/"}).scalars())


def release(session: Session, holder: str, limit: int = 500) -> Reaped:
    """Take back at once what a dead process held; only who knows that it is dead may call this."""
    return _bury(session, session.execute(_OF_HOLDER, {"holder": holder, "limit": limit, "crashes": CRASHES}).all())


def give_back(session: Session, leases: Sequence[Lease]) -> int:
    """Return units untouched, as a worker does that is asked to stop. No crash, no attempt."""
    rows = session.execute(
        _GIVE_BACK,
        {"units": [str(lease.unit_id) for lease in leases], "fences": [lease.fence for lease in leases]},
    )
    return len(rows.all())


def _bury(session: Session, lost: Sequence[sa.Row[Any]]) -> Reaped:
    split = [row for row in lost if row.state == "split"]
    dead = [row for row in lost if row.state == "dead"]
    if split:
        pieces = [(row.id, row.first + place) for row in split for place in range(row.n)]
        session.execute(
            _SPLIT,
            {
                "ids": [str(new_id()) for _ in pieces],
                "parents": [str(parent) for parent, _ in pieces],
                "ordinals": [ordinal for _, ordinal in pieces],
            },
        )
    if dead:
        _quarantine(session, dead)
    return Reaped(len(lost) - len(split) - len(dead), len(split), len(dead))


def _quarantine(session: Session, dead: Sequence[sa.Row[Any]]) -> None:
    intakes = [row.job_id for row in dead if row.kind == "intake"]
    if intakes:
        closing.lock(session, {row.job_id for row in dead})
    for job in intakes:
        remainder.account(session, job, "failed", QUARANTINED)
    photos = _images(session, [row for row in dead if row.kind == "images"])
    closing.count(session, write_results(session, photos), ended=intakes)


def _images(session: Session, dead: Sequence[sa.Row[Any]]) -> list[Outcome]:
    found = session.execute(
        sa.text("""
            SELECT x.unit, i.id AS image, i.ordinal
            FROM unnest(CAST(:units AS uuid[]), CAST(:jobs AS uuid[]), CAST(:ordinals AS int[]))
              AS x(unit, job, ordinal)
            JOIN image i ON i.job_id = x.job AND i.ordinal = x.ordinal
        """),
        {
            "units": [str(row.id) for row in dead],
            "jobs": [str(row.job_id) for row in dead],
            "ordinals": [row.first for row in dead],
        },
    )
    return [Outcome(row.image, row.unit, row.ordinal, "failed", reasons=(QUARANTINED,)) for row in found]
