"""A run of random kills: whoever the schedule names dies by SIGKILL, at its moment or at a named point of the code."""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil

from tests.chaos.running import Up
from tests.chaos.victims import Draw, census

# A point that nobody has passed for so long is given up, so that each has its turn.
_POINT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Kill:
    """Somebody died: seconds since the beginning, what it was, and its process."""

    at: float
    what: str
    pid: int


@dataclass
class Killer:
    """Kills along a schedule until there were as many as wanted; ``told`` hears of each."""

    service: Up
    draws: Iterator[Draw]
    told: Callable[[Kill], None] = lambda _: None
    kills: list[Kill] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _ordered: dict[str, float] = field(default_factory=dict)

    def run(self, wanted: int) -> None:
        """Kill so many, then withdraw what is still ordered."""
        root = psutil.Process(self.service.process.pid)
        while len(self.kills) < wanted:
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
        found = census(root)
        for kind, place in draw.wanted:
            if kind == "point":
                if draw.point not in self._ordered:
                    self._order(draw.point)
                    return
            elif processes := [process for process in found.get(kind, ()) if _age(process) >= draw.age]:
                victim = processes[place % len(processes)]
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
                    self._count(kind, victim.pid)
                    return

    def _order(self, point: str) -> None:
        self.service.order_death(point)
        self._ordered[point] = time.monotonic()

    def _look_at_points(self) -> None:
        for point, since in list(self._ordered.items()):
            dead = deque(self.service.points.glob(f"{point}.*"))
            for obeyed in dead:
                obeyed.unlink()
                self._count(f"at {point}", int(obeyed.suffix[1:]))
            if dead:
                del self._ordered[point]
            elif time.monotonic() - since > _POINT_SECONDS:
                self._withdraw(point)

    def _withdraw(self, point: str) -> None:
        # Whoever was quicker is counted at the next look.
        with contextlib.suppress(FileNotFoundError):
            (self.service.points / point).unlink()
            del self._ordered[point]

    def _count(self, what: str, pid: int) -> None:
        kill = Kill(round(time.monotonic() - self._began, 3), what, pid)
        self.kills.append(kill)
        self.told(kill)


def _age(process: psutil.Process) -> float:
    return time.time() - process.create_time()
