"""Which processes there are to kill, and the seeded order in which a schedule kills them."""

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import psutil

from shared.crash_points import POINTS

#: How often each kind is drawn. What everybody needs is killed less often, or nothing but its return would be tested.
WEIGHTS: Final[Mapping[str, int]] = {
    "worker": 6,  # the parent of the pool; its supervisor ends what is left of the group
    "pool child": 12,
    "decoder": 14,
    "web": 3,
    "web child": 2,
    "deliverer": 8,
    "sweep": 8,
    "valkey": 7,
    "postgres": 3,
    "backend": 3,  # PostgreSQL then ends every other connection too
    "guard": 2,
    "point": 32,
}


@dataclass(frozen=True, slots=True)
class Draw:
    """One kill of a schedule: seconds after the last, and kinds in the order of preference, each with a place.

    A kind that has no process now, or none that has lived for ``age`` seconds, gives way to the next; the place, taken
    modulo their number, chooses among several. Without an age nobody would ever get beyond its start.
    """

    pause: float
    age: float
    wanted: tuple[tuple[str, int], ...]
    point: str


def schedule(seed: int, mean_pause: float) -> Iterator[Draw]:
    """Yield kills without end, the same for the same seed."""
    chance = random.Random(seed)
    while True:
        kinds = sorted(WEIGHTS, key=lambda kind: chance.random() ** (1 / WEIGHTS[kind]), reverse=True)
        pause = min(4 * mean_pause, chance.expovariate(1 / mean_pause))
        yield Draw(
            pause, chance.uniform(0, 6), tuple((kind, chance.randrange(1000)) for kind in kinds), chance.choice(POINTS)
        )


def census(root: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Return the processes of an instance by kind, each kind in the order of its pids."""
    found: dict[str, list[psutil.Process]] = {}
    for process in sorted(root.children(recursive=True), key=lambda process: process.pid):
        with contextlib.suppress(psutil.Error):
            if kind := kind_of(process.cmdline(), is_leader=process.ppid() == root.pid):
                found.setdefault(kind, []).append(process)
    return found


def kind_of(command: list[str], *, is_leader: bool) -> str | None:
    """Return the kind of a process by its command line; None for one that is not to be killed on its own."""
    words = " ".join(command)
    if words.startswith("postgres: "):
        return "backend" if " 127.0.0.1" in words else None
    marks = {
        "guard.py": "guard",
        "worker.app worker": "worker",
        "spawn_main": "pool child",
        "worker.decoding.child": "decoder",
        "granian": "web" if is_leader else "web child",
        "worker.delivery": "deliverer",
        "worker.upkeep": "sweep",
        "valkey-server": "valkey",
        "/postgres -D": "postgres",
    }
    return next((kind for mark, kind in marks.items() if mark in words), None)
