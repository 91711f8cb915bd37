"""The sweep's process: tokens for ready work, and originals that go when their job closes."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared.broker import Broker
from shared.database import Database, new_id
from shared.settings import Settings
from shared.storage import Storage
from tests.integration.worker.conftest import Submit, Worker, photo
from worker.classification import copy_key
from worker.upkeep import Upkeep


class Spy(Broker):
    """A broker that notes what it was asked to send, and sends it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.woken: list[str] = []

    def wake(self, lanes: "Iterator[str]") -> bool:  # type: ignore[override]
        self.woken = list(lanes)
        return super().wake(self.woken)


@pytest.fixture
def broker(settings: Settings) -> Iterator[Spy]:
    broker = Spy(settings)
    yield broker
    broker.close()


@pytest.fixture
def upkeep(settings: Settings, worker_db: Database, storage: Storage, broker: Spy) -> Upkeep:
    return Upkeep(settings, worker_db, storage, broker)


def keys(storage: Storage, prefix: str) -> set[str]:
    return {item.key for item in storage.list(prefix)}


def test_ready_work_is_announced_once_a_worker_and_round(submit_photos: Submit, upkeep: Upkeep, broker: Spy) -> None:
    upkeep.round()
    assert broker.woken == []
    submit_photos([photo(1)] * 100)
    upkeep.round()
    assert broker.woken == ["normal"]


def test_originals_go_when_their_job_closes_and_working_copies_stay(
    submit_photos: Submit, make_worker: Worker, upkeep: Upkeep, storage: Storage, owner_db: Database
) -> None:
    job = submit_photos([photo(1), b"no photo"])
    upkeep.round()
    assert len(keys(storage, f"incoming/{job.hex}")) == 2
    make_worker().drain()
    upkeep.round()
    assert keys(storage, "incoming") == set()
    assert len(keys(storage, f"copies/{job.hex}")) == 1
    with owner_db.transaction() as session:
        assert session.execute(sa.text("SELECT originals_deleted_at FROM job")).scalar_one() is not None


def test_originals_of_failed_photos_stay_for_another_try(
    submit_photos: Submit, make_worker: Worker, upkeep: Upkeep, storage: Storage, owner_db: Database
) -> None:
    job = submit_photos([photo(1), photo(2)])
    make_worker().drain()
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE result SET outcome = 'failed' WHERE ordinal = 1"))
        session.execute(sa.text("UPDATE job SET failed = 1, classified = classified - (classified > 0)::int,"
                                " abstained = abstained - (classified = 0)::int"))  # fmt: skip
    upkeep.round()
    assert keys(storage, "incoming") == {f"incoming/{job.hex}/00001"}


def test_a_tenant_that_keeps_originals_keeps_them(
    submit_photos: Submit, make_worker: Worker, upkeep: Upkeep, storage: Storage, owner_db: Database
) -> None:
    job = submit_photos([photo(1)])
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE job SET keep_originals = true"))
    make_worker().drain()
    upkeep.round()
    assert keys(storage, "incoming") == {f"incoming/{job.hex}/00000"}


def test_photos_that_no_job_names_are_deleted_after_a_day(
    submit_photos: Submit, upkeep: Upkeep, storage: Storage, settings: Settings, tenant: UUID
) -> None:
    named = submit_photos([photo(1)])
    orphan, fresh = new_id(), new_id()
    for job in (orphan, fresh):
        storage.write(f"incoming/{job.hex}/00000", b"photo")
    folder = Path(settings.storage_url.removeprefix("file://"))
    for job in (named, orphan):
        os.utime(folder / "incoming" / job.hex / "00000", (time.time() - 90_000,) * 2)

    upkeep._delete_orphans()

    assert keys(storage, "incoming") == {f"incoming/{named.hex}/00000", f"incoming/{fresh.hex}/00000"}


def test_copy_keys_are_of_our_own_making() -> None:
    job, image = UUID(int=1), UUID(int=2)
    assert copy_key(job, image) == f"copies/{job.hex}/{image.hex}.jpg"
