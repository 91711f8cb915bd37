"""Benchmark of what a running engine leaves to Python's other threads, such as the one that prolongs leases."""

import statistics
import threading
import time
from collections.abc import Iterator

from benchmarks.apart import Apart
from benchmarks.engine import BATCH, Contender
from benchmarks.report import Row, versus
from shared.processors import processors
from worker.inference.openvino_engine import bf16_here

_TICK = 0.001
_MARGIN = 2.0  # seconds before a lease ends at which a worker takes it for lost
_LOOKING = 5


class Ticking:
    """An engine, and a thread that wants to run every millisecond; each question is seconds, with or without work."""

    def __init__(self, engine: str, precision: str, threads: int) -> None:
        self._contender = Contender(engine, precision, threads)

    def __call__(self, seconds: float, *, working: bool) -> dict[str, float]:
        """Return the longest and the mean time between two turns of the thread, and of a batch, in seconds."""
        gaps: list[float] = []
        done = threading.Event()
        ticking = threading.Thread(target=_tick, args=(gaps, done))
        ticking.start()
        began = time.perf_counter()
        photos = 0
        if working:
            photos = self._contender(seconds)
        else:
            done.wait(seconds)
        took = time.perf_counter() - began
        done.set()
        ticking.join()
        return {"longest": max(gaps), "mean": statistics.mean(gaps), "batch": took / max(1, photos / BATCH)}


def _tick(gaps: list[float], done: threading.Event) -> None:
    last = time.perf_counter()
    while not done.is_set() or len(gaps) < _LOOKING:
        time.sleep(_TICK)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now


def run(*, quick: bool) -> Iterator[Row]:
    """Measure each engine, at work and at rest in turn."""
    precision = "bf16" if bf16_here() else "f32"
    for engine, arithmetic in (("openvino", precision), *([] if quick else [("tensorflow", "f32")])):
        found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        with Apart("benchmarks.gil:Ticking", engine=engine, precision=arithmetic, threads=processors()) as part:
            for _ in range(1 if quick else 5):
                for working in (False, True):
                    found[working].append(part.ask(seconds=0.2 if quick else 3.0, working=working).value)
        busy, idle = (1000 * max(one["longest"] for one in found[working]) for working in (True, False))
        batch = statistics.median(one["batch"] for one in found[True])
        what = f"longest wait of a thread while {engine} {arithmetic} works"
        note = f"{idle:.0f} ms while it rests, on the same cores; a batch of {BATCH} takes {1000 * batch:.0f} ms"
        yield versus(what, busy, "ms", "a lease's margin, ms", 1000 * _MARGIN, at_most=0.1, note=note)
