"""Places for what holds a thread: bodies that come in, results that stream out to slow readers, clients that wait.

So many bodies may move at once, and who is slow stands aside and holds nobody up.

The server reads a body on a thread that nothing can interrupt. A phone on a bad line, or a client that means harm,
holds its thread as long as it likes; its place it holds for a second. What stands aside is bounded, for one tenant more
than for all, so that no tenant's slow clients take every thread.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final
from uuid import UUID

# A body of which nothing has come for so long is slow.
_SLOW_SECONDS: Final = 1.0
_LOOK_AGAIN: Final = 0.1
_NEXT_TO_NOTHING: Final = 2
# Who waits for a place holds a thread too.
_MOST_WAITING: Final = 64


class Place:
    """Held by one body; ``wait`` and ``go_on`` stand around each reading of it."""

    def __init__(self, tenant: UUID, clock: Callable[[], float]) -> None:
        self.tenant = tenant
        self._clock = clock
        self._since: float | None = None

    def wait(self) -> None:
        """Say that nothing can be done before the client sends more."""
        self._since = self._clock()

    def go_on(self) -> float:
        """Say that more has come; return the seconds it took."""
        since, self._since = self._since, None
        return 0.0 if since is None else self._clock() - since

    @property
    def is_moving(self) -> bool:
        """Tell whether there is something to do, or was until a moment ago."""
        since = self._since
        return since is None or self._clock() - since < _SLOW_SECONDS


class Places:
    """So many may move at once, and so many slow ones be held beside them; one tenant has half of the latter.

    Beyond these as many again as may move are kept for tenants that hold one at most.

    Where nothing but a number counts, ``of_tenant`` is the number for one tenant.
    """

    def __init__(
        self,
        moving: int,
        slow: int,
        *,
        of_tenant: int | None = None,
        waiting: int = _MOST_WAITING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._moving, self._slow, self._clock = moving, slow, clock
        self._of_tenant = moving + slow // 2 if of_tenant is None else of_tenant
        self._most_waiting = waiting
        self._changed = threading.Condition()
        self._held: set[Place] = set()
        self._waiting: Counter[UUID] = Counter()

    def enter(self, tenant: UUID, patience: float) -> Place | None:
        """Take a place if one is free within so many seconds; a tenant that has its share does not wait.

        Of those who wait, whose tenant holds the fewest goes first; no tenant has more than half of the waiting.
        """
        end = self._clock() + patience
        with self._changed:
            if not self._is_next(tenant):
                most = self._most_waiting
                if self._waiting.total() >= most or self._waiting[tenant] >= max(1, most // 2):
                    return None
                self._waiting[tenant] += 1
                try:
                    self._wait(tenant, end)
                finally:
                    self._waiting -= Counter({tenant: 1})
                if not self._is_next(tenant):
                    return None
            place = Place(tenant, self._clock)
            self._held.add(place)
            return place

    def _wait(self, tenant: UUID, end: float) -> None:
        while not self._is_next(tenant) and not self._has_its_share(tenant) and (left := end - self._clock()) > 0:
            self._changed.wait(min(left, _LOOK_AGAIN))

    def _is_next(self, tenant: UUID) -> bool:
        others = [other for other, waiting in self._waiting.items() if waiting and other != tenant]
        return self._is_free(tenant) and not any(
            self._of(other) < self._of(tenant) and self._is_free(other) for other in others
        )

    @property
    def taken(self) -> int:
        """How many are held now."""
        with self._changed:
            return len(self._held)

    def leave(self, place: Place) -> None:
        """Give the place back."""
        with self._changed:
            self._held.discard(place)
            self._changed.notify_all()

    def _of(self, tenant: UUID) -> int:
        return sum(place.tenant == tenant for place in self._held)

    def _has_its_share(self, tenant: UUID) -> bool:
        return self._of(tenant) >= self._of_tenant

    def _is_free(self, tenant: UUID) -> bool:
        # Where slow ones of a few tenants fill all there is, a tenant that has next to nothing still gets in.
        more = self._moving if self._slow and self._of(tenant) < _NEXT_TO_NOTHING else 0
        return (
            sum(place.is_moving for place in self._held) < self._moving
            and len(self._held) < self._moving + self._slow + more
            and not self._has_its_share(tenant)
        )
