"""Stock Celery loses a photo when an idle worker is killed, under its best settings; the ledger, so treated, does not.

The long form, a stream under kills, is ``python -m tests.chaos.stock_celery.stream``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.stock_celery.sides import Side, Stock, broker_that_syncs, until
from tests.chaos.stock_celery.stream import make_ours
from tests.conftest import LOGIN_PASSWORDS

# A BRPOP that runs out while its worker is frozen leaves the message in the queue: once a second, for an instant.
TRIES = 5
ENOUGH = 2


@pytest.fixture(scope="module")
def syncing_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with broker_that_syncs(tmp_path_factory.mktemp("broker")) as url:
        yield url


def killed_over_a_photo(side: Side) -> str:
    """Freeze an idle worker, send a photo, kill the worker: the broker has given the message to the dead."""
    worker = side.start_idle()
    worker.stop()
    photo = side.accept(0.0)
    worker.kill()
    worker.bury()
    return photo


def test_stock_celery_loses_photos_of_killed_workers_and_the_harness_sees_it(
    tmp_path: Path, syncing_broker: str
) -> None:
    stock = Stock(tmp_path, syncing_broker, "solo")
    gone = []
    for _ in range(TRIES):
        photo = killed_over_a_photo(stock)
        if stock.left() == (0, 0):
            gone.append(photo)
        if len(gone) == ENOUGH:
            break
    assert gone, "each time the message was in the queue or in `unacked` still"
    last = stock.start()
    stock.accept(0.0)
    until(stock.is_over, "what is left is answered")
    until(lambda: stock.answered()[stock.accepted[-1]] > 0, "the last photo is answered")
    last.kill()
    last.bury()
    assert stock.count().lost == len(gone)
    assert not any(stock.answered()[photo] for photo in gone)


def test_the_same_kill_costs_our_ledger_a_token_and_no_photo(
    tmp_path: Path, syncing_broker: str, clean: None, owner_url: str
) -> None:
    ours = make_ours(tmp_path, syncing_broker, "solo", owner_url, LOGIN_PASSWORDS)
    killed_over_a_photo(ours)
    assert not ours.is_over()
    last = ours.start()
    with ours.swept():
        until(ours.is_over, "the sweep has found the photo")
    last.kill()
    last.bury()
    count = ours.count()
    ours.close()
    assert (count.accepted, count.answered, count.lost, count.doubled) == (1, 1, 0, 0)
