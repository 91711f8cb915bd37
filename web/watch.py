"""Waiting for jobs to close: many clients wait, and one look at the database serves all of a tenant.

Looks in vain cost CPU that the network needs, late ones cost the caller time. So who waits looks just before answers
usually come, often from then on, and never sooner than a twentieth of that time after somebody else has looked.
"""

import threading
import time
from collections.abc import Callable, Collection
from typing import Final
from uuid import UUID

_EARLY: Final = 0.8
_STEP: Final = 0.05
_LEARNING: Final = 0.3
_SHORTEST: Final = 0.005
# What is usual may have been a crowd that is gone.
_LONGEST: Final = 0.25

Look = Callable[[UUID, Collection[UUID]], Collection[UUID]]


class Watch:
    """The clients of a process that wait for a job's end; threads share it.

    ``look`` is given a tenant and jobs and returns those that have closed; it must hold no connection when it returns.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._waiting: dict[UUID, dict[UUID, set[threading.Event]]] = {}
        self._not_before: dict[UUID, float] = {}
        self.usual = 0.0

    def wait(self, tenant: UUID, job: UUID, seconds: float) -> bool:
        """Return whether the job has closed within these seconds; raises what ``look`` raises."""
        began = time.monotonic()
        closed = threading.Event()
        self._enter(tenant, job, closed)
        try:
            while (left := began + seconds - time.monotonic()) > 0:
                if closed.wait(min(left, self._pause(tenant, began))):
                    break
                self._look_for_all(tenant)
        finally:
            self._leave(tenant, job, closed)
        if closed.is_set():
            self._learn(time.monotonic() - began)
        return closed.is_set()

    def _enter(self, tenant: UUID, job: UUID, closed: threading.Event) -> None:
        with self._lock:
            self._waiting.setdefault(tenant, {}).setdefault(job, set()).add(closed)

    def _leave(self, tenant: UUID, job: UUID, closed: threading.Event) -> None:
        with self._lock:
            jobs = self._waiting[tenant]
            jobs[job].remove(closed)
            if not jobs[job]:
                del jobs[job]
            if not jobs:
                del self._waiting[tenant]
                self._not_before.pop(tenant, None)

    def _pause(self, tenant: UUID, began: float) -> float:
        now = time.monotonic()
        due = _EARLY * self.usual - (now - began)
        pause = min(max(_SHORTEST, due if due > 0 else _STEP * (now - began)), _LONGEST)
        return max(pause, self._not_before.get(tenant, 0.0) - now)

    def _look_for_all(self, tenant: UUID) -> None:
        with self._lock:
            now = time.monotonic()
            if now < self._not_before.get(tenant, 0.0):
                return
            self._not_before[tenant] = now + max(_SHORTEST, min(_STEP * self.usual, _LONGEST))
            jobs = list(self._waiting[tenant])
        found = self._look(tenant, jobs)
        with self._lock:
            for closed in (event for job in found for event in self._waiting.get(tenant, {}).get(job, ())):
                closed.set()

    def _learn(self, seconds: float) -> None:
        """Remember how long it took; what was there at the first look came sooner than anybody knows."""
        at_first = seconds < (_EARLY + _STEP) * self.usual
        self.usual = _EARLY * seconds if at_first else self.usual + _LEARNING * (seconds - self.usual)
