"""How many processors this process may keep busy."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS, _MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def processors() -> int:
    """Return the processors that this process may run on, no more than its groups have time for; at least one.

    More threads than that would be stopped in the middle of their work, all at once, until the quota's next period.
    """
    able = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(able, quota()))


def quota(groups: Path = _GROUPS, mounted: Path = _MOUNTED) -> float:
    """Return how many processors' time the control groups of this process allow, ``inf`` where nothing bounds it.

    Groups are nested and each bounds those in it (Linux, Documentation/admin-guide/cgroup-v2.rst, "CPU Interface
    Files", and Documentation/scheduler/sched-bwc.rst for version 1). In a container they look like the machine's root.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # no Linux, or no control groups
        return math.inf
    least = math.inf
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            least = min(least, *(_of_version_2(each) for each in _upwards(mounted, path)), math.inf)
        elif "cpu" in controllers.split(","):
            least = min(least, *(_of_version_1(each) for each in _upwards(mounted / "cpu", path)), math.inf)
    return least


def _upwards(mounted: Path, path: str) -> Iterator[Path]:
    group = mounted / path.lstrip("/")
    yield group
    while group != mounted:
        group = group.parent
        yield group


def _of_version_2(group: Path) -> float:
    allowed, _, period = _read(group / "cpu.max").partition(" ")
    return _share(allowed, period)  # "max 100000": not bounded


def _of_version_1(group: Path) -> float:
    return _share(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))  # "-1": not bounded


def _share(allowed: str, period: str) -> float:
    return int(allowed) / int(period) if allowed.isdecimal() and period.isdecimal() else math.inf


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # the root of all has no such file; a container may not see its own group's path
        return ""
