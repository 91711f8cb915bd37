"""The life of a pool child: loads what it works with when it starts, and gives it back when it stops.

The parent of the pool imports neither an engine nor TensorFlow: the network lives in the child, which may die and be
replaced.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import TYPE_CHECKING, Any

from celery import signals

from shared import crash_points, heap
from shared.logs import configure
from worker.app import settings

if TYPE_CHECKING:
    from worker.process import WorkerProcess

# Celery hands tasks nothing of their own to hold on to, so what the child holds stands here.
_here: WorkerProcess | None = None


def here() -> WorkerProcess:
    """Return what this pool child holds."""
    if _here is None:
        raise RuntimeError("tasks run in a pool child, after it has started")
    return _here


@signals.worker_process_init.connect
def _start(**_: Any) -> None:
    global _here  # noqa: PLW0603  # see above
    with heap.loading():
        from worker.process import WorkerProcess  # noqa: PLC0415  # only a child may load what this brings along

    configure(settings.log_level)
    crash_points.arm(settings.crash_point)
    process = _here = WorkerProcess(settings)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        process.stop()

    signal.signal(signal.SIGUSR2, stop)
    process.start()
    heap.settle()


@signals.worker_process_shutdown.connect
def _stop(**_: Any) -> None:
    if _here is not None:
        _here.close()
