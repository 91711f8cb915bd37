"""A photo that kills its decoder, among others: it is answered alone, and so are its neighbours."""

import io
import os
import signal
import threading
import time
from uuid import UUID

import numpy as np
import psutil
import pytest
import sqlalchemy as sa
from PIL import Image

from shared import history
from shared.database import Database
from shared.ledger.sweep import sweep
from shared.views import JobView, ResultView
from tests.integration.worker.conftest import Submit, Worker, photo
from worker.classification import Classification
from worker.work import MAX_ATTEMPTS

POISONED = 5


@pytest.fixture(scope="module")
def slow_photo() -> bytes:
    """Return a photo that decodes long enough to be caught at it: 12,000 x 3,300 pixels of noise, progressive."""
    noise = np.random.default_rng(1).integers(100, 150, (3300, 12_000), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert("RGB").save(buffer, "JPEG", quality=50, progressive=True, subsampling=0)
    return buffer.getvalue()


class Killer:
    """Ends every decoding child once it holds so much memory that it must be at work on the slow photo."""

    def __init__(self, worker: Classification, by: signal.Signals, most: int = 100) -> None:
        self.killed: list[int] = []
        self._photos = worker._photos
        self._by = by
        self._most = most
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set() and len(self.killed) < self._most:
            for pid in self._photos.pids:
                if pid not in self.killed and _memory(pid) > 130 << 20:
                    os.kill(pid, self._by)
                    self.killed.append(pid)
            time.sleep(0.002)


def _memory(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _results(database: Database, tenant: UUID, job: UUID) -> tuple[JobView, list[ResultView]]:
    with database.transaction(tenant) as session:
        view = history.job(session, job)
        return view, list(history.stream_results(session, view))


def test_a_photo_over_which_the_decoder_crashes_twice_is_answered_alone_and_its_neighbours_as_well(
    submit_photos: Submit, make_worker: Worker, app_db: Database, tenant: UUID, slow_photo: bytes
) -> None:
    photos = [photo(seed) for seed in range(20)]
    photos[POISONED] = slow_photo
    job = submit_photos(photos)
    worker = make_worker(decoders=2)

    with Killer(worker, signal.SIGSEGV) as killer:
        assert worker.drain() == 20

    view, results = _results(app_db, tenant, job)
    assert (view.state, view.remaining, len(results)) == ("completed", 0, 20)
    rejected = {
        result.ordinal: result.reasons for result in results if result.outcome not in {"classified", "abstained"}
    }
    assert rejected == {POISONED: ("decoder_died",)}
    assert len(killer.killed) == 2
    assert {result.attempts for result in results} == {1}


def test_a_photo_whose_decoders_are_killed_from_outside_waits_alone_and_is_answered_later(
    submit_photos: Submit, make_worker: Worker, app_db: Database, owner_db: Database, worker_db: Database,
    tenant: UUID, slow_photo: bytes,
) -> None:  # fmt: skip
    photos = [photo(seed) for seed in range(6)]
    photos[POISONED] = slow_photo
    job = submit_photos(photos)
    worker = make_worker()
    with Killer(worker, signal.SIGKILL, most=2):
        worker.drain()
    view, results = _results(app_db, tenant, job)
    assert (view.state, view.remaining, len(results)) == ("running", 1, 5)

    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE unit SET available_at = now() WHERE state = 'waiting'"))
    sweep(worker_db)
    worker.drain()
    view, results = _results(app_db, tenant, job)
    assert view.state == "completed"
    assert {result.outcome for result in results} <= {"classified", "abstained"}
    assert results[POISONED].attempts == 2


def test_a_photo_whose_decoders_are_always_killed_from_outside_fails_so_that_it_can_be_retried(
    submit_photos: Submit, make_worker: Worker, app_db: Database, owner_db: Database, tenant: UUID, slow_photo: bytes
) -> None:
    job = submit_photos([slow_photo])
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE unit SET attempt = :most"), {"most": MAX_ATTEMPTS - 1})
    worker = make_worker()
    with Killer(worker, signal.SIGKILL):
        worker.drain()
    [result] = _results(app_db, tenant, job)[1]
    assert (result.outcome, result.reasons) == ("failed", ("decoder_unavailable",))


def test_a_photo_over_which_the_decoder_died_once_is_read_by_the_next(
    submit_photos: Submit, make_worker: Worker, app_db: Database, tenant: UUID, slow_photo: bytes
) -> None:
    photos = [photo(seed) for seed in range(6)]
    photos[POISONED] = slow_photo
    job = submit_photos(photos)
    worker = make_worker()

    with Killer(worker, signal.SIGKILL, most=1) as killer:
        assert worker.drain() == 6

    view, results = _results(app_db, tenant, job)
    assert view.state == "completed"
    assert {result.outcome for result in results} <= {"classified", "abstained"}
    assert len(killer.killed) == 1
