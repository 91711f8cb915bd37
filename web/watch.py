"""Waiting for something to happen: many clients wait, and one of each tenant looks at the database for all of them.

Looks in vain cost CPU that the network needs, late ones cost the caller time. So whoever looks does so just before
answers usually come, and often from then on; the others sleep until they are served, or it is their turn to look.
What is waited for is the caller's business: a job's answer, a change of a job, events behind a number.

Somebody may hint that a wish is fulfilled: then it is looked for at once. While hints come, looks without one are only
for those that were lost, and come late; when answers are found that nobody hinted at, they are early again.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from uuid import UUID

_EARLY: Final = 0.8
_LATE: Final = 2.0
_RARELY: Final = 4
_STEP: Final = 0.05
_LEARNING: Final = 0.3
_SHORTEST: Final = 0.005
# What is usual may have been a crowd that is gone.
_LONGEST: Final = 0.25
# So many answers that nobody hinted at, one after the other: one may have been found before its hint came.
_UNHINTED: Final = 2
# Of those that nobody waits for yet: an answer may be there before its client has begun to wait.
_MOST_KEPT: Final = 1000

Wish = TypeVar("Wish", bound=Hashable)
Seen = TypeVar("Seen")
Look = Callable[[UUID, Collection[Wish]], Mapping[Wish, Seen]]


class _Client(Generic[Wish, Seen]):
    """One request that waits. It is called when it was served, or when it is to look from now on."""

    def __init__(self, wish: Wish, began: float) -> None:
        self.wish, self.began = wish, began
        self.called = threading.Event()
        self.seen: Seen | None = None
        self.is_hinted = False


@dataclass
class _Crowd(Generic[Wish, Seen]):
    """The clients of one tenant, in the order in which they came, and the one among them that looks."""

    waiting: dict[_Client[Wish, Seen], None] = field(default_factory=dict)
    looking: _Client[Wish, Seen] | None = None
    looked: float = float("-inf")
    is_hinted: bool = False


class Watch(Generic[Wish, Seen]):
    """The clients of a process that wait for one kind of thing; threads share it. ``end`` wakes everybody for good.

    ``look`` is given a tenant and wishes and returns what there is to see of those that are fulfilled; it must hold no
    connection when it returns. Between two looks for a tenant pass ``shortest`` to ``longest`` seconds, but for hints,
    which say by what ``named`` makes of a wish that it is fulfilled.
    """

    def __init__(
        self,
        look: Look[Wish, Seen],
        *,
        named: Callable[[Wish], Hashable] = lambda wish: wish,
        shortest: float = _SHORTEST,
        longest: float = _LONGEST,
    ) -> None:
        self.look, self._named, self._shortest, self._longest = look, named, shortest, longest
        self._lock = threading.Lock()
        self._unhinted = _UNHINTED
        self._hints: OrderedDict[Hashable, None] = OrderedDict()
        self._crowds: dict[UUID, _Crowd[Wish, Seen]] = {}
        self.usual = 0.0
        self._over = threading.Event()

    def wait(
        self, tenant: UUID, wish: Wish, seconds: float, *, is_new: bool = True, began: float | None = None
    ) -> Seen | None:
        """Return what is seen of the wish if that comes within these seconds; raises what ``look`` raises.

        A wish that is not new may be fulfilled already: its client does not wait for the usual time. ``began`` is when
        the client began to wait (monotonic), where that was before this call: who waits for long is looked for seldom.
        """
        now = time.monotonic()
        if began is None:
            began = now if is_new else now - self._early
        me = _Client[Wish, Seen](wish, began)
        end = now + seconds
        crowd = self._join(tenant, me)
        try:
            while me.seen is None and not self.ended and (left := end - time.monotonic()) > 0:
                if crowd.looking is me:
                    self._look_for(tenant, crowd, me, left)
                else:
                    me.called.wait(left)
        finally:
            self._leave(tenant, crowd, me)
        if me.seen is not None and is_new:
            self._learn(time.monotonic() - me.began, is_exact=me.is_hinted)
        if me.seen is None and not self.ended and not self._are_early:
            self._look_last(tenant, me)
        return me.seen

    def hint(self, names: Collection[Hashable]) -> None:
        """Look at once for whoever waits for one of these, or will in a moment."""
        with self._lock:
            self._hints.update(dict.fromkeys(names))
            while len(self._hints) > _MOST_KEPT:
                self._hints.popitem(last=False)
            for crowd in self._crowds.values():
                for client in crowd.waiting:
                    self._take_hint(crowd, client)

    def _take_hint(self, crowd: _Crowd[Wish, Seen], client: _Client[Wish, Seen]) -> None:
        """Let the client's crowd look at once where there is a hint for it; hold the lock."""
        if self._named(client.wish) not in self._hints or client.is_hinted:
            return
        self._unhinted = 0
        client.is_hinted = crowd.is_hinted = True
        if crowd.looking:
            crowd.looking.called.set()

    def _look_last(self, tenant: UUID, me: _Client[Wish, Seen]) -> None:
        """Look once more for somebody who waited for less than the time to a look without a hint."""
        me.seen = self.look(tenant, {me.wish}).get(me.wish)
        with self._lock:
            self._unhinted += me.seen is not None

    def pause(self, seconds: float) -> None:
        """Let some time pass, less where the end comes."""
        self._over.wait(seconds)

    @property
    def ended(self) -> bool:
        """Whether nobody waits any more."""
        return self._over.is_set()

    def end(self) -> None:
        """Let nobody wait any more: the process is about to end."""
        with self._lock:
            self._over.set()
            for crowd in self._crowds.values():
                for client in crowd.waiting:
                    client.called.set()

    def _join(self, tenant: UUID, me: _Client[Wish, Seen]) -> _Crowd[Wish, Seen]:
        with self._lock:
            crowd = self._crowds.setdefault(tenant, _Crowd())
            crowd.waiting[me] = None
            crowd.looking = crowd.looking or me
            self._take_hint(crowd, me)
        return crowd

    def _leave(self, tenant: UUID, crowd: _Crowd[Wish, Seen], me: _Client[Wish, Seen]) -> None:
        with self._lock:
            crowd.waiting.pop(me, None)
            if crowd.looking is me:
                crowd.looking = next(iter(crowd.waiting), None)
                if crowd.looking:
                    crowd.looking.called.set()
            if not crowd.waiting and self._crowds.get(tenant) is crowd:
                del self._crowds[tenant]

    def _look_for(self, tenant: UUID, crowd: _Crowd[Wish, Seen], me: _Client[Wish, Seen], left: float) -> None:
        """Look once for everybody, when it is time to; then call those who were served."""
        me.called.clear()
        pause = self._pause(crowd)
        me.called.wait(max(0.0, min(left, pause)))
        if pause >= left or self.ended:
            return
        with self._lock:
            waiting, crowd.is_hinted = list(crowd.waiting), False
        found = self.look(tenant, {client.wish for client in waiting})
        crowd.looked = time.monotonic()
        with self._lock:
            for client in waiting:
                if client.wish in found:
                    client.seen = found[client.wish]
                    crowd.waiting.pop(client, None)
                    client.called.set()
                    self._unhinted += not client.is_hinted

    def _pause(self, crowd: _Crowd[Wish, Seen]) -> float:
        """Return how long to wait: until somebody usually has an answer, then ever longer for who waits for long."""
        now, early = time.monotonic(), self._early
        with self._lock:
            if crowd.is_hinted:
                return 0.0
            waited = [now - client.began for client in crowd.waiting]
        soonest = min(early - seconds if seconds < early else _STEP * seconds for seconds in waited)
        pause = min(max(self._shortest, soonest), self._longest * (1 if self._are_early else _RARELY))
        return max(pause, crowd.looked + min(max(self._shortest, _STEP * self.usual), self._longest) - now)

    @property
    def _early(self) -> float:
        """The seconds after which somebody is looked for without a hint."""
        return (_EARLY if self._are_early else _LATE) * self.usual

    @property
    def _are_early(self) -> bool:
        """Whether no hints come, as far as anybody can tell."""
        return self._unhinted >= _UNHINTED

    def _learn(self, seconds: float, *, is_exact: bool) -> None:
        """Remember how long it took; what was there at the first look came sooner than anybody knows."""
        at_first = not is_exact and seconds < (_EARLY + _STEP) * self.usual
        self.usual = _EARLY * seconds if at_first else self.usual + _LEARNING * (seconds - self.usual)
