"""The Celery application of the stock side: a message is a photo, with every setting that keeps messages from harm."""

import os
import time
from typing import Any

from celery import Celery, signals

from tests.chaos.stock_celery.notes import ANSWERED, BEGUN, READY, note

ANSWER = "stock.answer"
QUEUE = "photos"
# Seconds after which a message that nobody acknowledged is given to the next; short, as it decides how long one waits.
VISIBILITY = 3

app = Celery("stock", broker=os.environ.get("CONTRAST_BROKER", "redis://"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    task_default_queue=QUEUE,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": VISIBILITY,
        # With their defaults a lost message is looked for every 100 seconds.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "socket_timeout": 2,
        "socket_connect_timeout": 2,
        "health_check_interval": 5,
    },
)


@app.task(name=ANSWER)
def answer(photo: str, seconds: float) -> None:
    """Answer a photo, which takes that long."""
    note(BEGUN, photo)
    time.sleep(seconds)
    note(ANSWERED, photo)


@signals.worker_ready.connect
def _ready(**_: Any) -> None:
    note(READY, str(os.getpid()))
