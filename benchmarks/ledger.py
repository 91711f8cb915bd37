"""Benchmarks of the ledger: CPU of an image from claim to completion, and claims among few and among many units."""

import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from benchmarks.machine import tree_cpu
from benchmarks.report import Row, versus
from benchmarks.services import Services, running
from shared.answers import scheme
from shared.database import Database, new_id
from shared.ledger import backlog
from shared.ledger.claim import Claimed, Lease, claim
from shared.ledger.complete import Outcome, complete
from shared.ledger.fairness import UNIT_IMAGES
from shared.ledger.submit import NewImage, NewJob, submit

_UNITS = 256 // UNIT_IMAGES
_ALLOWED = 40.0
_MANY = "many"
# What the network says about a photo, as a worker is given it.
_PROBABILITIES = {"mpox (synthetic)": 0.987654, "other (synthetic)": 0.012346}
_THRESHOLDS = {"mpox (synthetic)": 0.512345, "other (synthetic)": 0.498765}
_FITTING = ["mpox (synthetic)"]
_QUALITY = {"blur": 123.456, "exposure": 0.5123, "size": 3024, "flat": 23.456}
_EVIDENCE = [round(0.1234 * place - 3, 4) for place in range(49)]
_PLAIN: dict[str, Any] = {"label": _FITTING[0], "has_copy": True}


def run(*, quick: bool) -> Iterator[Row]:
    """Measure the cycle, then the claim."""
    with running() as services:
        yield from _cycles(services, images=1_024 if quick else 25_600)
        yield from _claims(
            services, tenants=20 if quick else 1_000, units=1_000 if quick else 100_000, rounds=5 if quick else 200
        )


@dataclass
class _Cost:
    """CPU seconds so far of this process and of the database server."""

    python: float
    postgres: float

    @classmethod
    def now(cls, services: Services) -> "_Cost":
        return cls(time.process_time(), tree_cpu(services.postgres))


