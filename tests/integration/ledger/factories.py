"""Jobs, claims and answers for the tests of the ledger, and the invariants that hold at every instant."""

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.database import Database, new_id
from shared.ledger.claim import Claimed, Lease, Whose, claim
from shared.ledger.complete import Completion, Outcome, complete
from shared.ledger.fairness import default_lane
from shared.ledger.submit import NewImage, NewJob, submit
from shared.vocabulary import LANES, OUTCOMES

LEASE = 60.0


def new_image(ordinal: int, *, job: UUID | None = None, **fields: Any) -> NewImage:
    """Return a photo of its own bytes."""
    values: dict[str, Any] = {
        "id": new_id(),
        "client_name": f"photo-{ordinal}.jpg",
        "custom_id": None,
        "storage_key": f"incoming/{(job or new_id()).hex}/{ordinal:05}",
        "sha256": hashlib.sha256(str(ordinal).encode()).digest(),
        "bytes": 1000 + ordinal,
    }
    return NewImage(ordinal=ordinal, **values | fields)


def new_job(tenant: UUID, photos: int, lane: str | None = None, **fields: Any) -> NewJob:
    """Return a job of that many photos in its usual lane."""
    job = new_id()
    values: dict[str, Any] = {
        "id": job,
        "tenant_id": tenant,
        "key_id": None,
        "lane": lane or default_lane(photos),
        "images": [new_image(ordinal, job=job) for ordinal in range(photos)],
    }
    return NewJob(**values | fields)


def submit_job(app_db: Database, tenant: UUID, photos: int, lane: str | None = None, **fields: Any) -> NewJob:
    """Submit such a job as the web side does."""
    job = new_job(tenant, photos, lane, **fields)
    with app_db.transaction(tenant) as session:
        submit(session, job)
    return job


def take(
    worker_db: Database,
    units: int = 100,
    *,
    worker: str = "host/worker",
    seconds: float = LEASE,
    lanes: Sequence[str] = LANES,
    whose: Whose = "anybody",
) -> list[Claimed]:
    """Claim in a transaction of its own."""
    with worker_db.transaction() as session:
        return claim(session, worker, units=units, lease_seconds=seconds, lanes=lanes, whose=whose)


def leases(units: Sequence[Claimed]) -> list[Lease]:
    """Return what a worker must show for these units."""
    return [Lease(unit.id, unit.fence) for unit in units]


def answers(units: Sequence[Claimed], outcome: str = "classified", **fields: Any) -> list[Outcome]:
    """Return one outcome for every image of these units."""
    return [Outcome(image.id, unit.id, image.ordinal, outcome, **fields) for unit in units for image in unit.images]


def finish(worker_db: Database, units: Sequence[Claimed], outcome: str = "classified", **fields: Any) -> Completion:
    """Complete these units with the same outcome for every image."""
    with worker_db.transaction() as session:
        return complete(session, leases(units), answers(units, outcome, **fields))


def rows(database: Database, statement: str, **values: Any) -> list[Any]:
    """Return the rows of a query as the owner sees them."""
    with database.transaction() as session:
        return list(session.execute(sa.text(statement), values).all())


def change(database: Database, statement: str, **values: Any) -> None:
    """Change rows behind the ledger's back, as the owner."""
    with database.transaction() as session:
        session.execute(sa.text(statement), values)


def job_row(database: Database, job: UUID) -> Any:
    """Return the job's row."""
    return rows(database, "SELECT * FROM job WHERE id = :job", job=job)[0]


def unit_rows(database: Database, job: UUID) -> list[Any]:
    """Return the job's units in the order of their photos."""
    return rows(database, "SELECT * FROM unit WHERE job_id = :job ORDER BY first, n DESC, id", job=job)


def result_rows(database: Database, job: UUID) -> list[Any]:
    """Return the job's results by ordinal."""
    return rows(database, "SELECT * FROM result WHERE job_id = :job ORDER BY ordinal", job=job)


def kinds(database: Database, job: UUID) -> list[str]:
    """Return the kinds of the job's events in their order."""
    return [row.kind for row in rows(database, "SELECT kind FROM event WHERE job_id = :job ORDER BY seq", job=job)]


def let_leases_expire(database: Database) -> None:
    """Set every lease's end into the past, which saves waiting for it."""
    change(database, "UPDATE unit SET lease_until = now() - interval '1 second' WHERE state = 'leased'")


def follow_the_given_order(session: Session) -> None:
    """Forbid the plans that would visit units in the order of the table by luck."""
    for plan in ("seqscan", "hashjoin", "mergejoin", "bitmapscan"):
        session.execute(sa.text(f"SET LOCAL enable_{plan} = off"))


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)


def wait_for_waiters(database: Database, number: int = 1) -> None:
    """Wait until so many transactions wait for a lock."""
    asked = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
    wait_until(lambda: rows(database, asked)[0][0] >= number)


def check_invariants(database: Database, hint: object = "") -> None:
    """Hold what must be true at every instant against all tables, in one snapshot."""
    counted = ", ".join(f"count(*) FILTER (WHERE r.outcome = '{name}') AS {name}" for name in OUTCOMES)
    found = rows(
        database,
        f"""
        SELECT j.*, x.results, x.images, {", ".join(f"x.{name} AS n_{name}" for name in OUTCOMES)},
          (SELECT count(*) FROM event e WHERE e.job_id = j.id AND e.round = j.round AND e.kind IN
             ('job.completed', 'job.cancelled', 'job.expired', 'job.stopped')) AS closing_events,
          (SELECT count(*) FROM unit u WHERE u.job_id = j.id
             AND u.state IN ('waiting', 'ready', 'leased')) AS open_units,
          (SELECT coalesce(sum(u.n), 0) FROM unit u WHERE u.job_id = j.id
             AND u.state IN ('waiting', 'ready', 'leased')) AS open_images,
          (SELECT count(*) FROM intake_url l WHERE l.job_id = j.id) AS to_come
        FROM job j CROSS JOIN LATERAL (
          SELECT count(*) AS images, count(r.image_id) AS results, {counted}
          FROM image i LEFT JOIN result r ON r.image_id = i.id WHERE i.job_id = j.id) x
        WHERE j.deleted_at IS NULL
        """,
    )
    for job in found:
        where = (job.id, job.state, hint)
        assert job.images + job.to_come == job.total, where
        assert job.remaining == job.total - job.results, where
        for name in OUTCOMES:
            assert getattr(job, name) == getattr(job, f"n_{name}"), (name, *where)
        assert job.open_images + job.to_come == job.remaining, where
        closed = job.remaining == 0 and job.state != "receiving"
        assert (job.closed_at is not None) == closed, where
        assert (job.state in ("completed", "cancelled", "expired", "stopped")) == closed, where
        assert job.closing_events == int(closed), where
        assert (job.open_units == 0) == closed, where
