"""Workers at a set pace over the real ledger: they claim, sleep as long as a network would work, and complete."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from shared.database import Database
from shared.ledger.claim import Claimed, Lease, claim
from shared.ledger.complete import Outcome, complete
from shared.ledger.fairness import UNIT_IMAGES
from shared.ledger.sweep import sweep
from worker.pace import Pace

_CLAIM_SECONDS: Final = 0.25
_REPORT_SECONDS: Final = 2.0
_SWEEP_SECONDS: Final = 1.0
_REPORT = sa.text("""
    INSERT INTO worker_node (name, state, images_per_second) VALUES (:name, 'busy', :rate)
    ON CONFLICT (name) DO UPDATE SET images_per_second = excluded.images_per_second, last_seen = now()
""")
_WAITING = sa.text("SELECT EXISTS (SELECT FROM unit WHERE state = 'ready' AND kind = 'images')")


def outcomes(units: list[Claimed]) -> list[Outcome]:
    """Return an answer for every photo, as an engine that costs nothing would."""
    return [
        Outcome(image.id, unit.id, image.ordinal, "classified", label="other")
        for unit in units
        for image in unit.images
    ]


class PacedWorker:
    """Answers ``rate`` photos a second, says what it would say of itself, and sweeps once a second."""

    def __init__(self, database: Database, name: str, rate: float) -> None:
        self._database, self._name, self._rate = database, name, rate
        self._stopping = threading.Event()
        self._pace = Pace()
        self.answered = 0
        self.order: list[Claimed] = []

    def run(self) -> None:
        """Work until asked to stop."""
        duties = ((_REPORT_SECONDS, self._report), (_SWEEP_SECONDS, self._sweep))
        helpers = [threading.Thread(target=self._every, args=pair) for pair in duties]
        for helper in helpers:
            helper.start()
        while not self._stopping.is_set():
            if not self.step():
                self._stopping.wait(0.02)
        for helper in helpers:
            helper.join()

    def stop(self) -> None:
        """End after the present claim."""
        self._stopping.set()

    def step(self, units: int | None = None) -> int:
        """Claim so many units, or a quarter of a second of work, and complete them; return how many photos it was."""
        units = units or max(1, round(self._rate * _CLAIM_SECONDS / UNIT_IMAGES))
        began = time.monotonic()
        with self._database.transaction() as session:
            claimed = claim(session, self._name, units=units, lease_seconds=60)
        if not claimed:
            return 0
        photos = sum(unit.n for unit in claimed)
        # A real worker claims and commits beside its network: both are in the pace.
        self._stopping.wait(max(0.0, began + photos / self._rate - time.monotonic()))
        with self._database.transaction() as session:
            self.answered += complete(
                session, [Lease(unit.id, unit.fence) for unit in claimed], outcomes(claimed)
            ).written
        self.order += claimed
        return photos

    def _every(self, seconds: float, duty: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            duty()
            self._stopping.wait(seconds)

    def _report(self) -> None:
        with self._database.transaction() as session:
            is_full = bool(session.execute(_WAITING).scalar_one())
            self._pace.look(time.monotonic(), self.answered, is_full=is_full)
            session.execute(_REPORT, {"name": self._name, "rate": self._pace.rate or self._rate})

    def _sweep(self) -> None:
        sweep(self._database)


@contextmanager
def at_work(database: Database, rates: list[float]) -> Iterator[list[PacedWorker]]:
    """Run a worker of each rate."""
    workers = [PacedWorker(database, f"paced/{number}/1", rate) for number, rate in enumerate(rates)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join()
