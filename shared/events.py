"""What happened, numbered per tenant without a gap, and written with the deliveries it is owed to.

Numbers come from the tenant's counter row. It is locked as late as can be and held to the end of the transaction, so
that a reader who sees a number has seen every smaller one. Whoever needs the counter and an endpoint takes the counter
first (``hold``).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import webhooks
from shared.database import new_id
from shared.errors import Gone
from shared.prepared import Prepared, array, number_array
from shared.tables import Event
from shared.webhooks import Recorded

# A job does each of these once in a round; `uq_event_once` is the same list.
ONCE: Final = ("job.accepted", "job.started", "job.completed", "job.stopped", "job.cancelled", "job.expired")

# In order of id, so that two transactions that number events of the same tenants never wait for each other.
_TAKE: Final = Prepared(
    """
    INSERT INTO event_counter (tenant_id, last)
    SELECT taken.tenant_id, taken.n FROM unnest(:tenants, :numbers) AS taken (tenant_id, n)
    ORDER BY taken.tenant_id
    ON CONFLICT (tenant_id) DO UPDATE SET last = event_counter.last + excluded.last
    RETURNING tenant_id, last, now()
    """,
    {"tenants": "uuid[]", "numbers": "bigint[]"},
)
# A literal list lets the planner see that the partial index holds all there is to find.
_ONCE_LISTED: Final = ", ".join(f"'{kind}'" for kind in ONCE)
_KNOWN: Final = Prepared(
    f"""
    SELECT e.job_id, e.kind, e.round
    FROM unnest(:jobs, :kinds, :rounds) AS x (job_id, kind, round)
    JOIN event e ON e.job_id = x.job_id AND e.kind = x.kind AND e.round = x.round
    WHERE e.kind IN ({_ONCE_LISTED})
    """,  # noqa: S608  # made of the constant names above
    {"jobs": "uuid[]", "kinds": "text[]", "rounds": "int[]"},
)
# All of them or, where one of them happened before, none. Whoever reads `event` under the lock of the counters sees all
# that was recorded before. An endpoint that is made meanwhile is owed what happens after it is there.
_WRITE: Final = Prepared(
    f"""
    WITH x AS MATERIALIZED (
      SELECT * FROM unnest(:tenants, :numbers, :ids, :kinds, :jobs, :rounds, :bodies)
        AS x (tenant_id, seq, id, kind, job_id, round, body)),
    known AS (
      SELECT FROM x JOIN event e ON e.job_id = x.job_id AND e.kind = x.kind AND e.round = x.round
      WHERE e.kind IN ({_ONCE_LISTED})),
    written AS (
      INSERT INTO event (tenant_id, seq, id, kind, job_id, round, body)
      SELECT x.tenant_id, x.seq, x.id, x.kind, x.job_id, x.round, CAST(x.body AS jsonb) FROM x
      WHERE NOT EXISTS (SELECT FROM known)
      RETURNING 1)
    SELECT EXISTS (SELECT FROM written) AS is_written,
      EXISTS (SELECT FROM endpoint WHERE tenant_id = ANY (:tenants)) AS is_heard
    """,  # noqa: S608  # made of the constant names above
    {
        "tenants": "uuid[]",
        "numbers": "bigint[]",
        "ids": "uuid[]",
        "kinds": "text[]",
        "jobs": "uuid[]",
        "rounds": "int[]",
        "bodies": "text[]",
    },
)

#: Parts of a statement that does something and tells of it too. Its ``news`` are rows ``(tenant_id, place, id, kind,
#: job_id, round, body)``, of which ``told`` are written, numbered in the order of ``place``; not what happened before.
#: The caller holds the jobs' rows, so nobody else records the same meanwhile. ``OWED`` is null where nobody listens,
#: else the events for ``owe``. A statement sees the database as it was when it began, and may have waited for the
#: counters since: so whether anybody listens is asked by a function that sees what is there by then.
TELLING: Final = f"""
    fresh AS MATERIALIZED (
      SELECT n.*, row_number() OVER w AS nth, count(*) OVER (PARTITION BY n.tenant_id) AS n FROM news n
      WHERE NOT EXISTS (
        SELECT FROM event e
        WHERE e.job_id = n.job_id AND e.kind = n.kind AND e.round = n.round AND e.kind IN ({_ONCE_LISTED}))
      WINDOW w AS (PARTITION BY n.tenant_id ORDER BY n.place)),
    numbered AS (
      INSERT INTO event_counter (tenant_id, last)
      SELECT tenant_id, count(*) FROM fresh GROUP BY tenant_id ORDER BY tenant_id
      ON CONFLICT (tenant_id) DO UPDATE SET last = event_counter.last + excluded.last
      RETURNING tenant_id, last),
    told AS (
      INSERT INTO event (tenant_id, seq, id, kind, job_id, round, body)
      SELECT f.tenant_id, c.last - f.n + f.nth, f.id, f.kind, f.job_id, f.round, f.body
      FROM fresh f JOIN numbered c ON c.tenant_id = f.tenant_id
      RETURNING tenant_id, seq, id, kind, job_id, round, body, created_at),
    heard AS MATERIALIZED (SELECT is_heard(ARRAY(SELECT DISTINCT tenant_id FROM told)) AS so)"""  # noqa: S608  # as above
OWED: Final = """
    CASE WHEN (SELECT so FROM heard) THEN (SELECT jsonb_agg(to_jsonb(told) ORDER BY tenant_id, seq) FROM told) END"""


class EventsGone(Gone):
    """Events behind the number asked for were deleted; ``oldest`` is the number of the first that is there."""

    def __init__(self, after: int, oldest: int) -> None:
        super().__init__(
            f"events {after + 1} to {oldest - 1} are deleted, as old ones are; ask for what comes after {oldest - 1}, "
            "and read the jobs themselves for what happened before"
        )
        self.oldest = oldest


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Something that happened; ``addressee`` names the one endpoint it is for, else all who want its kind hear it."""

    tenant_id: UUID
    kind: str
    job_id: UUID | None
    round: int
    body: dict[str, Any]
    addressee: UUID | None = None


