"""The worker's pipeline over real PostgreSQL, real files and the real network."""

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
import structlog
from numpy.typing import NDArray
from PIL import Image

from shared import history
from shared.database import Database
from shared.errors import StorageAway
from shared.hints import Hearing
from shared.ledger.sweep import sweep
from shared.settings import Settings
from shared.storage import Storage
from shared.storage.keys import copies_of, copy_key
from shared.views import JobView, ResultView
from tests.integration.worker.conftest import Submit, Worker, photo, until
from worker import finishing
from worker.backoff import backoff_seconds
from worker.inference.answers import Answer
from worker.inference.classifier import Classifier
from worker.inference.preprocess import Quality
from worker.work import MAX_ATTEMPTS


def results_of(database: Database, tenant: UUID, job: UUID) -> tuple[JobView, list[ResultView]]:
    with database.transaction(tenant) as session:
        view = history.job(session, job)
        return view, list(history.stream_results(session, view))


@pytest.mark.parametrize(
    ("attempt", "chance", "seconds"),
    [
        (1, 0.5, 2.0),  # 2 s, no jitter in the middle of its range
        (3, 0.0, 6.4),  # 8 s less 20 %
        (3, 1.0, 9.6),  # 8 s and 20 %
        (12, 0.5, 300.0),  # 5 minutes at most
        (5000, 0.5, 300.0),  # also after a week
    ],
)
def test_photos_that_cannot_be_fetched_wait_longer_each_time(attempt: int, chance: float, seconds: float) -> None:
    assert backoff_seconds(attempt, chance) == pytest.approx(seconds)