def _cycles(services: Services, images: int) -> Iterator[Row]:
    tenant = services.tenant()
    for with_answers in (True, False):
        with services.database("poxvisio_app") as web, services.database("poxvisio_worker") as database:
            submit_job(web, tenant, 2 * UNIT_IMAGES * _UNITS)
            while answer_some(database, with_answers=with_answers):
                continue  # statements are compiled once, connections opened once
            for _ in range(images // 3_200 or 1):
                submit_job(web, tenant, min(images, 3_200))
            before = _Cost.now(services)
            done, began = 0, time.perf_counter()
            while answered := answer_some(database, with_answers=with_answers):
                done += answered
            wall, after = time.perf_counter() - began, _Cost.now(services)
        python, postgres = (
            1e6 * cost / done for cost in (after.python - before.python, after.postgres - before.postgres)
        )
        yield versus(
            f"claim to complete, {'with answers' if with_answers else 'without answers'}",
            python + postgres,
            "us CPU an image",
            "allowed",
            _ALLOWED,
            at_most=1.0 if with_answers else None,
            note=f"{python:.1f} us of Python and {postgres:.1f} us of PostgreSQL, checkpoints and vacuum included; "
            f"{done / wall:,.0f} images/s by the clock",
        )


def answer_some(database: Database, *, with_answers: bool) -> int:
    """Claim 256 images and complete them as an engine that costs nothing would; return how many there were."""
    with database.transaction() as session:
        units = claim(session, "benchmark/1/1", units=_UNITS, lease_seconds=60)
    if not units:
        return 0
    outcomes = [outcome for unit in units for outcome in _outcomes(unit, with_answers=with_answers)]
    with database.transaction() as session:
        return complete(session, [Lease(unit.id, unit.fence) for unit in units], outcomes).written


def _outcomes(unit: Claimed, *, with_answers: bool) -> Iterator[Outcome]:
    for image in unit.images:
        if not with_answers:
            yield Outcome(image.id, unit.id, image.ordinal, "classified", **_PLAIN)
            continue
        # Packed photo by photo, as a worker does.
        said = scheme("demo-synthetic", "0" * 64, tuple(_THRESHOLDS.items()), tuple(_QUALITY))
        numbers = said.pack(_PROBABILITIES, _FITTING, _QUALITY, _EVIDENCE, in_distribution=True)
        yield Outcome(
            image_id=image.id,
            unit_id=unit.id,
            ordinal=image.ordinal,
            outcome="classified",
            scheme=said,
            numbers=numbers,
            decode_ms=41.23,
            network_ms=32.1,
            **_PLAIN,
        )


def submit_job(web: Database, tenant: UUID, photos: int, lane: str = "bulk") -> UUID:
    """Submit so many photos without bytes as one job, as the web does when they are stored; return the job."""
    job = new_id()
    images = [
        NewImage(
            new_id(), at, f"photo-{at}.jpg", None, f"incoming/{job.hex}/{at:05d}", sha256(b"%d" % at).digest(), 1_000
        )
        for at in range(photos)
    ]
    with web.transaction(tenant) as session:
        submit(session, NewJob(job, tenant, None, lane, images))
    return job


def _claims(services: Services, tenants: int, units: int, rounds: int) -> Iterator[Row]:
    """Claim in turn from two databases of one server and take every claim back, so that both stay as they are."""
    services.another_database(_MANY)
    few = min(100, units // 10)
    with services.database("poxvisio_owner") as one, services.database("poxvisio_owner", _MANY) as other:
        _fill(one, min(tenants, few), few)
        _fill(other, tenants, units)
    took: dict[str, list[float]] = {"poxvisio": [], _MANY: []}
    with services.database("poxvisio_worker") as one, services.database("poxvisio_worker", _MANY) as other:
        for name, database in (("poxvisio", one), (_MANY, other)) * (rounds + 5):
            took[name].append(_claim(database))
    small, large = (1000 * statistics.median(found[5:]) for found in (took["poxvisio"], took[_MANY]))
    what = f"claim of {_UNITS} among {units:,} ready units of {tenants:,} tenants"
    yield versus(what, large, "ms", f"among {few}, ms", small, at_most=2.0)
    yield _look(services, f"{units:,} ready units of {tenants:,} tenants", rounds)


def _look(services: Services, among: str, rounds: int) -> Row:
    """What a request costs that must know how much lies before it, against counting that there and then."""
    with services.database("poxvisio_worker", _MANY) as database, services.database("poxvisio_app", _MANY) as web:
        with database.transaction() as session:
            tenant = session.execute(sa.text("SELECT tenant_id FROM unit LIMIT 1")).scalar_one()
        counting, looking = [], []
        for _ in range(rounds // 10 + 1):
            began = time.perf_counter()
            with database.transaction() as session:
                backlog.recount(session)
            counting.append(time.perf_counter() - began)
        for _ in range(rounds + 5):
            began = time.perf_counter()
            with web.transaction(tenant) as session:
                found = backlog.look(session)
                tag = backlog.next_tag(session, tenant, "bulk")
            if found is None or found.before(tag) > sum(found.lanes.values()):
                raise RuntimeError("nothing was counted")
            looking.append(time.perf_counter() - began)
    look, count = (1000 * statistics.median(found) for found in (looking[5:], counting))
    what = f"look at what lies before a new job among {among}"
    return versus(what, look, "ms", "counting it, once a second, ms", count, at_most=0.5)


def _claim(database: Database) -> float:
    """Return the seconds of a claim that is not committed."""
    took = 0.0
    with suppress(_TakeBack), database.transaction() as session:
        began = time.perf_counter()
        units = claim(session, "benchmark/1/1", units=_UNITS, lease_seconds=60)
        took = time.perf_counter() - began
        _take_back(units)
    return took


def _take_back(units: list[Claimed]) -> None:
    if len(units) != _UNITS:
        raise RuntimeError("there were too few units")
    raise _TakeBack


class _TakeBack(Exception):
    """Leave a transaction without committing it."""


_FILL = (
    "TRUNCATE tenant CASCADE",
    "INSERT INTO tenant (id, name) SELECT gen_random_uuid(), 'clinic ' || n FROM generate_series(1, :tenants) n",
    """
    INSERT INTO job (id, tenant_id, state, lane, total, remaining)
    SELECT gen_random_uuid(), id, 'queued', 'bulk', :each, :each FROM tenant
    """,
    """
    INSERT INTO image (id, tenant_id, job_id, ordinal, storage_key, sha256, bytes)
    SELECT gen_random_uuid(), tenant_id, id, n, 'incoming/x/' || n, sha256(n::text::bytea), 1000
    FROM job, generate_series(0, :each - 1) n
    """,
    """
    INSERT INTO unit (id, tenant_id, job_id, lane, first, n, state, vft)
    SELECT gen_random_uuid(), tenant_id, id, 'bulk', n, 1, 'ready', n + random()
    FROM job, generate_series(0, :each - 1) n
    """,
)


def _fill(database: Database, tenants: int, units: int) -> None:
    """Make so many ready units of one photo each, and let the planner know, as autovacuum would."""
    with database.transaction() as session:
        for statement in _FILL:
            session.execute(sa.text(statement), {"tenants": tenants, "each": units // tenants})
    with database.transaction() as session:
        session.execute(sa.text("ANALYZE tenant, job, image, unit"))
