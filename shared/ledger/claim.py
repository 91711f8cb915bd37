"""Claiming units under a fenced lease, and keeping the lease alive.

The fence is drawn from one sequence that only grows. Whatever is written later must still hold it, so a worker that
slept past its lease writes nothing. All times are the database's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from struct import Struct
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events
from shared.database import new_id
from shared.prepared import Prepared, array
from shared.vocabulary import LANES


class ClaimedImage(NamedTuple):
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
    #: The model that the job asks for; None for the one that serves.
    model: str | None = None
    #: The version of what serves (``shared/registry/serving.py``) when it was claimed.
    serving: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker must show to complete, prolong or give back a unit."""

    unit_id: UUID
    fence: int


_HEAD = """
    SELECT crashes > 0 AS is_suspect FROM unit WHERE state = 'ready' AND {which} ORDER BY vft, id LIMIT 1
"""
_ANY = "SELECT EXISTS (SELECT FROM unit WHERE state = 'ready' AND {which}) AS so"

# A sub-select with LIMIT joined to an UPDATE may run twice; a materialized one may not. A unit's photos come with it,
# packed: a row a photo would cost more than all the rest. The limit is spelled out, for a plan that does not know it
# is made for a tenth of the table. Where nothing is claimed there is one row all the same, which says what was first.
_CLAIM = """
    WITH head AS MATERIALIZED ({head}),
    c AS MATERIALIZED (
      SELECT id, n, vft FROM unit WHERE state = 'ready' AND {which} AND crashes {suspicion}
      ORDER BY vft, id LIMIT {units} FOR UPDATE SKIP LOCKED),
    fitting AS (
      SELECT id FROM (SELECT id, sum(n) OVER (ORDER BY vft, id) - n AS before FROM c) x WHERE before < :photos),
    taken AS (
      UPDATE unit u SET state = 'leased', attempt = attempt + 1, fence = nextval('fence_seq'),
        leased_by = :worker, lease_until = now() + make_interval(secs => :lease)
      FROM fitting WHERE u.id = fitting.id
      RETURNING u.id, u.tenant_id, u.job_id, u.lane, u.fence, u.first, u.n, u.attempt, u.crashes, u.vft)
    SELECT t.*, (SELECT is_suspect FROM head) AS is_behind_suspect,
      (j.state = 'queued' OR (j.state = 'receiving' AND j.started_at IS NULL)) AS is_first, j.model,
      (SELECT version FROM model_serving) AS serving, p.*
    FROM (SELECT) always LEFT JOIN taken t ON true LEFT JOIN job j ON j.id = t.job_id LEFT JOIN LATERAL (
      SELECT string_agg(uuid_send(i.id) || int4send(i.ordinal) || int8send(i.bytes) || i.sha256, '') AS images,
        string_agg(i.storage_key, E'\\n') AS storage_keys
      FROM (
        SELECT * FROM image WHERE job_id = t.job_id AND ordinal BETWEEN t.first AND t.first + t.n - 1 ORDER BY ordinal
      ) i) p ON true
    ORDER BY t.vft, t.id
"""
_PHOTO: Final = Struct("!16siq32s")  # as the statement above packs one
MANY = 1_000_000
_ASKED: Final = {"photos": "int", "worker": "text", "lease": "float8"}


@dataclass(frozen=True, eq=False)
class _Look:
    """The statements of one kind of look: healthy units where no suspect is first, and either kind."""

    which: str
    types: dict[str, str]

    @cache  # noqa: B019  # there are three looks, and workers ask for few numbers of units
    def usual(self, units: int) -> Prepared:
        """Return the claim of healthy units that finds none where a suspect is first."""
        return self._claim(units, "= 0 AND NOT coalesce((SELECT is_suspect FROM head), false)")

    @cache  # noqa: B019
    def healthy(self, units: int) -> Prepared:
        """Return the claim of healthy units, whatever is first."""
        return self._claim(units, "= 0")

    @cache  # noqa: B019
    def suspect(self) -> Prepared:
        """Return the claim of one suspect."""
        return self._claim(1, "> 0")

    def _claim(self, units: int, suspicion: str) -> Prepared:
        head = _HEAD.format(which=self.which)
        text = _CLAIM.format(head=head, which=self.which, units=units, suspicion=suspicion)
        return Prepared(text, _ASKED | self.types)


