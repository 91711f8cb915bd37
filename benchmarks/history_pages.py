"""Benchmark of deep pages: the last pages of long lists against their first, in a database of 1,000,000 photos.

Two clinics have half of the jobs each, one of which has 50,000 photos; rows are filled in behind the ledger's back.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from benchmarks.report import Row, versus
from benchmarks.services import Services, running
from shared import history
from shared.database import Database
from shared.job_search import Wanted, find

_DEEP: Final = 1.5
_PAGE: Final = 50

# Ids rise with time, as UUIDv7 do: here with a counter in their first half.
_FILL = (
    """
    CREATE TEMPORARY TABLE made AS
    SELECT n, (lpad(to_hex(1764000000000 + n), 12, '0') || '7000800000000000' || lpad(to_hex(n % 65536), 4, '0'))::uuid
      AS id, CASE WHEN n % 2 = 0 THEN CAST(:one AS uuid) ELSE CAST(:other AS uuid) END AS tenant,
      CASE WHEN n = :jobs / 4 * 2 THEN :large ELSE :each END AS photos
    FROM generate_series(1, :jobs) n
    """,
    """
    INSERT INTO job (id, tenant_id, state, lane, total, remaining, classified, created_at, started_at, closed_at,
                     originals_deleted_at)
    SELECT id, tenant, 'completed', 'bulk', photos, 0, photos, at, at, at, at
    FROM made, LATERAL (SELECT now() - make_interval(secs => :jobs - n) AS at) t
    """,
    """
    INSERT INTO image (id, tenant_id, job_id, ordinal, client_name, storage_key, sha256, bytes)
    SELECT gen_random_uuid(), tenant, id, k, 'photo-' || k || '.jpg', 'incoming/' || n || '/' || k,
      sha256(k::text::bytea), 1000
    FROM made, generate_series(0, photos - 1) k ORDER BY n, k
    """,
    """
    INSERT INTO result (image_id, tenant_id, job_id, ordinal, fence, written_in, outcome, label, reasons, attempts,
                        has_copy)
    SELECT id, tenant_id, job_id, ordinal, 1, 1000 + ordinal / 32, 'classified', 'other', '{}', 1, true
    FROM image
    """,
)


def run(*, quick: bool) -> Iterator[Row]:
    """Fill the database once, then read first and last pages in turn."""
    jobs, large, each = (200, 500, 5) if quick else (10_000, 50_000, 95)
    rounds = 5 if quick else 100
    with running() as services:
        tenant = _fill(services, jobs=jobs, large=large, each=each)
        with services.database("poxvisio_app") as database:
            photos = large + (jobs - 1) * each
            size = f"{photos:,} photos, {jobs:,} jobs"
            yield _jobs(database, tenant, rounds, size)
            yield _results(database, tenant, rounds, size)


def _fill(services: Services, *, jobs: int, large: int, each: int) -> UUID:
    one, other = services.tenant(), services.tenant()
    given = {"one": one, "other": other, "jobs": jobs, "large": large, "each": each}
    with services.database("poxvisio_owner") as database:
        with database.transaction() as session:
            for statement in _FILL:
                session.execute(sa.text(statement), given)
        with database.transaction() as session:
            session.execute(sa.text("ANALYZE tenant, job, image, result"))
    return one


def _jobs(database: Database, tenant: UUID, rounds: int, size: str) -> Row:
    """The newest jobs of a clinic against its oldest."""
    with database.transaction(tenant) as session:
        oldest = session.execute(
            sa.text("SELECT id FROM job ORDER BY id LIMIT 1 OFFSET :page"), {"page": _PAGE}
        ).scalar_one()

    def page(after: UUID | None) -> int:
        with database.transaction(tenant) as session:
            return len(find(session, Wanted(), after=after, limit=_PAGE).jobs)

    return _row(f"list of jobs, last page; {size}", lambda: page(None), lambda: page(oldest), rounds)


def _results(database: Database, tenant: UUID, rounds: int, size: str) -> Row:
    """The first photos of a clinic's largest job against its last."""
    with database.transaction(tenant) as session:
        largest = session.execute(sa.text("SELECT id, total FROM job ORDER BY total DESC LIMIT 1")).one()

    def page(after: str | None) -> int:
        with database.transaction(tenant) as session:
            return len(history.results(session, history.job(session, largest.id), after=after, limit=_PAGE).rows)

    last = f"o{largest.total - _PAGE - 1}"
    what = f"results of {largest.total:,} photos, last page; {size}"
    return _row(what, lambda: page(None), lambda: page(last), rounds)


def _row(what: str, first: Callable[[], int], last: Callable[[], int], rounds: int) -> Row:
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 3):
        for place, page in enumerate((first, last)):
            began = time.perf_counter()
            if page() != _PAGE:
                raise RuntimeError("the page is not full")
            took[place].append(1000 * (time.perf_counter() - began))
    near, deep = (statistics.median(found[3:]) for found in took)
    return versus(what, deep, "ms", "first page, ms", near, at_most=_DEEP, note=f"{_PAGE} rows a page")
