"""Benchmark against stock Celery with one task a photo: the same network and photos, then an engine that costs nothing.

CPU is counted on both sides from handing in to the last answer: of whoever hands in, of workers, broker and database,
all of which descend from this process. The second row's ratio is Celery's cost over ours.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import psutil
import psycopg2
import redis
from celery import Celery

from benchmarks.apart import ROOT, Apart
from benchmarks.celery_way import CLASSIFY, NOTHING, QUEUE, TABLE
from benchmarks.machine import Span
from benchmarks.pictures import SMALL, photos
from benchmarks.pipeline import check_answers
from benchmarks.report import Row
from benchmarks.services import Services, running, submit_photos
from shared.database import Database, new_id
from shared.ledger.claim import Lease, claim
from shared.ledger.complete import Outcome, complete
from shared.ledger.fairness import UNIT_IMAGES
from shared.ledger.submit import NewImage, NewJob, submit
from shared.processors import processors

_DIFFERENT = 8
_UNITS = 256 // UNIT_IMAGES
_SECONDS = 600.0


def run(*, quick: bool) -> Iterator[Row]:
    """Measure the network's row, then the one of the empty engine."""
    with running(broker=True) as services:
        yield _with_network(services, count=16 if quick else 240, rounds=1 if quick else 3)
        yield _with_nothing(services, count=200 if quick else 5_000, rounds=1 if quick else 3)


def _with_network(services: Services, count: int, rounds: int) -> Row:
    """Stored photos to stored answers, with whatever engine the machine is served by best."""
    paths = _files(services, _DIFFERENT)
    environment = services.environment("poxvisio_worker_login", "pipeline")
    _make_table(services)
    ours, stock = [], []
    with (
        Apart("benchmarks.pipeline:Worker", environment=environment) as worker,
        _celery(services, "yes", at_once=processors()),
    ):
        _drain(services, worker, max(count // 4, 16))  # each size of batch is compiled when it is met first
        _hand_in(services, CLASSIFY, paths, 2 * processors())
        for _ in range(rounds):
            ours.append(_drain(services, worker, count))
            with Span([os.getpid()]) as span:
                _hand_in(services, CLASSIFY, paths, count)
            stock.append(span)
    mine, theirs = (statistics.median(count / span.wall for span in spans) for spans in (ours, stock))
    ratio = statistics.median(other.available / one.available for one, other in zip(ours, stock, strict=True))
    mine_cpu, their_cpu = (1000 * statistics.median(span.ours / count for span in spans) for spans in (ours, stock))
    note = (
        f"{mine_cpu:.1f} ms CPU a photo against {their_cpu:.1f}; Celery works in {processors()} processes of one "
        "thread each; the ratio allows for what other programs took of the cores"
    )
    what, yardstick = "pipeline, 1 MP, same network", "Celery, a task a photo, photos/s"
    return Row(what, mine, "photos/s", yardstick, theirs, ratio, at_least=1.0, note=note)


def _with_nothing(services: Services, count: int, rounds: int) -> Row:
    """Handed in, claimed and completed, with an engine that costs nothing: what the queue alone costs."""
    ours, stock, ours_wall, stock_wall = [], [], [], []
    tenant = services.tenant()
    with (
        _celery(services, "no", at_once=processors()),
        services.database("poxvisio_app") as web,
        services.database("poxvisio_worker") as database,
    ):
        _hand_in(services, NOTHING, [Path("photo")], 50)
        _empty_ledger(web, database, tenant, 2 * _UNITS * UNIT_IMAGES)
        for _ in range(rounds):
            with Span([os.getpid()]) as span:
                _empty_ledger(web, database, tenant, 4 * count)
            ours.append(1e6 * span.ours / (4 * count))
            ours_wall.append(4 * count / span.wall)
            with Span([os.getpid()]) as span:
                _hand_in(services, NOTHING, [Path("photo")], count)
            stock.append(1e6 * span.ours / count)
            stock_wall.append(count / span.wall)
    ratio = statistics.median(other / one for one, other in zip(ours, stock, strict=True))
    note = (
        f"{statistics.median(ours_wall):,.0f} photos/s against {statistics.median(stock_wall):,.0f} by the clock; ours "
        "keeps every photo and its label in PostgreSQL, Celery keeps nothing"
    )
    mine, theirs = statistics.median(ours), statistics.median(stock)
    what = "what the queue costs a photo, empty engine"
    return Row(what, mine, "us CPU", "Celery, a task a photo, us CPU", theirs, ratio, at_least=20.0, note=note)


def _drain(services: Services, worker: Apart, count: int) -> Span:
    tenant = services.tenant()
    with services.database("poxvisio_app") as database, Span([os.getpid()]) as span:
        job = submit_photos(services, database, tenant, photos(SMALL, _DIFFERENT), count)
        answered = worker.ask().value["answered"]
    with services.database("poxvisio_app") as database:
        check_answers(database, tenant, job, count, answered)
    return span


def _empty_ledger(web: Database, database: Database, tenant: UUID, count: int) -> None:
    """Hand in one job and complete it, 256 photos a claim."""
    job = new_id()
    images = [
        NewImage(new_id(), at, f"{at}.jpg", None, f"incoming/{job.hex}/{at:05d}", sha256(b"%d" % at).digest(), 1_000)
        for at in range(count)
    ]
    with web.transaction(tenant) as session:
        submit(session, NewJob(job, tenant, None, "bulk", images))
    done = 0
    while done < count:
        with database.transaction() as session:
            units = claim(session, "contrast/1/1", units=_UNITS, lease_seconds=60)
        outcomes = [
            Outcome(image.id, unit.id, image.ordinal, "classified", label="none")
            for unit in units
            for image in unit.images
        ]
        with database.transaction() as session:
            done += complete(session, [Lease(unit.id, unit.fence) for unit in units], outcomes).written


@contextmanager
def _celery(services: Services, engine: str, at_once: int) -> Iterator[None]:
    """Run stock workers."""
    command = ["celery", "-A", "benchmarks.celery_way", "worker", "--pool", "prefork", "-c", str(at_once)]
    options = ["--without-gossip", "--without-mingle", "-l", "error"]
    environment = {
        **os.environ,
        **services.environment("poxvisio_worker_login", "celery"),
        "DATABASE_URL": services.superuser_url,
        "CELERY_WAY_ENGINE": engine,
        "C_FORCE_ROOT": "1",
    }
    with (services.folder / "celery.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *options], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


def _hand_in(services: Services, task: str, paths: Sequence[Path], count: int) -> None:
    """Publish a message a photo and wait until the workers have acknowledged each."""
    sender = Celery("sender", broker=services.broker_url, set_as_current=False)
    for turn in range(count):
        sender.send_task(task, (str(paths[turn % len(paths)]), new_id().hex), queue=QUEUE)
    sender.close()
    end = time.monotonic() + _SECONDS
    with redis.Redis.from_url(services.broker_url) as broker:
        while broker.llen(QUEUE) or broker.hlen("unacked"):
            if time.monotonic() > end:
                raise RuntimeError("Celery does not finish; see celery.log")
            time.sleep(0.02)


def _files(services: Services, count: int) -> list[Path]:
    folder = services.folder / "files"
    folder.mkdir()
    for number, data in enumerate(photos(SMALL, count)):
        (folder / f"{number}.jpg").write_bytes(data)
    return sorted(folder.iterdir())


def _make_table(services: Services) -> None:
    connection = psycopg2.connect(services.superuser_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(TABLE)
    connection.close()
