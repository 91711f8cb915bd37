"""The Celery tasks: thin, and without state of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.broker import DRAIN
from worker.app import app

if TYPE_CHECKING:
    from worker.process import WorkerProcess

# What this pool child holds, set when it starts. Celery hands tasks nothing else to hold on to.
here: WorkerProcess | None = None


@app.task(name=DRAIN)
def drain() -> None:
    """Work until nothing is ready: a token is permission to look, no more."""
    if here is not None:
        here.drain()
