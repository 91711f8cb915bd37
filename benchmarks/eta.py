"""Benchmark of the ETA: what the API says of open jobs, second by second, against when they really closed.

Jobs of mixed sizes, lanes and tenants meet two workers at a set pace. Beside it stands what is usual: the job's own
pace so far. An estimate is judged by its error over the time that was really left, where that was two seconds or more.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from benchmarks.ledger import submit_job
from benchmarks.paced import at_work
from benchmarks.report import Row
from benchmarks.services import Services, running
from shared import history
from shared.database import Database
from shared.ledger.submit import default_lane
from web.outlook import outlooks

_SEED: Final = 20261123
_RATES: Final = (150.0, 250.0)
_LEAST: Final = 2.0
_TENANTS: Final = 5


@dataclass(frozen=True)
class _Said:
    """An estimate: when it was made, and the moments at which we and the job's own pace saw its end."""

    job: UUID
    at: datetime
    ours: datetime | None
    own_pace: datetime | None


@dataclass(frozen=True)
class _Plan:
    """A job to come: after how many seconds, whose, and how many photos."""

    after: float
    tenant: int
    photos: int


def run(*, quick: bool) -> Iterator[Row]:
    """Measure a queue that only shrinks, then one that others still send to."""
    jobs, photos, seconds = (6, 1_200, 1.5) if quick else (24, 24_000, 40.0)
    with running() as services:
        yield _measured(services, _plans(jobs, photos, 0.0), arriving=False)
        yield _measured(services, _plans(jobs, photos, seconds), arriving=True)


def _measured(services: Services, plans: Sequence[_Plan], *, arriving: bool) -> Row:
    tenants = [services.tenant() for _ in range(_TENANTS)]
    with services.database("poxvisio_app") as web, services.database("poxvisio_worker") as database:
        with at_work(database, list(_RATES)):
            jobs, said = _followed(web, tenants, plans)
        closed = _closed(database, jobs)
    ours = _errors([(each.at, each.ours, closed[each.job]) for each in said])
    usual = _errors([(each.at, each.own_pace, closed[each.job]) for each in said])
    silent = sum(each.ours is None for each in said)
    what = "ETA while more is sent" if arriving else "ETA of what is queued"
    note = (
        f"median {100 * statistics.median(ours):.0f} % over {len(ours)} estimates of {len(jobs)} jobs, 1 to "
        f"{max(plan.photos for plan in plans):,} photos, {_TENANTS} tenants; {silent} times nothing was said"
    )
    figure, against = _p90(ours), _p90(usual)
    return Row(
        f"{what}, error of the time left, p90",
        100 * figure,
        "%",
        "by the job's own pace, %",
        100 * against,
        figure or None,
        at_most=None if arriving else 0.3,
        note=note,
    )


def _plans(jobs: int, photos: int, seconds: float) -> list[_Plan]:
    """Return jobs of all sizes, some photos in all; where time is given the later half comes spread over it."""
    chance = Random(_SEED)  # noqa: S311  # draws sizes, guards nothing
    weights = [10 ** chance.uniform(0, 2.5) for _ in range(jobs)]
    sizes = [max(1, round(photos * weight / sum(weights))) for weight in weights]
    early = jobs // 2 if seconds else jobs
    afters = [0.0] * early + sorted(chance.uniform(0, seconds) for _ in range(jobs - early))
    return [_Plan(after, chance.randrange(_TENANTS), size) for after, size in zip(afters, sizes, strict=True)]


def _followed(web: Database, tenants: Sequence[UUID], plans: Sequence[_Plan]) -> tuple[dict[UUID, UUID], list[_Said]]:
    """Send the jobs when they are due and ask for the ETA of every open one each second until all have closed."""
    began, coming = time.monotonic(), list(plans)
    open_jobs: dict[UUID, UUID] = {}
    jobs: dict[UUID, UUID] = {}
    said: list[_Said] = []
    while coming or open_jobs:
        now = time.monotonic() - began
        while coming and coming[0].after <= now:
            plan = coming.pop(0)
            tenant = tenants[plan.tenant]
            job = submit_job(web, tenant, plan.photos, default_lane(plan.photos))
            jobs[job] = open_jobs[job] = tenant
        for job, tenant in list(open_jobs.items()):
            found = _ask(web, job, tenant)
            if found is None:
                del open_jobs[job]
            else:
                said.append(found)
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began - now)))
    return jobs, said


def _ask(web: Database, job: UUID, tenant: UUID) -> _Said | None:
    with web.transaction(tenant) as session:
        view = history.job(session, job)
        at = datetime.now(UTC)
        ((pace, eta),) = outlooks(session, [view], at)
    if view.is_closed:
        return None
    own = None if not pace else datetime.fromtimestamp(at.timestamp() + view.remaining / pace, UTC)
    return _Said(job, at, eta, own)


def _closed(database: Database, jobs: dict[UUID, UUID]) -> dict[UUID, datetime]:
    with database.transaction() as session:
        found = session.execute(sa.text("SELECT id, closed_at FROM job WHERE closed_at IS NOT NULL")).all()
    return {row.id: row.closed_at for row in found if row.id in jobs}


def _errors(said: Sequence[tuple[datetime, datetime | None, datetime]]) -> list[float]:
    found = []
    for at, eta, closed in said:
        left = (closed - at).total_seconds()
        if eta is not None and left >= _LEAST:
            found.append(abs((eta - closed).total_seconds()) / left)
    return found or [0.0]


def _p90(errors: Sequence[float]) -> float:
    return sorted(errors)[int(0.9 * len(errors))]
