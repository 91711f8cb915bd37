"""A run of random kills: whoever the schedule names dies by SIGKILL, at its moment or at a named point of the code."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import psutil

from tests.chaos.running import Up
from tests.chaos.victims import Draw, census

# A point that nobody has passed for so long is given up, so that each has its turn.
_POINT_SECONDS: Final = 20.0
_POINTS_AT_ONCE: Final = 4
# So long a kill waits for the service to get on with its work; then the next kind's turn comes.
_PATIENCE_SECONDS: Final = 5.0
_STUCK_SECONDS: Final = 60.0
#: Kinds whose death stops one kind of progress: a service that never gets anywhere can lose nothing.
_STOPS: Final = {
    **dict.fromkeys(("web", "web child", "postgres", "backend"), "accepted"),
    **dict.fromkeys(("worker", "pool child", "decoder"), "answered"),
}
#: How many may die before there has to be some progress again; there are two workers.
_IN_A_ROW: Final = {"accepted": 1, "answered": 2}


@dataclass(frozen=True, slots=True)
class Kill:
    """Somebody died: seconds since the beginning, what it was, and its process."""

    at: float
    what: str
    pid: int


@dataclass
class Killer:
    """Kills along a schedule until there were as many as wanted; ``told`` hears of each.

    ``progress`` tells how many jobs were "accepted" and how many photos "answered" until now.
    """

    service: Up
    draws: Iterator[Draw]
    progress: Callable[[str], int]
    told: Callable[[Kill], None] = lambda _: None
    kills: list[Kill] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _ordered: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, list[int]] = field(default_factory=lambda: {"accepted": [], "answered": []})

    def run(self, wanted: int, seconds: float) -> None:
        """Kill so many, or for so long, then withdraw what is still ordered.

        Fails where the service gets nowhere for a minute in which nobody died.
        """
        root = psutil.Process(self.service.process.pid)
        while len(self.kills) < wanted and time.monotonic() - self._began < seconds:
            draw = next(self.draws)
            time.sleep(draw.pause)
            self._look_at_points()
            if len(self.kills) < wanted:
                self._kill(draw, root)
        for point in list(self._ordered):
            self._withdraw(point)

    @property
    def by_kind(self) -> dict[str, int]:
        """How many died of each kind, the most frequent first."""
        return dict(Counter(kill.what for kill in self.kills).most_common())

    def _kill(self, draw: Draw, root: psutil.Process) -> None:
        assert root.is_running(), "the supervisor is gone"
        patience = _PATIENCE_SECONDS
        for kind, place in draw.wanted:
            if kind == "point":
                if draw.point not in self._ordered and len(self._ordered) < _POINTS_AT_ONCE:
                    self._order(draw.point)
                    return
                continue
            allowed, patience = self._gets_on(kind, patience), 0.0
            found = [process for process in census(root).get(kind, ()) if _age(process) >= draw.age]
            if allowed and found:
                victim = found[place % len(found)]
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
                    self._count(kind, victim.pid, _STOPS.get(kind))
                    return

    def _gets_on(self, kind: str, patience: float) -> bool:
        """Return whether there was progress since the last deaths that stopped what this kind's would."""
        stops = _STOPS.get(kind)
        if stops is None:
            return True
        seen = self._seen[stops]
        if len(seen) < _IN_A_ROW[stops]:
            return True
        end = time.monotonic() + patience
        while self.progress(stops) <= seen[-_IN_A_ROW[stops]]:
            self._look_at_points()
            if time.monotonic() > end:
                stuck = time.monotonic() - self._began - self.kills[-1].at > _STUCK_SECONDS
                assert not stuck, f"nothing was {stops} for {_STUCK_SECONDS:.0f} s, though nobody died"
                return False
            time.sleep(0.05)
        return True

    def _order(self, point: str) -> None:
        self.service.order_death(point)
        self._ordered[point] = time.monotonic()

    def _look_at_points(self) -> None:
        for point, since in list(self._ordered.items()):
            dead = list(self.service.points.glob(f"{point}.*"))
            for obeyed in dead:
                obeyed.unlink()
                stops = {"web": "accepted", "worker": "answered"}.get(point.split(".")[0])
                self._count(f"at {point}", int(obeyed.suffix[1:]), stops)
            if dead:
                del self._ordered[point]
            elif time.monotonic() - since > _POINT_SECONDS:
                self._withdraw(point)

    def _withdraw(self, point: str) -> None:
        # Whoever was quicker is counted at the next look.
        with contextlib.suppress(FileNotFoundError):
            (self.service.points / point).unlink()
            del self._ordered[point]

    def _count(self, what: str, pid: int, stops: str | None) -> None:
        kill = Kill(round(time.monotonic() - self._began, 3), what, pid)
        self.kills.append(kill)
        if stops is not None:
            self._seen[stops].append(self.progress(stops))
        self.told(kill)


def _age(process: psutil.Process) -> float:
    return time.time() - process.create_time()
