"""The time that one file may take in a decoding child, by the clock and of a processor, watched from the worker."""

import ctypes
import math
import select
import sys
import time

import psutil

_LIBC = ctypes.CDLL(None)
_SHORTEST_LOOK = 0.005


class ChildDied(Exception):
    """The child ended, or said what no child of ours would say."""


class ChildEnded(ChildDied):
    """There is no process any more, or its pipe is closed."""


class Overspent(Exception):
    """The file took more processor time than a photo needs."""


class Allowance:
    """The time that one file may take: by the clock, and of a processor."""

    def __init__(self, child: int, seconds: float, cpu_seconds: float = math.inf) -> None:
        self._deadline = time.monotonic() + seconds
        self._cpu_seconds = cpu_seconds
        self._next_look = time.monotonic() + cpu_seconds
        self._child = child
        self._before = _cpu_time(child) if cpu_seconds < math.inf else 0.0

    def wait_for(self, pipe: int) -> None:
        """Return when the pipe can be read or is broken. Raises ``TimeoutError`` and ``Overspent``."""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while not poll.poll(max(0.0, min(self._deadline, self._next_look) - time.monotonic()) * 1000):
            now = time.monotonic()
            if now >= min(self._deadline, self._next_look) and self._cpu_seconds < math.inf:
                # One thread cannot spend it faster than the clock runs, so that is how long it is worth waiting.
                left = self._cpu_seconds - (_cpu_time(self._child) - self._before)
                if left <= 0:
                    raise Overspent
                self._next_look = now + max(left, _SHORTEST_LOOK)
            if now >= self._deadline:
                raise TimeoutError


def _cpu_time(pid: int) -> float:
    """Seconds of processor time that a process has taken so far. Raises ``ChildEnded``."""
    if sys.platform == "linux":  # a hundred times cheaper than reading /proc, and this is asked for every photo
        clock = ctypes.c_int()
        if _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)) != 0:
            raise ChildEnded
        try:
            return time.clock_gettime(clock.value)
        except OSError:
            raise ChildEnded from None
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        raise ChildEnded from None
    return times.user + times.system
