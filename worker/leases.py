"""Keeping leases alive from a thread of their own, so that a long batch does not lose them."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol
from uuid import UUID

from sqlalchemy.orm import Session

from shared.database import Database
from shared.errors import DatabaseAway
from shared.ledger.claim import Lease, heartbeat
from shared.logs import logger

log = logger(__name__)

# Nothing is committed this close to a lease's end: the other side may already be looking.
_MARGIN_SECONDS = 2.0
_MARGIN_SHARE = 0.25
_LONGEST_SECONDS = 600.0
_AGAIN_SECONDS = 1.0


class Unit(Protocol):
    """A claimed unit, of photos or of what is still to be taken in."""

    @property
    def id(self) -> UUID:
        """Its id."""

    @property
    def fence(self) -> int:
        """The fence it was claimed under."""


Beat = Callable[[Session, Sequence[Lease], float], Collection[UUID]]


class LeaseKeeper:
    """Holds the leases of one worker and prolongs them every third of their time.

    What a heartbeat does not get back is lost: ``holds`` says so from then on, and nothing of it is completed.
    """

    def __init__(self, database: Database, seconds: float, beat: Beat = heartbeat) -> None:
        self.seconds = self._floor = seconds
        self._batch_seconds = 0.0
        self._database = database
        self._prolong = beat
        self._held: dict[UUID, tuple[Lease, float]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()

    def add(self, units: Iterable[Unit], claimed_at: float) -> None:
        """Take charge of freshly claimed units; ``claimed_at`` is the monotonic time before the claim was sent."""
        with self._lock:
            for unit in units:
                self._held[unit.id] = (Lease(unit.id, unit.fence), claimed_at + self.seconds)

    def holds(self, unit: Unit) -> bool:
        """Return whether the unit, as it was claimed then, is still ours for long enough to commit."""
        margin = min(_MARGIN_SECONDS, self.seconds * _MARGIN_SHARE)
        with self._lock:
            found = self._held.get(unit.id)
        return found is not None and found[0].fence == unit.fence and time.monotonic() < found[1] - margin

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is held."""
        return not self._held

    def leases(self, units: Iterable[Unit]) -> list[Lease]:
        """Return the leases of those of the units that are still ours."""
        return [Lease(unit.id, unit.fence) for unit in units if self.holds(unit)]

    def drop(self, units: Iterable[Unit]) -> None:
        """Stop caring for units that are done, given back or lost; not for one that was claimed anew meanwhile."""
        with self._lock:
            for unit in units:
                if self._held.get(unit.id, (None,))[0] == Lease(unit.id, unit.fence):
                    del self._held[unit.id]

    def drop_all(self) -> list[Lease]:
        """Stop caring for everything, and return the leases there were."""
        with self._lock:
            leases = [lease for lease, _ in self._held.values()]
            self._held.clear()
        return leases

    def pace(self, batch_seconds: float) -> None:
        """Learn how long a batch takes: a lease lasts four of them, at most ten minutes and at least its floor."""
        self._batch_seconds += 0.2 * (batch_seconds - self._batch_seconds)
        self.seconds = max(self._floor, min(_LONGEST_SECONDS, 4 * self._batch_seconds))

    def close(self) -> None:
        """End the thread; leases then run out by themselves."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        pause = self.seconds / 3
        while not self._closing.wait(pause):
            try:
                self._beat()
                pause = self.seconds / 3
            except DatabaseAway:
                log.warning("heartbeat_missed")
                pause = _AGAIN_SECONDS
            except Exception:  # the edge of a thread: one bad beat must not be the last
                log.exception("heartbeat_failed")
                pause = _AGAIN_SECONDS

    def _beat(self) -> None:
        with self._lock:
            leases: Sequence[Lease] = [lease for lease, _ in self._held.values()]
        if not leases:
            return
        beaten_at, seconds = time.monotonic(), self.seconds
        with self._database.transaction() as session:
            ours = self._prolong(session, leases, seconds)
        lost = 0
        with self._lock:
            for lease in leases:
                # Meanwhile the unit may have been given back, or even claimed anew.
                if self._held.get(lease.unit_id, (None,))[0] != lease:
                    continue
                if lease.unit_id in ours:
                    self._held[lease.unit_id] = (lease, beaten_at + seconds)
                else:
                    del self._held[lease.unit_id]
                    lost += 1
        if lost:
            log.warning("leases_lost", units=lost)
