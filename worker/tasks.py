"""The Celery tasks: thin, and without state of their own."""

from shared.broker import DRAIN
from worker import child
from worker.app import app


@app.task(name=DRAIN)
def drain() -> None:
    """Work until nothing is ready: a token is permission to look, no more."""
    child.here().drain()