def record(session: Session, rows: Sequence[NewEvent]) -> list[Recorded]:
    """Number these events and write them with their deliveries, in the caller's transaction; call it last.

    1. Take the numbers, which serialises this with every other transaction that records for the same tenants.
    2. Write the events, then the deliveries.
    3. Where a job did one of them before in the same round (kinds of ``ONCE``), give the numbers back, and do the same
       without those.

    Returns what was written.
    """
    if not rows:
        return []
    firsts = take(session, Counter(row.tenant_id for row in rows))
    recorded = _numbered(rows, firsts)
    is_written, is_heard = _write(session, recorded)
    if not is_written:
        fresh = _without_repeats(session, rows)
        given_back = Counter(row.tenant_id for row in rows) - Counter(row.tenant_id for row in fresh)
        take(session, {tenant: -n for tenant, n in given_back.items()})
        recorded = _numbered(fresh, firsts)
        if recorded and not _write(session, recorded)[0]:
            raise RuntimeError("an event was recorded by somebody who did not hold its tenant's counter")
    if recorded and is_heard:
        webhooks.owe(session, recorded)
    return recorded


def owe(session: Session, owed: Sequence[Mapping[str, Any]] | None) -> None:
    """Write the deliveries of what a statement told (``TELLING``), in its transaction; None where nobody listens."""
    if owed:
        webhooks.owe(session, [_recorded(event) for event in owed])


def _recorded(event: Mapping[str, Any]) -> Recorded:
    return Recorded(
        tenant_id=UUID(event["tenant_id"]),
        seq=event["seq"],
        id=UUID(event["id"]),
        kind=event["kind"],
        job_id=UUID(event["job_id"]),
        round=event["round"],
        body=event["body"],
        created_at=datetime.fromisoformat(event["created_at"]),
    )


