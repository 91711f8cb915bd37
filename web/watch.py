"""Waiting for jobs to close: many clients wait, and one of each tenant looks at the database for all of them.

Looks in vain cost CPU that the network needs, late ones cost the caller time. So whoever looks does so just before
answers usually come, and often from then on; the others sleep until they are served, or it is their turn to look.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from uuid import UUID

_EARLY: Final = 0.8
_STEP: Final = 0.05
_LEARNING: Final = 0.3
_SHORTEST: Final = 0.005
# What is usual may have been a crowd that is gone.
_LONGEST: Final = 0.25

Seen = TypeVar("Seen")
Look = Callable[[UUID, Collection[UUID]], Mapping[UUID, Seen]]


class _Client(Generic[Seen]):
    """One request that waits. It is called when it was served, or when it is to look from now on."""

    def __init__(self, job: UUID, began: float) -> None:
        self.job, self.began = job, began
        self.called = threading.Event()
        self.seen: Seen | None = None


@dataclass
class _Crowd(Generic[Seen]):
    """The clients of one tenant, in the order in which they came, and the one among them that looks."""

    waiting: dict[_Client[Seen], None] = field(default_factory=dict)
    looking: _Client[Seen] | None = None
    looked: float = float("-inf")


class Watch(Generic[Seen]):
    """The clients of a process that wait for a job's end; threads share it.

    ``look`` is given a tenant and jobs and returns what there is to see of those that have closed; it must hold no
    connection when it returns.
    """

    def __init__(self, look: Look[Seen]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._crowds: dict[UUID, _Crowd[Seen]] = {}
        self.usual = 0.0

    def wait(self, tenant: UUID, job: UUID, seconds: float, *, is_new: bool = True) -> Seen | None:
        """Return what is seen of the job if it closes within these seconds; raises what ``look`` raises.

        A job that is not new may have closed already: its client does not wait for the usual time.
        """
        began = time.monotonic()
        me = _Client[Seen](job, began if is_new else began - _EARLY * self.usual)
        end = began + seconds
        crowd = self._join(tenant, me)
        try:
            while me.seen is None and (left := end - time.monotonic()) > 0:
                if crowd.looking is me:
                    self._look_for(tenant, crowd, me, left)
                else:
                    me.called.wait(left)
        finally:
            self._leave(tenant, crowd, me)
        if me.seen is not None and is_new:
            self._learn(time.monotonic() - me.began)
        return me.seen

    def _join(self, tenant: UUID, me: _Client[Seen]) -> _Crowd[Seen]:
        with self._lock:
            crowd = self._crowds.setdefault(tenant, _Crowd())
            crowd.waiting[me] = None
            crowd.looking = crowd.looking or me
        return crowd

    def _leave(self, tenant: UUID, crowd: _Crowd[Seen], me: _Client[Seen]) -> None:
        with self._lock:
            crowd.waiting.pop(me, None)
            if crowd.looking is me:
                crowd.looking = next(iter(crowd.waiting), None)
                if crowd.looking:
                    crowd.looking.called.set()
            if not crowd.waiting and self._crowds.get(tenant) is crowd:
                del self._crowds[tenant]

    def _look_for(self, tenant: UUID, crowd: _Crowd[Seen], me: _Client[Seen], left: float) -> None:
        """Look once for everybody, when it is time to; then call those who were served."""
        me.called.clear()
        pause = self._pause(crowd)
        time.sleep(max(0.0, min(left, pause)))
        if pause >= left:
            return
        with self._lock:
            waiting = list(crowd.waiting)
        found = self._look(tenant, {client.job for client in waiting})
        crowd.looked = time.monotonic()
        with self._lock:
            for client in waiting:
                if client.job in found:
                    client.seen = found[client.job]
                    crowd.waiting.pop(client, None)
                    client.called.set()

    def _pause(self, crowd: _Crowd[Seen]) -> float:
        """Return how long to wait: until somebody usually has an answer, then ever longer for who waits for long."""
        now, early = time.monotonic(), _EARLY * self.usual
        with self._lock:
            waited = [now - client.began for client in crowd.waiting]
        soonest = min(early - seconds if seconds < early else _STEP * seconds for seconds in waited)
        pause = min(max(_SHORTEST, soonest), _LONGEST)
        return max(pause, crowd.looked + min(max(_SHORTEST, _STEP * self.usual), _LONGEST) - now)

    def _learn(self, seconds: float) -> None:
        """Remember how long it took; what was there at the first look came sooner than anybody knows."""
        at_first = seconds < (_EARLY + _STEP) * self.usual
        self.usual = _EARLY * seconds if at_first else self.usual + _LEARNING * (seconds - self.usual)
