"""Measures the engines that this machine can run a bundle on, side by side, and says which one it would take and why.

Each engine has a process of its own and they take turns, so that what else the machine does falls on all alike; a
figure is the median of its turns. On a CPU photos per second of the processor's time decide, which other work changes
least; where an engine computes on a GPU, photos per second do, since the processor only waits for it. The smallest
batch within 5 % of the best is enough.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from shared.errors import Unavailable
from shared.processors import processors
from worker.inference.compiled import processor_name
from worker.inference.devices import gpu_seen_by

SIZES: Final = (1, 2, 4, 8, 16)
_NEAR: Final = 0.05


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine in a precision."""

    engine: str
    precision: str

    @property
    def name(self) -> str:
        """Both in words."""
        return f"{self.engine} {self.precision}"


CANDIDATES: Final = (
    Candidate("openvino", "f32"),
    Candidate("openvino", "bf16"),
    Candidate("openvino", "int8"),
    Candidate("tensorflow", "f32"),
    Candidate("tensorflow", "bf16"),
    Candidate("torch", "f32"),
    Candidate("torch", "bf16"),
)


@dataclass(slots=True)
class Measured:
    """What was measured of a candidate: by batch size, wall and CPU seconds a photo of each turn."""

    candidate: Candidate
    refused: str | None = None
    load_seconds: float | None = None
    gpu: str | None = None
    memory_mib: int = 0
    turns: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def rate(self, size: int) -> float:
        """Return photos a second, the median over turns."""
        return 1 / statistics.median(wall for wall, _ in self.turns[size])

    def per_cpu_second(self, size: int) -> float:
        """Return photos a second of the processor's time, the median over turns."""
        return 1 / max(statistics.median(cpu for _, cpu in self.turns[size]), 1e-9)

    def as_json(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "engine": self.candidate.engine,
            "precision": self.candidate.precision,
            "refused": self.refused,
            "load_seconds": self.load_seconds,
            "gpu": self.gpu,
            "memory_mib": self.memory_mib or None,
            "batches": [
                {
                    "size": size,
                    "photos_per_second": round(self.rate(size), 2),
                    "photos_per_cpu_second": round(self.per_cpu_second(size), 2),
                    "turns": len(turns),
                }
                for size, turns in sorted(self.turns.items())
            ],
        }


@cache
def candidates() -> tuple[Candidate, ...]:
    """Return what may run here: float16 on a GPU alone, since processors compute it many times slower than float32."""
    libraries: tuple[Literal["tensorflow", "torch"], ...] = ("tensorflow", "torch")
    return (*CANDIDATES, *(Candidate(library, "f16") for library in libraries if gpu_seen_by(library)))


def measure(
    folder: Path, cache: Path, *, threads: int, photos: int, turns: int, advance: Callable[[int], None]
) -> list[Measured]:
    """Measure every candidate at every size; ``advance`` is told how many of the steps are done (``steps``)."""
    running = {one: _start(folder, cache, one, threads) for one in candidates()}
    found = {one: Measured(one) for one in candidates()}
    done = 0
    try:
        for one, program in running.items():
            said = _answer(one, program)
            found[one].refused, found[one].load_seconds = said.get("refused"), said.get("load_seconds")
            found[one].gpu = said.get("gpu")
            advance(done := done + 1)
        for _ in range(turns):
            for size in SIZES:
                for one, program in running.items():
                    if found[one].refused is None:
                        _take_turn(found[one], program, size, photos)
                    advance(done := done + 1)
    finally:
        for program in running.values():
            program.kill()
            program.communicate()
    return list(found.values())


def steps(turns: int) -> int:
    """Return how many steps a measurement has."""
    return len(candidates()) * (1 + turns * len(SIZES))


def choose(found: Sequence[Measured]) -> dict[str, Any]:
    """Return the engine, precision and batch that cost least, or are fastest on a GPU, and why; ``Unavailable``."""
    able = [one for one in found if one.refused is None]
    if not able:
        raise Unavailable(
            "no engine starts here: " + "; ".join(f"{one.candidate.name}: {one.refused}" for one in found)
        )
    on_gpu = any(one.gpu for one in able)

    def rate(one: Measured, size: int) -> float:
        return one.rate(size) if on_gpu else one.per_cpu_second(size)

    best = {one.candidate.name: max(rate(one, size) for size in one.turns) for one in able}
    first, *others = sorted(able, key=lambda one: -best[one.candidate.name])
    name = first.candidate.name
    size = min(size for size in first.turns if rate(first, size) >= best[name] * (1 - _NEAR))
    why = f"{name} answers {best[name]:.1f} photos a second" + ("" if on_gpu else " of the processor's time")
    for one in others:
        why += f", {best[name] / best[one.candidate.name]:.2f} times what {one.candidate.name} does"
    why += f"; batches of {size} come within {_NEAR:.0%} of its best"
    return {"engine": first.candidate.engine, "precision": first.candidate.precision, "batch": size, "why": why}


def machine() -> dict[str, Any]:
    """Return what the figures hold for."""
    return {
        "processor": processor_name(),
        "cores": processors(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


def table(found: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Return head and rows: photos per CPU-second at each size, then wall photos a second, start and memory."""
    rows: list[tuple[str, ...]] = [
        ("engine", *(f"batch {size}" for size in SIZES), "wall, best", "start s", "MiB", ""),
    ]
    for one in found:
        if one.refused is not None:
            rows.append((one.candidate.name, *["-"] * len(SIZES), "-", "-", "-", one.refused))
            continue
        cells = [f"{one.per_cpu_second(size):.1f}" for size in SIZES]
        wall = max(one.rate(size) for size in one.turns)
        rows.append((one.candidate.name, *cells, f"{wall:.1f}", f"{one.load_seconds:.1f}", str(one.memory_mib), ""))
    return rows


def _start(folder: Path, cache: Path, one: Candidate, threads: int) -> subprocess.Popen[str]:
    asked = [str(folder), one.engine, one.precision, str(threads), str(cache)]
    return subprocess.Popen(
        [sys.executable, "-m", "cli.engine_timing", *asked],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _take_turn(found: Measured, program: subprocess.Popen[str], size: int, photos: int) -> None:
    if program.stdin is None:
        raise RuntimeError("started with a pipe")
    try:
        program.stdin.write(f"{size} {photos}\n")
        program.stdin.flush()
    except BrokenPipeError:
        found.refused = "its process ended while it was measured"
        return
    said = _answer(found.candidate, program)
    if "refused" in said:
        found.refused = said["refused"]
        return
    found.turns.setdefault(size, []).append((said["wall"] / said["photos"], said["cpu"] / said["photos"]))
    found.memory_mib = max(found.memory_mib, said["memory_mib"])


def _answer(one: Candidate, program: subprocess.Popen[str]) -> Mapping[str, Any]:
    line = program.stdout.readline() if program.stdout else ""
    if not line:
        return {"refused": f"{one.engine} does not start here"}
    return dict(json.loads(line))
