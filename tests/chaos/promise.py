"""What must hold whatever was broken: looked at while it is being broken, and once more when all is quiet."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import psycopg2

from shared import verification
from shared.vocabulary import OUTCOMES
from tests.chaos.running import Service, until
from tests.chaos.samples import SAMPLES

#: SHA-256 of a photo, and what it is answered when nobody disturbs: outcome and label.
Reference = Mapping[str, tuple[str, str | None]]
Rows = Callable[..., list[tuple[Any, ...]]]

_COUNTED = " + ".join(f"j.{outcome}" for outcome in OUTCOMES)

# One statement, hence one moment. Jobs closed long ago are looked at in the end.
_UNBALANCED = f"""
    SELECT j.id, j.total, j.remaining, {_COUNTED} AS counted, r.n
    FROM job j CROSS JOIN LATERAL (SELECT count(*) AS n FROM result WHERE job_id = j.id) r
    WHERE (j.closed_at IS NULL OR j.closed_at > now() - make_interval(secs => %s))
      AND (j.remaining <> j.total - r.n OR {_COUNTED} <> r.n
        OR (j.remaining = 0 AND j.state <> 'receiving') <> (j.closed_at IS NOT NULL))
"""
_ALWAYS = 1e9

_SUPERSEDED = """
    SELECT r.job_id, r.ordinal, r.fence, u.fence FROM result r JOIN unit u ON u.job_id = r.job_id
      AND r.ordinal BETWEEN u.first AND u.first + u.n - 1 AND u.state IN ('done', 'dead') AND u.kind = 'images'
    WHERE r.fence <> u.fence AND r.outcome NOT IN ('cancelled', 'expired')
"""
_LEFT_OPEN = "SELECT job_id, state, first, n FROM unit WHERE state IN ('waiting', 'ready', 'leased')"
# Every photo is in exactly one unit that was not split into others, or was answered in one that was: a unit is split
# too where only some of its photos are put off. An entry that was refused while an archive was expanded is in none.
_UNCOVERED = """
    SELECT i.job_id, i.ordinal, count(u.id) FROM job j JOIN image i ON i.job_id = j.id
    LEFT JOIN result r ON r.image_id = i.id
    LEFT JOIN unit u ON u.job_id = i.job_id AND u.kind = 'images' AND i.ordinal BETWEEN u.first AND u.first + u.n - 1
      AND (u.state <> 'split' OR u.fence = r.fence)
    WHERE j.round = 0 GROUP BY i.job_id, i.ordinal, r.outcome
    HAVING count(u.id) <> 1 AND NOT (count(u.id) = 0 AND r.outcome IN ('rejected', 'failed', 'cancelled', 'expired')
      AND EXISTS (SELECT FROM unit k WHERE k.job_id = i.job_id AND k.kind = 'intake'))
"""
_TOLD_TWICE = """
    SELECT job_id, kind, round, count(*) FROM event WHERE job_id IS NOT NULL
      AND kind NOT IN ('job.progress', 'image.completed')
    GROUP BY job_id, kind, round HAVING count(*) <> 1
    UNION ALL SELECT job_id, kind || ' of ' || (body ->> 'image'), round, count(*) FROM event
    WHERE kind = 'image.completed' GROUP BY job_id, kind, body ->> 'image', round HAVING count(*) <> 1
"""
_UNTOLD = """
    SELECT j.id, j.state FROM job j WHERE NOT EXISTS (
      SELECT FROM event e WHERE e.job_id = j.id AND e.round = j.round AND e.kind = 'job.' || j.state)
"""
# Of jobs that came when somebody had asked already.
_PHOTO_UNTOLD = """
    SELECT r.job_id, r.ordinal, r.outcome FROM result r
    WHERE EXISTS (SELECT FROM endpoint p WHERE p.tenant_id = r.tenant_id AND p.job_id IS NULL AND p.id < r.job_id
        AND 'image.completed' = ANY (p.kinds))
      AND NOT EXISTS (SELECT FROM event e WHERE e.job_id = r.job_id AND e.kind = 'image.completed'
        AND CAST(e.body ->> 'ordinal' AS int) = r.ordinal AND e.body ->> 'outcome' = r.outcome)
"""
_GAPS = """
    SELECT c.tenant_id, c.last, count(e.seq), min(e.seq), max(e.seq) FROM event_counter c
    LEFT JOIN event e ON e.tenant_id = c.tenant_id GROUP BY c.tenant_id, c.last
    HAVING count(e.seq) <> c.last OR max(e.seq) <> c.last OR min(e.seq) <> 1
"""
# What is owed to a disabled endpoint waits until its owner enables it again.
_UNENDED = """
    SELECT d.id, d.state, d.attempt FROM delivery d JOIN endpoint p ON p.id = d.endpoint_id
    WHERE d.state NOT IN ('delivered', 'dead') AND NOT (d.state = 'waiting' AND p.state = 'disabled')
"""
# Ids tell what was made first (UUIDv7), whatever the database's clock was set to meanwhile.
_UNOWED = """
    SELECT e.seq, p.id FROM event e JOIN endpoint p ON p.tenant_id = e.tenant_id AND p.job_id IS NULL
      AND p.id < e.id AND (p.kinds = '{}' AND e.kind <> 'image.completed' OR e.kind = ANY (p.kinds))
    WHERE e.job_id IS NOT NULL
      AND NOT EXISTS (SELECT FROM delivery d WHERE d.endpoint_id = p.id AND d.event_seq = e.seq)
