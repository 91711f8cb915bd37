"""The sweep's process: tokens for ready work, and originals that go when their job closes."""

from collections.abc import Iterator

import pytest

from shared.broker import Broker
from shared.database import Database
from shared.settings import Settings
from shared.storage import Storage
from tests.integration.worker.conftest import Submit, photo
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
def upkeep(worker_db: Database, broker: Spy) -> Upkeep:
    return Upkeep(worker_db, broker, seconds=1)


def keys(storage: Storage, prefix: str) -> set[str]:
    return {item.key for item in storage.list(prefix)}


def test_ready_work_is_announced_once_a_worker_and_round(submit_photos: Submit, upkeep: Upkeep, broker: Spy) -> None:
    upkeep.round()
    assert broker.woken == []
    submit_photos([photo(1)] * 100)
    upkeep.round()
    assert broker.woken == ["normal"]