def _numbered(rows: Sequence[NewEvent], firsts: Mapping[UUID, tuple[int, datetime]]) -> list[Recorded]:
    recorded, taken = [], Counter[UUID]()
    for row in rows:
        taken[row.tenant_id] += 1
        before, moment = firsts[row.tenant_id]
        recorded.append(
            Recorded(
                tenant_id=row.tenant_id,
                seq=before + taken[row.tenant_id],
                id=new_id(),
                kind=row.kind,
                job_id=row.job_id,
                round=row.round,
                body=row.body,
                created_at=moment,
                addressee=row.addressee,
            )
        )
    return recorded


def hold(session: Session, tenant_id: UUID) -> None:
    """Lock the tenant's counter, for a transaction that will lock an endpoint and may then have an event to record."""
    take(session, {tenant_id: 0})


def take(session: Session, numbers: Mapping[UUID, int]) -> dict[UUID, tuple[int, datetime]]:
    """Lock the tenants' counters, in order of id, and move them on; return each one's last number before, and the time.

    Whoever takes numbers writes an event for each of them in the same transaction.
    """
    tenants = list(numbers)
    given = {
        "tenants": array(tenant.hex for tenant in tenants),
        "numbers": number_array(numbers[tenant] for tenant in tenants),
    }
    return {row[0]: (row[1] - numbers[row[0]], row[2]) for row in _TAKE.run(session, given)}


def since(session: Session, after: int | None, limit: int = 100) -> list[Recorded]:
    """Return the tenant's events numbered above ``after``, in order: the feed, unfiltered and without gaps.

    None begins with the oldest there is. Raises ``EventsGone`` where the next number was deleted.
    """
    found = kept(session, after or 0, limit)
    if after is not None and (oldest := oldest_kept(found, after)) is not None:
        raise EventsGone(after, oldest)
    return found


def oldest_kept(found: Sequence[Recorded], after: int) -> int | None:
    """Return the number of the first of these events where those behind ``after`` that came before it were deleted.

    Numbers have no gap, and the newest event is never deleted: so where none is found, none is missing either.
    """
    return found[0].seq if found and found[0].seq > after + 1 else None


def kept(session: Session, after: int, limit: int) -> list[Recorded]:
    """Return those of the tenant's events above ``after`` that there are still, in order."""
    found = session.scalars(sa.select(Event).where(Event.seq > after).order_by(Event.seq).limit(limit))
    return [
        Recorded(
            tenant_id=event.tenant_id,
            seq=event.seq,
            id=event.id,
            kind=event.kind,
            job_id=event.job_id,
            round=event.round,
            body=event.body,
            created_at=event.created_at,
        )
        for event in found
    ]


def _without_repeats(session: Session, rows: Sequence[NewEvent]) -> list[NewEvent]:
    once = {(row.job_id, row.kind, row.round) for row in rows if row.kind in ONCE}
    known: set[tuple[UUID | None, str, int]] = set()
    if once:
        jobs, kinds, rounds = (list(column) for column in zip(*once, strict=True))
        given = {
            "jobs": array("NULL" if job is None else job.hex for job in jobs),
            "kinds": kinds,
            "rounds": number_array(rounds),
        }
        known = {(row[0], row[1], row[2]) for row in _KNOWN.run(session, given)}
    fresh = []
    for row in rows:
        if row.kind in ONCE:
            if (row.job_id, row.kind, row.round) in known:
                continue
            known.add((row.job_id, row.kind, row.round))
        fresh.append(row)
    return fresh


def _write(session: Session, recorded: Sequence[Recorded]) -> tuple[bool, bool]:
    """Write all of these events or none; return whether that was done, and whether their tenants have endpoints."""
    once = [(event.job_id, event.kind, event.round) for event in recorded if event.kind in ONCE]
    if len(set(once)) < len(once):
        return False, True
    [done] = _WRITE.run(
        session,
        {
            "tenants": array(event.tenant_id.hex for event in recorded),
            "numbers": number_array(event.seq for event in recorded),
            "ids": array(event.id.hex for event in recorded),
            "kinds": [event.kind for event in recorded],
            "jobs": array("NULL" if event.job_id is None else event.job_id.hex for event in recorded),
            "rounds": number_array(event.round for event in recorded),
            "bodies": [json.dumps(event.body) for event in recorded],
        },
    )
    return done.is_written, done.is_heard