"""


@dataclass
class Sampler:
    """Looks at the counters every moment while its block runs; ``broken`` lists each time they did not add up."""

    url: Callable[[], str]
    seconds: float = 0.1
    samples: int = 0
    away: int = 0
    results: int = 0
    broken: list[str] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                connection = psycopg2.connect(self.url(), connect_timeout=3)
            except (psycopg2.OperationalError, FileNotFoundError):
                self.away += 1
                self._ending.wait(self.seconds)
            else:
                with contextlib.closing(connection), contextlib.suppress(psycopg2.OperationalError):
                    connection.autocommit = True
                    self._look_on(connection.cursor())

    def _look_on(self, cursor: "psycopg2.extensions.cursor") -> None:
        while not self._ending.wait(self.seconds):
            cursor.execute(_UNBALANCED, (30.0,))
            found = cursor.fetchall()
            cursor.execute("SELECT count(*) FROM result")
            [(self.results,)] = cursor.fetchall()
            self.samples += 1
            self.broken += [f"sample {self.samples}: {_told(row)}" for row in found]


def books(rows: Rows) -> list[str]:
    """Return what is wrong with the books of all jobs, all of which have closed."""
    return [
        *_each("counters do not add up", rows(_UNBALANCED, _ALWAYS)),
        *_each("a result carries a superseded fence", rows(_SUPERSEDED)),
        *_each("a unit was left open", rows(_LEFT_OPEN)),
        *_each("units do not cover the job", rows(_UNCOVERED)),
        *_each("an event was told twice", rows(_TOLD_TWICE)),
        *_each("the end of a job was not told", rows(_UNTOLD)),
        *_each("what became of a photo was not told", rows(_PHOTO_UNTOLD)),
        *_each("the feed has a gap", rows(_GAPS)),
    ]


def deliveries(rows: Rows) -> list[str]:
    """Return which deliveries have not ended, and which were never owed."""
    return _each("a delivery has not ended", rows(_UNENDED)) + _each("an event is owed to nobody", rows(_UNOWED))


def answers(
    rows: Rows,
    job: UUID,
    photos: Sequence[bytes],
    reference: Reference,
    also: Iterable[str] = (),
    *,
    only: int | None = None,
) -> list[str]:
    """Return where the answers to a job's photos are not those of the undisturbed run, one each.

    ``also`` are outcomes that are right as well, because they were asked for; ``only`` so many first photos are looked
    at. A photo that was under three dying workers is quarantined, and rightly so.
    """
    found = rows(
        "SELECT i.ordinal, encode(i.sha256, 'hex'), r.outcome, r.label, r.reasons, u.crashes FROM image i"
        " LEFT JOIN result r ON r.image_id = i.id LEFT JOIN unit u ON u.job_id = i.job_id AND u.state = 'dead'"
        "  AND u.first = i.ordinal WHERE i.job_id = %s ORDER BY i.ordinal LIMIT %s",
        str(job),
        only,
    )
    digests = [sha256(photo).hexdigest() for photo in photos]
    if [row[1] for row in found] != digests:
        return [f"{job}: {len(found)} photos, not the {len(digests)} that were sent, in their order"]
    wrong = []
    for ordinal, digest, outcome, label, reasons, crashes in found:
        quarantined = outcome == "failed" and reasons == ["quarantined"] and crashes is not None and crashes >= 3
        if (outcome, label) != reference[digest] and outcome not in set(also) and not quarantined:
            wrong.append(f"{job}/{ordinal}: {outcome} {label} {reasons}, not {reference[digest]}")
    return wrong


def receipts(service: Service, jobs: Iterable[UUID]) -> list[str]:
    """Return which jobs' receipts do not hold."""
    wrong = []
    with service.client() as client:
        keys = client.get("/.well-known/poxvisio-keys.json").json()
        for job in jobs:
            for stage in ("accepted", "closed"):
                document = client.get(f"/v1/jobs/job_{job.hex}/receipt", params={"stage": stage}).json()
                wrong += [f"{job}, {stage} receipt: {it}" for it in verification.verify(document, keys).problems]
    return wrong


def undisturbed(service: Service) -> Reference:
    """Return the answers to all samples while nothing is broken."""
    job = service.submit(SAMPLES)
    await_closed(service, [job], 120)
    return {
        sha256(photo).hexdigest(): (outcome, label)
        for photo, (_, outcome, label) in zip(SAMPLES, service.labels(job), strict=True)
    }


def await_closed(service: Service, jobs: Iterable[UUID], seconds: float) -> None:
    """Wait until all the jobs have closed; fails when they have not within the bound."""
    wanted = [str(job) for job in jobs]
    open_ones = "SELECT count(*) FROM job WHERE closed_at IS NULL AND id = ANY (%s::uuid[])"
    until(lambda: service.rows(open_ones, wanted) == [(0,)], "every job closes", seconds)


def _each(what: str, rows: Iterable[tuple[Any, ...]]) -> list[str]:
    return [f"{what}: {_told(row)}" for row in rows]


def _told(row: tuple[Any, ...]) -> str:
    return ", ".join(str(value) for value in row)
