"""Keeping leases alive from a thread of their own, so that a long batch does not lose them."""

import threading
import time
from collections.abc import Iterable, Sequence
from uuid import UUID

from shared.database import Database
from shared.errors import DatabaseAway
from shared.ledger.claim import Claimed, Lease, heartbeat
from shared.logs import logger

log = logger(__name__)

# Nothing is committed this close to a lease's end: the other side may already be looking.
_MARGIN_SECONDS = 2.0
_MARGIN_SHARE = 0.25


class LeaseKeeper:
    """Holds the leases of one worker and prolongs them every third of their time.

    What a heartbeat does not get back is lost: ``holds`` says so from then on, and nothing of it is completed.
    """

    def __init__(self, database: Database, seconds: float) -> None:
        self.seconds = seconds
        self._database = database
        self._held: dict[UUID, tuple[Lease, float]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()

    def add(self, units: Iterable[Claimed], claimed_at: float) -> None:
        """Take charge of freshly claimed units; ``claimed_at`` is the monotonic time before the claim was sent."""
        with self._lock:
            for unit in units:
                self._held[unit.id] = (Lease(unit.id, unit.fence), claimed_at + self.seconds)

    def holds(self, unit_id: UUID) -> bool:
        """Return whether the unit is still ours for long enough to commit."""
        margin = min(_MARGIN_SECONDS, self.seconds * _MARGIN_SHARE)
        with self._lock:
            found = self._held.get(unit_id)
        return found is not None and time.monotonic() < found[1] - margin

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is held."""
        return not self._held

    def leases(self, unit_ids: Iterable[UUID]) -> list[Lease]:
        """Return the leases of those of the units that are still ours."""
        with self._lock:
            held = dict(self._held)  # a heartbeat may lose some of them meanwhile
        return [held[unit_id][0] for unit_id in unit_ids if unit_id in held and self.holds(unit_id)]

    def drop(self, unit_ids: Iterable[UUID]) -> None:
        """Stop caring for units that are done, given back or lost."""
        with self._lock:
            for unit_id in unit_ids:
                self._held.pop(unit_id, None)

    def lengthen(self, seconds: float) -> None:
        """Use longer leases from now on, as batches turn out slower than thought."""
        self.seconds = max(self.seconds, seconds)

    def close(self) -> None:
        """End the thread; leases then run out by themselves."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self.seconds / 3)
            if not self._closed:
                self._beat()

    def _beat(self) -> None:
        with self._lock:
            leases: Sequence[Lease] = [lease for lease, _ in self._held.values()]
        if not leases:
            return
        beaten_at = time.monotonic()
        try:
            with self._database.transaction() as session:
                ours = heartbeat(session, leases, self.seconds)
        except DatabaseAway:
            log.warning("heartbeat_missed", units=len(leases))
            return
        with self._lock:
            for lease in leases:
                if lease.unit_id not in self._held:
                    continue
                if lease.unit_id in ours:
                    self._held[lease.unit_id] = (lease, beaten_at + self.seconds)
                else:
                    del self._held[lease.unit_id]
        if len(ours) < len(leases):
            log.warning("leases_lost", units=len(leases) - len(ours))
