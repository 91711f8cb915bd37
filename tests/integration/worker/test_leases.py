"""Leases that are kept alive from a thread: lengths that follow the batches, and beats that go on whatever happens."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import UUID

import pytest

from shared.database import Database
from shared.ledger.claim import Lease, claim
from tests.integration.worker.conftest import Submit, photo
from worker import leases
from worker.leases import LeaseKeeper


@pytest.fixture
def keeper(worker_db: Database) -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper(worker_db, 60)
    yield keeper
    keeper.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_lease_follows_the_batches_up_and_down_again(keeper: LeaseKeeper) -> None:
    for _ in range(20):
        keeper.pace(50)
    assert 150 < keeper.seconds <= 200
    keeper.pace(10_000)
    assert keeper.seconds == 600
    for _ in range(100):
        keeper.pace(0.1)
    assert keeper.seconds == 60


def test_a_beat_of_an_old_lease_changes_nothing_about_a_newer_one(worker_db: Database, submit_photos: Submit) -> None:
    submit_photos([photo(1)])
    with worker_db.transaction() as session:
        [unit] = claim(session, "host/1/1", units=1, lease_seconds=60)
    newer = replace(unit, fence=unit.fence + 1)

    def claimed_anew(*_: object) -> set[UUID]:
        held.add([newer], time.monotonic())
        return {unit.id}

    held = LeaseKeeper(worker_db, 60, beat=claimed_anew)
    held.add([unit], time.monotonic())
    held._beat()
    assert held.leases([unit, newer]) == [Lease(newer.id, newer.fence)]
    held.close()


def test_dropping_an_old_lease_keeps_the_newer_one(
    keeper: LeaseKeeper, worker_db: Database, submit_photos: Submit
) -> None:
    submit_photos([photo(1)])
    with worker_db.transaction() as session:
        [unit] = claim(session, "host/1/1", units=1, lease_seconds=60)
    newer = replace(unit, fence=unit.fence + 1)
    keeper.add([unit], time.monotonic())
    keeper.add([newer], time.monotonic())
    assert not keeper.holds(unit)
    keeper.drop([unit])
    assert keeper.holds(newer)
    keeper.drop([newer])
    assert not keeper.holds(newer)


def test_a_beat_that_breaks_is_not_the_last(
    worker_db: Database, submit_photos: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_photos([photo(1)])
    beats = []

    def broken(*_: object) -> set[UUID]:
        beats.append(1)
        raise ArithmeticError("a fault of the program")

    monkeypatch.setattr(leases, "_AGAIN_SECONDS", 0.01)
    keeper = LeaseKeeper(worker_db, 0.3, beat=broken)
    with worker_db.transaction() as session:
        keeper.add(claim(session, "host/1/1", units=1, lease_seconds=60), time.monotonic())
    until(lambda: len(beats) > 3)
    keeper.close()
