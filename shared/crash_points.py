"""Named places at which a test run may have the process that passes there killed, as ``kill -9`` would; else nothing.

What to kill is given once, at start (``POXVISIO_CRASH_POINT``, which ``Settings`` refuses outside the test mode):

``point:3``
    the process dies when it passes the point for the third time, and so does its successor;
``/folder``
    whoever is the first to pass a point after which a file in the folder is named dies, once: the file then is called
    ``point.pid``. So a schedule can ask for a death while everything runs.

Off, a passed point costs one comparison.
"""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

#: Every point there is; a test holds this against the calls.
POINTS: Final = (
    "web.stored",  # the photos are durable, nothing is in the database
    "web.written",  # everything is written, and not committed
    "web.committed",  # the job is there, no worker is woken
    "web.woken",  # a worker is woken, the client has no answer
    "worker.claimed",
    "worker.decoded",
    "worker.copied",  # the working copies are stored, nothing of the unit is in the database
    "worker.completing",  # the results are written, and not committed
    "worker.completed",
    "worker.receiving",  # an archive or a list is claimed, nothing of it is taken
    "worker.appended",  # some of its photos are in the job, the others are not
    "deliverer.answered",  # the receiver has answered, which nobody wrote down
    "sweep.reaping",  # lost leases are taken back, and that is not committed
)

_obey: Callable[[str], None] | None = None


def passing(point: str) -> None:
    """Die here if a test asked for it."""
    if _obey is not None:
        _obey(point)


def arm(order: str) -> None:
    """Kill this process at a point from now on; an empty order disarms. Raises ``ValueError`` as ``check`` does."""
    global _obey  # noqa: PLW0603  # passing a collaborator to every function with a point would cost when off
    check(order)
    if order.startswith("/"):
        _obey = _first_to_pass(Path(order))
    else:
        _obey = _time_of_passing(*order.rsplit(":", 1)) if order else None


def check(order: str) -> None:
    """Raise ``ValueError`` unless the order is empty, a folder's absolute path, or a point and a number from 1."""
    point, _, number = order.rpartition(":")
    if order and not order.startswith("/") and (point not in POINTS or not number.isdecimal() or int(number) < 1):
        raise ValueError("must be a folder, or a point and a number like worker.claimed:3")


def _time_of_passing(point: str, number: str) -> Callable[[str], None]:
    times = itertools.count(1)

    def obey(passed: str) -> None:
        if passed == point and next(times) == int(number):
            _die()

    return obey


def _first_to_pass(folder: Path) -> Callable[[str], None]:
    def obey(passed: str) -> None:
        try:
            (folder / passed).rename(folder / f"{passed}.{os.getpid()}")
        except FileNotFoundError:
            return  # no order, or another process was first
        _die()

    return obey


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")