_OF_LANES = _Look("kind = 'images' AND lane = ANY (:lanes)", {"lanes": "text[]"})
# Spelled out, so that an index of its own answers it, however much else is ready. A person waits for a few photos;
# a job of thousands in the interactive lane has its weight, and no more.
MOST_OF_PEOPLE: Final = 4
_FOR_PEOPLE: Final = f"lane = 'interactive' AND n <= {MOST_OF_PEOPLE}"
_OF_PEOPLE = _Look(f"kind = 'images' AND {_FOR_PEOPLE}", {})
# Suspects are whoever's: people's drains take none.
_OF_OTHERS = _Look(f"kind = 'images' AND lane = ANY (:lanes) AND NOT ({_FOR_PEOPLE} AND crashes = 0)", _OF_LANES.types)
_LOOKS: Final = {"anybody": _OF_LANES, "people": _OF_PEOPLE, "others": _OF_OTHERS}
Whose = Literal["anybody", "people", "others"]

_PEOPLE_WAIT = Prepared(_ANY.format(which=_OF_PEOPLE.which), {})

# A job that still takes photos in begins to run beneath that: once, and its state is told when the last one has come.
_UNBEGUN: Final = "id = ANY (:jobs) AND (state = 'queued' OR (state = 'receiving' AND started_at IS NULL))"
_LOCK = Prepared(f"SELECT id FROM job WHERE {_UNBEGUN} ORDER BY id FOR NO KEY UPDATE", {"jobs": "uuid[]"})  # noqa: S608
_START = Prepared(
    f"""
    WITH begun AS (
      UPDATE job SET started_at = coalesce(started_at, now()),
        state = CASE WHEN state = 'queued' THEN 'running' ELSE state END
      WHERE {_UNBEGUN}
      RETURNING id, tenant_id, round, total),
    news AS (
      SELECT tenant_id, row_number() OVER w AS place, (:starts)[row_number() OVER w] AS id, 'job.started' AS kind,
        id AS job_id, round, jsonb_build_object('total', total) AS body
      FROM begun WINDOW w AS (ORDER BY id)),
    {events.TELLING}
    SELECT {events.OWED} AS owed
    """,  # noqa: S608  # made of constants
    {"jobs": "uuid[]", "starts": "uuid[]"},
)

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
    photos: int = MANY,
    lease_seconds: float,
    lanes: Iterable[str] = LANES,
    whose: Whose = "anybody",
    busy: bool = False,
) -> list[Claimed]:
    """Take up to ``units`` of the first ready units for ``worker``, in the order of their tags.

    A unit is taken only while those before it have fewer than ``photos``, so that many small units make one claim.
    A suspect (a unit of one photo that was under a worker when it died) is claimed alone, so that it can take nobody
    with it; a worker that says it is ``busy`` with other units gets nothing as long as a suspect is first, and none.
    Of ``people`` are interactive units of a few photos, which somebody is waiting for; of ``others`` is what no drain
    for people would take. Jobs whose first unit this is begin to run, with their event.
    """
    asked = {"worker": worker, "photos": photos, "lease": lease_seconds, "lanes": list(lanes)}
    rows = _take(session, _LOOKS[whose], units, asked, busy=busy)
    if not rows:
        return []
    _start_jobs(session, {row.job_id for row in rows if row.is_first})
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
            _images(row),
            row.model,
            row.serving or 0,
        )
        for row in rows
    ]


def people_wait(session: Session) -> bool:
    """Return whether there is anything to claim for people: to ask costs less than a claim that finds nothing."""
    return bool(_PEOPLE_WAIT.run(session, {})[0].so)


def _take(session: Session, look: _Look, units: int, asked: dict[str, Any], *, busy: bool) -> Sequence[Any]:
    """Take healthy units, or one suspect where a suspect is first; the other kind where the first is in other hands."""
    healthy, first = _claimed(look.usual(units).run(session, asked))
    if healthy or busy or first is None:
        return healthy
    suspect, _ = _claimed(look.suspect().run(session, asked))
    return suspect or (_claimed(look.healthy(units).run(session, asked))[0] if first else [])


def _claimed(rows: Sequence[Any]) -> tuple[Sequence[Any], bool | None]:
    """Return the rows of claimed units, and whether a suspect was first; None where nothing was."""
    return [row for row in rows if row.id is not None], rows[0].is_behind_suspect


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


def _images(row: Any) -> tuple[ClaimedImage, ...]:
    if row.images is None:
        return ()
    ids, ordinals, sizes, digests = zip(*_PHOTO.iter_unpack(row.images), strict=True)
    uuids = [UUID(bytes=one) for one in ids]
    return tuple(map(ClaimedImage, uuids, ordinals, row.storage_keys.split("\n"), digests, sizes))


def _start_jobs(session: Session, jobs: set[UUID]) -> None:
    if not jobs:
        return
    named = {"jobs": array(sorted(job.hex for job in jobs))}
    starts = array(new_id().hex for _ in jobs)
    # One alone has no order, and its update locks it.
    first = (_LOCK, named) if len(jobs) > 1 else None
    [row] = _START.run(session, {**named, "starts": starts}, first=first)
    events.owe(session, row.owed)
