"""Claiming units under a fenced lease, and keeping the lease alive.

The fence is drawn from one sequence that only grows. Whatever is written later must still hold it, so a worker that
slept past its lease writes nothing. All times are the database's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events
from shared.vocabulary import LANES


@dataclass(frozen=True, slots=True)
class ClaimedImage:
    """A photo to answer: its id, its place in the job, where its bytes lie and what they must be."""

    id: UUID
    ordinal: int
    storage_key: str
    sha256: bytes
    bytes: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A unit on lease, with its images in order."""

    id: UUID
    tenant_id: UUID
    job_id: UUID
    lane: str
    fence: int
    first: int
    n: int
    attempt: int
    crashes: int
    images: tuple[ClaimedImage, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker must show to complete, prolong or give back a unit."""

    unit_id: UUID
    fence: int


_HEAD = """
    SELECT crashes > 0 FROM unit WHERE state = 'ready' AND {which} ORDER BY vft, id LIMIT 1
"""

# A sub-select with LIMIT joined to an UPDATE may run twice; a materialized one may not.
_CLAIM = """
    WITH c AS MATERIALIZED (
      SELECT id FROM unit WHERE state = 'ready' AND {which} AND crashes {suspicion}
      ORDER BY vft, id LIMIT :units FOR UPDATE SKIP LOCKED)
    UPDATE unit u SET state = 'leased', attempt = attempt + 1, fence = nextval('fence_seq'),
      leased_by = :worker, lease_until = now() + make_interval(secs => :lease)
    FROM c WHERE u.id = c.id
    RETURNING u.id, u.tenant_id, u.job_id, u.lane, u.fence, u.first, u.n, u.attempt, u.crashes, u.vft
"""


@dataclass(frozen=True, slots=True)
class _Look:
    """The statements of one kind of look: what is first, and the claim of suspects or of the others."""

    head: sa.TextClause
    suspect: sa.TextClause
    healthy: sa.TextClause

    @classmethod
    def at(cls, which: str) -> "_Look":
        return cls(
            sa.text(_HEAD.format(which=which)),
            sa.text(_CLAIM.format(which=which, suspicion="> 0")),
            sa.text(_CLAIM.format(which=which, suspicion="= 0")),
        )


_OF_LANES = _Look.at("kind = 'images' AND lane = ANY (:lanes)")
# Spelled out, so that an index of its own answers it, however much else is ready. A person waits for a few photos;
# a job of thousands in the interactive lane has its weight, and no more.
_OF_PEOPLE = _Look.at("kind = 'images' AND lane = 'interactive' AND n <= 4")

_IMAGES = sa.text("""
    SELECT u.id AS unit_id, i.id, i.ordinal, i.storage_key, i.bytes, i.sha256
    FROM unnest(CAST(:units AS uuid[]), CAST(:jobs AS uuid[]), CAST(:firsts AS int[]), CAST(:sizes AS int[]))
      AS u(id, job_id, first, n)
    JOIN image i ON i.job_id = u.job_id AND i.ordinal BETWEEN u.first AND u.first + u.n - 1
    ORDER BY u.id, i.ordinal
""")

# A job that still takes photos in begins to run beneath that: once, and its state is told when the last one has come.
_START = sa.text("""
    WITH j AS MATERIALIZED (
      SELECT id FROM job WHERE id = ANY (CAST(:jobs AS uuid[]))
        AND (state = 'queued' OR (state = 'receiving' AND started_at IS NULL)) ORDER BY id
      FOR NO KEY UPDATE)
    UPDATE job SET started_at = coalesce(started_at, now()),
      state = CASE WHEN state = 'queued' THEN 'running' ELSE state END
    FROM j WHERE job.id = j.id
    RETURNING job.id, job.tenant_id, job.round, job.total
""")

# Units are locked in the order of their ids, as everywhere: two orders would be a deadlock.
_HEARTBEAT = sa.text("""
    WITH held AS MATERIALIZED (
      SELECT u.id FROM unit u, unnest(CAST(:units AS uuid[]), CAST(:fences AS bigint[])) AS h(id, fence)
      WHERE u.id = h.id AND u.fence = h.fence AND u.state = 'leased' AND u.lease_until > now()
      ORDER BY u.id FOR UPDATE OF u)
    UPDATE unit u SET lease_until = now() + make_interval(secs => :lease) FROM held WHERE u.id = held.id
    RETURNING u.id
""")


def claim(
    session: Session,
    worker: str,
    *,
    units: int,
    lease_seconds: float,
    lanes: Iterable[str] = LANES,
    people_only: bool = False,
    busy: bool = False,
) -> list[Claimed]:
    """Take up to ``units`` of the first ready units for ``worker``, in the order of their tags.

    A suspect (a unit of one photo that was under a worker when it died) is claimed alone, so that it can take nobody
    with it; a worker that says it is ``busy`` with other units gets nothing as long as a suspect is first, and none.
    ``people_only`` looks past everything but interactive units of a few photos, which somebody is waiting for. Jobs
    whose first unit this is begin to run, with their event.
    """
    asked = {"worker": worker, "units": units, "lease": lease_seconds, "lanes": list(lanes)}
    rows = _take(session, _OF_PEOPLE if people_only else _OF_LANES, asked, busy=busy)
    if not rows:
        return []
    rows = sorted(rows, key=lambda row: (row.vft, row.id))
    images = _images(session, rows)
    _start_jobs(session, {row.job_id for row in rows})
    return [
        Claimed(
            row.id,
            row.tenant_id,
            row.job_id,
            row.lane,
            row.fence,
            row.first,
            row.n,
            row.attempt,
            row.crashes,
            tuple(images[row.id]),
        )
        for row in rows
    ]


def _take(session: Session, look: _Look, asked: dict[str, Any], *, busy: bool) -> Sequence[sa.Row[Any]]:
    """Take healthy units, or one suspect where a suspect is first; the other kind where the first is in other hands."""
    suspect_first = session.execute(look.head, asked).scalar_one_or_none()
    if suspect_first is None or (suspect_first and busy):
        return []
    if suspect_first:
        return session.execute(look.suspect, {**asked, "units": 1}).all() or session.execute(look.healthy, asked).all()
    healthy = session.execute(look.healthy, asked).all()
    if healthy or busy:
        return healthy
    return session.execute(look.suspect, {**asked, "units": 1}).all()


def heartbeat(session: Session, leases: Sequence[Lease], lease_seconds: float) -> set[UUID]:
    """Prolong the leases and return the units that are still ours; abandon every other at once."""
    found = session.execute(
        _HEARTBEAT,
        {
            "units": [str(lease.unit_id) for lease in leases],
            "fences": [lease.fence for lease in leases],
            "lease": lease_seconds,
        },
    )
    return set(found.scalars())


def _images(session: Session, rows: Sequence[sa.Row[Any]]) -> dict[UUID, list[ClaimedImage]]:
    found = session.execute(
        _IMAGES,
        {
            "units": [str(row.id) for row in rows],
            "jobs": [str(row.job_id) for row in rows],
            "firsts": [row.first for row in rows],
            "sizes": [row.n for row in rows],
        },
    )
    images: dict[UUID, list[ClaimedImage]] = {row.id: [] for row in rows}
    for unit_id, image_id, ordinal, storage_key, size, sha256 in found:
        images[unit_id].append(ClaimedImage(image_id, ordinal, storage_key, bytes(sha256), size))
    return images


def _start_jobs(session: Session, jobs: set[UUID]) -> None:
    started = session.execute(_START, {"jobs": sorted(str(job) for job in jobs)}).all()
    events.record(
        session,
        [events.NewEvent(row.tenant_id, "job.started", row.id, row.round, {"total": row.total}) for row in started],
    )
