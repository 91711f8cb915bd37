"""The Celery application of our side: a message is a token, and what there is to do stands in the ledger."""

import functools
import os
import time
from collections.abc import Iterator
from typing import Any

from celery import Celery, signals

from shared.broker import DRAIN, celery_settings
from shared.database import Database
from shared.ledger.claim import Claimed, claim
from shared.ledger.complete import Outcome, complete
from shared.settings import Settings
from tests.chaos.stock_celery.notes import BEGUN, READY, note
from tests.chaos.stock_celery.stock import VISIBILITY
from worker.holder import holder_name
from worker.leases import LeaseKeeper

_UNITS = 32

settings = Settings.load()
app = Celery("tokens")
app.conf.update(
    celery_settings(settings),
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@functools.cache
def _held() -> tuple[Database, LeaseKeeper]:
    """Open what a worker holds, in the process that works; leases last as long as the other side's messages hide."""
    database = Database.open(settings, "poxvisio_worker")
    return database, LeaseKeeper(database, VISIBILITY)


@app.task(name=DRAIN)
def drain() -> None:
    """Claim and answer until nothing is ready."""
    database, keeper = _held()
    while True:
        claimed_at = time.monotonic()
        with database.transaction() as session:
            units = claim(session, holder_name(), units=_UNITS, lease_seconds=keeper.seconds)
        if not units:
            return
        keeper.add(units, claimed_at)
        outcomes = [outcome for unit in units for outcome in _answer(unit)]
        with database.transaction() as session:
            complete(session, keeper.leases(units), outcomes)
        keeper.drop(units)


def _answer(unit: Claimed) -> Iterator[Outcome]:
    """Answer the unit's photos; how long that takes is in their names."""
    for image in unit.images:
        _, photo, seconds = image.storage_key.split("/")
        note(BEGUN, photo)
        time.sleep(float(seconds))
        yield Outcome(image.id, unit.id, image.ordinal, "classified")


@signals.worker_ready.connect
def _ready(**_: Any) -> None:
    note(READY, str(os.getpid()))
