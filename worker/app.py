"""The Celery application of the workers: settings with their reasons. ``celery -A worker.app`` finds ``app`` here."""

import logging
import os
import signal
import sys
from typing import Any

from celery import Celery, signals

from shared import heap
from shared.broker import celery_settings
from shared.errors import InvalidSetting
from shared.logs import configure
from shared.settings import Settings

try:
    settings = Settings.load()
except InvalidSetting as error:
    print(f"poxvisio worker: {error}", file=sys.stderr)
    sys.exit(2)
configure(settings.log_level)

app = Celery("poxvisio", include=["worker.tasks"])
app.conf.update(
    celery_settings(settings),
    # A token carries no state: it is acknowledged at once, and a lost one costs a sweep.
    task_acks_late=False,
    # One child a process: it owns the engine. A child that dies is survivable, a thread is not.
    worker_pool="prefork",
    worker_concurrency=1,
    # Fork is unsafe with the threads of engines, gRPC and database drivers.
    worker_pool_start_method="spawn",
    # With the default of 4 s a slow model load is killed in a loop after the first crash.
    worker_proc_alive_timeout=120,
    # One token per free child, so that the queue's length is honest.
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # SIGTERM is a warm shutdown, which waits for the running drain; `_tell_children` makes that a matter of one batch.
    # SIGQUIT, for whoever cannot wait: a cold one, after this many seconds.
    worker_soft_shutdown_timeout=20,
    worker_enable_soft_shutdown_on_idle=False,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    # The broker may be away for long; the worker is of no use elsewhere.
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)

# A token a second is no news; what it led to is logged by the drain.
for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel(logging.WARNING)

_parent: dict[str, Any] = {}


@signals.worker_init.connect
def _remember_parent(sender: Any, **_: Any) -> None:
    _parent["worker"] = sender
    heap.settle()


@signals.worker_shutting_down.connect
def _tell_children(**_: Any) -> None:
    """Ask the pool's children to stop claiming and to give back what they hold.

    Celery has no word for that: it waits for a running task, and a drain could go on for hours.
    """
    pool = getattr(_parent.get("worker"), "pool", None)
    for process in getattr(getattr(pool, "_pool", None), "_pool", ()):
        os.kill(process.pid, signal.SIGUSR2)
