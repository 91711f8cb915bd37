"""Every accepted photo has exactly one result, whatever happens on the way to PostgreSQL and to Valkey."""

import threading
import time
from collections.abc import Iterator
from typing import Literal
from uuid import UUID, uuid4

import pytest

from tests.chaos import promise
from tests.chaos.fleet import Fleet, fleet
from tests.chaos.promise import Reference, Sampler, undisturbed
from tests.chaos.receivers import Receivers
from tests.chaos.running import LONG, until
from tests.chaos.samples import SAMPLES

When = Literal["before", "after"]
PHOTOS = SAMPLES * 4
FEW = SAMPLES[:4]


@pytest.fixture(scope="module")
def ships(tmp_path_factory: pytest.TempPathFactory, receivers: Receivers) -> Iterator[Fleet]:
    """Return a service whose links can be cut."""
    settings = {"POXVISIO_WEBHOOK_LOOPBACK": receivers.address, "POXVISIO_WEBHOOK_SCHEDULE": "0.2,0.2,0.2,0.5"}
    with fleet(tmp_path_factory.mktemp("fleet"), settings=settings) as started:
        yield started


@pytest.fixture(scope="module")
def answers(ships: Fleet) -> Reference:
    """Return the answers to the samples when nobody disturbs."""
    return undisturbed(ships)


@pytest.fixture(autouse=True)
def _books(ships: Fleet, answers: Reference) -> Iterator[None]:
    """Look at the counters all through each test, and at the books in its end; its links are whole again by then."""
    with Sampler(lambda: str(ships.facts["database_url"])) as sampler:
        yield
        for link in (ships.database, ships.broker):
            link.delay = 0
            link.mend()
    assert sampler.broken == []
    assert promise.books(ships.rows) == []


def ended(ships: Fleet, answers: Reference, *jobs: tuple[UUID, list[bytes]]) -> None:
    for job, photos in jobs:
        promise.await_closed(ships, [job], 90)
        assert promise.answers(ships.rows, job, photos, answers) == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("marker", ["INSERT INTO result", "SET state = 'leased'"])
def test_a_workers_commit_is_cut(ships: Fleet, answers: Reference, marker: str, when: When) -> None:
    cut = ships.database.cut_at_commit(marker, when)
    job = ships.submit(FEW)
    until(cut.done.is_set, "the commit is cut")
    ended(ships, answers, (job, FEW))


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_commit_of_an_acceptance_is_cut_and_the_retry_makes_no_second_job(
    ships: Fleet, answers: Reference, when: When
) -> None:
    [(before,)] = ships.rows("SELECT count(*) FROM job")
    cut = ships.database.cut_at_commit("INSERT INTO job ", when)
    key = str(uuid4())
    job = ships.insist(FEW, key)
    assert cut.done.is_set()
    assert ships.insist(FEW, key) == job
    ended(ships, answers, (job, FEW))
    assert ships.rows("SELECT count(*) FROM job") == [(before + 1,)]


def test_an_acceptance_whose_commit_was_answered_by_nobody_is_looked_up(ships: Fleet, answers: Reference) -> None:
    cut = ships.database.cut_at_commit("INSERT INTO job ", "after")
    job = ships.submit(FEW)  # without a key, and yet 202: web found the job
    assert cut.done.is_set()
    ended(ships, answers, (job, FEW))


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_commit_of_a_delivery_is_cut(ships: Fleet, answers: Reference, receivers: Receivers, when: When) -> None:
    with ships.client() as client:
        body = {"url": receivers.url("good"), "events": ["job.completed"], "description": when}
        assert client.post("/v1/webhooks", json=body).status_code == 201
    cut = ships.database.cut_at_commit("INSERT INTO attempt", when)
    job = ships.submit(FEW[:1])
    until(cut.done.is_set, "the commit is cut")
    ended(ships, answers, (job, FEW[:1]))
    # A lost answer leaves the delivery settled; a lost commit leaves it to the deliverer, which tries to settle again.
    until(lambda: promise.deliveries(ships.rows) == [], "every delivery ends")
    assert ships.rows("SELECT count(*) FROM delivery WHERE state = 'dead'") == [(0,)]


@LONG
def test_postgresql_is_cut_off_again_and_again(ships: Fleet, answers: Reference) -> None:
    job = ships.submit(PHOTOS)
    for _ in range(4):
        ships.database.cut()
        time.sleep(0.7)
        ships.database.mend()
        time.sleep(0.5)
    ended(ships, answers, (job, PHOTOS))


@LONG
def test_the_way_to_postgresql_is_half_open_for_longer_than_a_lease(ships: Fleet, answers: Reference) -> None:
    job = ships.submit(PHOTOS)
    until(lambda: ships.answered(job) > 0, "the first photos are answered")
    ships.database.half_open()
    time.sleep(6)
    ships.database.mend()
    ended(ships, answers, (job, PHOTOS))


@LONG
def test_the_way_to_postgresql_is_slow(ships: Fleet, answers: Reference) -> None:
    ships.database.delay = 0.03
    job = ships.submit(FEW)
    ended(ships, answers, (job, FEW))


@pytest.mark.parametrize("fault", ["cut", "half_open"])
def test_valkey_is_out_of_reach(ships: Fleet, answers: Reference, fault: str) -> None:
    getattr(ships.broker, fault)()
    began = time.monotonic()
    waiting = ships.submit(FEW)
    took = time.monotonic() - began
    ships.broker.mend()
    assert took < 10, "accepting waited for the broker"
    after = ships.submit(FEW)
    ended(ships, answers, (waiting, FEW), (after, FEW))


@LONG
def test_more_clients_than_connections_are_answered_and_accounted_for(ships: Fleet, answers: Reference) -> None:
    jobs: list[UUID] = []

    def send() -> None:
        jobs.append(ships.insist(FEW[:2], str(uuid4())))

    threads = [threading.Thread(target=send) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(jobs)) == 24
    ended(ships, answers, *((job, FEW[:2]) for job in jobs))