def test_every_photo_gets_its_one_answer_and_bad_ones_are_rejected_alone(
    submit_photos: Submit, make_worker: Worker, app_db: Database, storage: Storage, tenant: UUID
) -> None:
    photos = [photo(seed % 12) for seed in range(40)]
    photos[3], photos[17] = b"no photo at all", b""
    job = submit_photos(photos)

    assert make_worker().drain() == 40

    view, results = results_of(app_db, tenant, job)
    assert view.state == "completed"
    assert [result.ordinal for result in results] == list(range(40))
    assert {result.ordinal: result.reasons for result in results if result.outcome == "rejected"} == {
        3: ("unknown_type",),
        17: ("empty",),
    }
    answered = [result for result in results if result.outcome != "rejected"]
    assert {result.outcome for result in answered} <= {"classified", "abstained"}
    for result in answered:
        assert result.answer is not None
        assert sum(result.answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert len(result.answer["evidence"]) == 49
        assert storage.read(copy_key(job, result.image_id), limit=10**6)[:2] == b"\xff\xd8"
    assert view.counts["classified"] + view.counts["abstained"] == 38


def test_jobs_are_hinted_at_when_they_are_closed_and_answered(
    submit_photos: Submit, make_worker: Worker, app_db: Database, tenant: UUID, settings: Settings
) -> None:
    hinted: dict[UUID, str] = {}
    hearing = Hearing(
        settings, lambda jobs: hinted.update((job, results_of(app_db, tenant, job)[0].state) for job in jobs)
    )
    hearing.begin()
    assert hearing.listens.wait(20)
    jobs = [submit_photos([photo(seed)]) for seed in (1, 2)]
    make_worker().drain()
    until(lambda: len(hinted) == len(jobs))
    hearing.close()
    assert hinted == dict.fromkeys(jobs, "completed")


def test_the_same_photo_gets_the_same_answer_alone_and_among_others(
    submit_photos: Submit, make_worker: Worker, classifier: Classifier, app_db: Database, tenant: UUID
) -> None:
    alone, among = submit_photos([photo(1)]), submit_photos([photo(seed) for seed in (5, 1, 6)])
    make_worker(network=classifier).drain()
    [first] = results_of(app_db, tenant, alone)[1]
    second = results_of(app_db, tenant, among)[1][1]
    assert first.answer == second.answer


class Brittle:
    """A network that fails whenever the photo it cannot bear is in the batch."""

    def __init__(self, network: Classifier, unbearable: Callable[[NDArray[np.uint8]], bool]) -> None:
        self.bundle = network.bundle
        self._network = network
        self._unbearable = unbearable

    def classify(self, pixels: NDArray[np.uint8], quality: Sequence[Quality]) -> list[Answer]:
        if any(self._unbearable(one) for one in pixels):
            raise RuntimeError("the engine gave up")
        return self._network.classify(pixels, quality)


def test_a_batch_that_fails_is_halved_until_the_photo_that_breaks_it_stands_alone(
    submit_photos: Submit, make_worker: Worker, network: Classifier, app_db: Database, tenant: UUID
) -> None:
    photos = [photo(seed) for seed in range(11)]
    white = photos[6] = photo_of(255)
    job = submit_photos(photos)
    brittle = Brittle(network, lambda one: bool(one.min() > 250))

    make_worker(network=brittle).drain()

    _, results = results_of(app_db, tenant, job)
    assert white
    failed = {result.ordinal: result.reasons for result in results if result.outcome == "failed"}
    assert failed == {6: ("network_failed",)}
    assert len(results) == 11


def test_the_copy_stored_ahead_of_a_photo_that_the_network_fails_at_is_deleted_again(
    submit_photos: Submit, make_worker: Worker, network: Classifier, app_db: Database, storage: Storage, tenant: UUID
) -> None:
    job = submit_photos([photo(1), photo_of(255)])

    make_worker(network=Brittle(network, lambda one: bool(one.min() > 250))).drain()

    _, results = results_of(app_db, tenant, job)
    answered, failed = results
    assert (failed.outcome, failed.reasons) == ("failed", ("network_failed",))
    assert [item.key for item in storage.list(copies_of(job))] == [copy_key(job, answered.image_id)]


def photo_of(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), (grey, grey, grey)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


class Away:
    """A storage that can be taken away: for reading, or for writing working copies."""

    is_near = False

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.lost_keys: set[str] = set()
        self.refuses_copies = False

    def read(self, key: str, *, limit: int) -> bytes:
        if key in self.lost_keys:
            raise StorageAway("the photo storage is out of reach")
        return self._storage.read(key, limit=limit)

    def put(self, key: str, data: bytes) -> None:
        if self.refuses_copies:
            raise StorageAway("the photo storage is full")
        self._storage.put(key, data)

    def settle(self, keys: Sequence[str]) -> None:
        self._storage.settle(keys)

    def delete(self, keys: Iterable[str]) -> None:
        self._storage.delete(keys)


def test_a_photo_that_cannot_be_fetched_waits_alone_and_is_answered_later(
    submit_photos: Submit, make_worker: Worker, app_db: Database, owner_db: Database, worker_db: Database,
    storage: Storage, tenant: UUID,
) -> None:  # fmt: skip
    job = submit_photos([photo(seed) for seed in range(5)])
    away = Away(storage)
    away.lost_keys = {f"incoming/{job.hex}/00002"}
    worker = make_worker(store=away)
    worker.drain()
    view, results = results_of(app_db, tenant, job)
    assert [result.ordinal for result in results] == [0, 1, 3, 4]
    assert (view.state, view.remaining) == ("running", 1)

    away.lost_keys = set()
    hurry(owner_db)
    sweep(worker_db)
    worker.drain()
    view, results = results_of(app_db, tenant, job)
    assert (view.state, len(results)) == ("completed", 5)
    assert results[2].attempts == 2


def hurry(owner_db: Database) -> None:
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE unit SET available_at = now() WHERE state = 'waiting'"))


class Looking:
    """A network that does something before it looks at the photos."""

    def __init__(self, network: Classifier, first: Callable[[], None]) -> None:
        self.bundle = network.bundle
        self._network, self._first = network, first

    def classify(self, pixels: NDArray[np.uint8], quality: Sequence[Quality]) -> list[Answer]:
        self._first()
        return self._network.classify(pixels, quality)


def test_the_copy_of_a_photo_that_somebody_waits_for_is_stored_while_the_network_looks_at_it(
    submit_photos: Submit, make_worker: Worker, network: Classifier, storage: Storage, app_db: Database, tenant: UUID
) -> None:
    job = submit_photos([photo(1)])
    looking = Looking(network, lambda: until(lambda: bool(list(storage.list(f"copies/{job.hex}/")))))
    assert make_worker(network=looking).drain() == 1
    [result] = results_of(app_db, tenant, job)[1]
    assert result.has_copy
    assert storage.read(copy_key(job, result.image_id), limit=10**6)[:2] == b"\xff\xd8"


def test_a_photo_that_comes_while_the_network_is_busy_is_claimed_and_decoded_meanwhile(
    submit_photos: Submit, make_worker: Worker, network: Classifier, app_db: Database, owner_db: Database, tenant: UUID
) -> None:
    jobs = [submit_photos([photo(1)])]
    batches: list[int] = []

    def leased() -> int:
        with owner_db.transaction() as session:
            return int(session.execute(sa.text("SELECT count(*) FROM unit WHERE state = 'leased'")).scalar_one())

    def another() -> None:
        batches.append(leased())
        if len(jobs) == 1:
            jobs.append(submit_photos([photo(2)]))
            until(lambda: leased() == 2)

    assert make_worker(network=Looking(network, another)).drain() == 2
    assert [len(results_of(app_db, tenant, job)[1]) for job in jobs] == [1, 1]
    assert len(batches) == 2


def test_who_is_not_to_go_on_claims_nothing_while_the_network_is_busy(
    submit_photos: Submit, make_worker: Worker, network: Classifier, app_db: Database, tenant: UUID
) -> None:
    jobs = [submit_photos([photo(1)])]

    def another() -> None:
        if len(jobs) == 1:
            jobs.append(submit_photos([photo(2)]))
        time.sleep(0.2)  # ten looks

    assert make_worker(network=Looking(network, another)).drain(goes_on=lambda: len(jobs) == 1) == 1
    assert [len(results_of(app_db, tenant, job)[1]) for job in jobs] == [1, 0]


@pytest.mark.parametrize("more", [0, 4])
def test_working_copies_that_cannot_be_stored_put_their_photos_off(
    submit_photos: Submit, make_worker: Worker, app_db: Database, owner_db: Database, worker_db: Database,
    storage: Storage, tenant: UUID, more: int,
) -> None:  # fmt: skip
    job = submit_photos([photo(1), b"", photo(2), *(photo(3 + seed) for seed in range(more))])
    away = Away(storage)
    away.refuses_copies = True
    worker = make_worker(store=away)
    worker.drain()
    assert Counter(result.outcome for result in results_of(app_db, tenant, job)[1]) == {"rejected": 1}

    away.refuses_copies = False
    hurry(owner_db)
    sweep(worker_db)
    worker.drain()
    view, results = results_of(app_db, tenant, job)
    assert (view.state, len(results), view.counts["rejected"]) == ("completed", 3 + more, 1)
    stored = {item.key for item in storage.list(f"copies/{job.hex}/")}
    assert stored == {copy_key(job, result.image_id) for result in results if result.outcome != "rejected"}


def test_a_photo_whose_storage_never_comes_back_fails_with_its_reason(
    submit_photos: Submit, make_worker: Worker, app_db: Database, owner_db: Database, storage: Storage, tenant: UUID
) -> None:
    job = submit_photos([photo(1)])
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE unit SET attempt = :most"), {"most": MAX_ATTEMPTS - 1})
    away = Away(storage)
    away.lost_keys = {f"incoming/{job.hex}/00000"}
    make_worker(store=away).drain()
    [result] = results_of(app_db, tenant, job)[1]
    assert (result.outcome, result.reasons) == ("failed", ("storage_unreachable",))


def test_a_photo_that_comes_back_with_other_bytes_is_reported_by_ids_and_fails_with_that_reason(
    submit_photos: Submit, make_worker: Worker, app_db: Database, owner_db: Database, storage: Storage, tenant: UUID
) -> None:
    job = submit_photos([photo(1)])
    key = f"incoming/{job.hex}/00000"
    whole = storage.read(key, limit=1 << 20)
    storage.delete([key])
    with storage.create(key, limit=len(whole)) as upload:
        upload.write(whole[:-1] + bytes([whole[-1] ^ 1]))
        upload.finish()
    storage.settle([key])
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE unit SET attempt = :most"), {"most": MAX_ATTEMPTS - 1})
    worker = make_worker()
    with structlog.testing.capture_logs() as lines:
        worker.drain()
    [result] = results_of(app_db, tenant, job)[1]
    assert (result.outcome, result.reasons) == ("failed", ("bytes_changed",))
    [line] = [line for line in lines if line["event"] == "bytes_changed"]
    assert (line["log_level"], line["job"], line["ordinal"]) == ("error", str(job), 0)
    assert "0.jpg" not in str(line)


def test_a_photo_that_is_gone_fails_at_once(
    submit_photos: Submit, make_worker: Worker, app_db: Database, storage: Storage, tenant: UUID
) -> None:
    job = submit_photos([photo(1), photo(2)])
    storage.delete([f"incoming/{job.hex}/00001"])
    make_worker().drain()
    _, results = results_of(app_db, tenant, job)
    assert results[1].reasons == ("photo_missing",)
    assert results[0].outcome != "failed"


class Slow:
    """A network that waits to be let go, once it has been reached."""

    def __init__(self, network: Classifier) -> None:
        self.bundle = network.bundle
        self.reached = threading.Event()
        self.go = threading.Event()
        self._network = network

    def classify(self, pixels: NDArray[np.uint8], quality: Sequence[Quality]) -> list[Answer]:
        self.reached.set()
        assert self.go.wait(30)
        return self._network.classify(pixels, quality)


def test_a_worker_asked_to_stop_gives_back_what_it_has_not_finished(
    submit_photos: Submit, make_worker: Worker, network: Classifier, app_db: Database, owner_db: Database,
    tenant: UUID,
) -> None:  # fmt: skip
    job = submit_photos([photo(seed % 8) for seed in range(70)])
    slow = Slow(network)
    worker = make_worker(network=slow)
    thread = threading.Thread(target=worker.drain)
    thread.start()
    assert slow.reached.wait(30)
    worker.stop()
    slow.go.set()
    thread.join(30)
    assert not thread.is_alive()

    with owner_db.transaction() as session:
        states = session.execute(sa.text("SELECT state, crashes, attempt FROM unit")).all()
    assert {row.state for row in states} <= {"ready", "done"}
    assert {(row.crashes, row.attempt) for row in states if row.state == "ready"} == {(0, 0)}

    make_worker("host/2/2").drain()
    view, results = results_of(app_db, tenant, job)
    assert (view.state, len(results)) == ("completed", 70)


def test_a_worker_frozen_past_its_lease_writes_nothing_when_it_wakes(
    submit_photos: Submit, make_worker: Worker, network: Classifier, app_db: Database, worker_db: Database,
    owner_db: Database, tenant: UUID,
) -> None:  # fmt: skip
    job = submit_photos([photo(1)])
    slow = Slow(network)
    frozen = make_worker("host/1/1", network=slow)
    thread = threading.Thread(target=frozen.drain)
    thread.start()
    assert slow.reached.wait(30)
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE unit SET lease_until = now() - interval '1 second'"))
    sweep(worker_db)
    make_worker("host/2/2").drain()
    [before] = results_of(app_db, tenant, job)[1]

    slow.go.set()
    thread.join(30)

    [after] = results_of(app_db, tenant, job)[1]
    assert (after.finished_at, after.attempts) == (before.finished_at, before.attempts)
    assert frozen.answered == 0


class Watching:
    """A network that notes what it sees and, at its second batch, does something once.

    ``seconds`` a photo is the time it takes, which batches are cut by.
    """

    def __init__(self, network: Classifier, then: Callable[[], object], seconds: float = 0.0) -> None:
        self.bundle = network.bundle
        self.batches: list[NDArray[np.uint8]] = []
        self._network = network
        self._then = then
        self._seconds = seconds

    def classify(self, pixels: NDArray[np.uint8], quality: Sequence[Quality]) -> list[Answer]:
        self.batches.append(pixels)
        if len(self.batches) == 2:
            self._then()
        time.sleep(self._seconds * len(pixels))
        return self._network.classify(pixels, quality)


def test_a_job_of_many_in_the_interactive_lane_passes_nobody(
    submit_photos: Submit, make_worker: Worker, network: Classifier, app_db: Database, tenant: UUID
) -> None:
    first = submit_photos([photo(seed % 8) for seed in range(40)])
    many: list[UUID] = []
    watching = Watching(network, lambda: many.append(submit_photos([photo_of(255)] * 96, "interactive")))

    make_worker(network=watching).drain()

    assert max(len(batch) for batch in watching.batches) <= 64
    assert results_of(app_db, tenant, first)[0].state == "completed"
    whites = [number for number, batch in enumerate(watching.batches) if batch.min() > 250]
    greys = [number for number, batch in enumerate(watching.batches) if batch.min() <= 250]
    assert greys[-1] < whites[-1], "the job that was there first waited for all of the other"


def test_an_error_nobody_foresaw_makes_suspects_and_leaves_nothing_held(
    submit_photos: Submit, make_worker: Worker, app_db: Database, owner_db: Database, storage: Storage, tenant: UUID
) -> None:
    submit_photos([photo(seed) for seed in range(3)])

    class Odd(Away):
        def read(self, key: str, *, limit: int) -> bytes:
            raise RuntimeError("a fault of the library")

    worker = make_worker(store=Odd(storage))
    with pytest.raises(RuntimeError):
        worker.drain()

    assert worker._keeper.is_empty
    with owner_db.transaction() as session:
        units = session.execute(sa.text("SELECT state, n, crashes FROM unit WHERE state <> 'split'")).all()
    assert [tuple(unit) for unit in units] == [("ready", 1, 1)] * 3


def test_a_completion_that_breaks_leaves_nothing_held(
    submit_photos: Submit, make_worker: Worker, owner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        submit_photos([photo(seed)])

    def broken(*_: object) -> None:
        raise ArithmeticError("a fault of the program")

    monkeypatch.setattr(finishing, "complete", broken)
    worker = make_worker()
    with pytest.raises(ArithmeticError):
        worker.drain()
    assert worker._keeper.is_empty
    with owner_db.transaction() as session:
        assert session.execute(sa.text("SELECT count(*) FROM unit WHERE state = 'leased'")).scalar_one() == 0
