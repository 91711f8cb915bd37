"""Stock Celery with one task a photo, acknowledged late, and its answer in PostgreSQL."""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
from celery import Celery, signals

from benchmarks.decoding import LIMITS
from shared.bundle import load_bundle
from shared.settings import Settings
from worker.decoding.child import answer as decode
from worker.inference.classifier import Classifier
from worker.inference.preprocess import SIDE, Quality

CLASSIFY, NOTHING = "celery_way.classify", "celery_way.nothing"
QUEUE = "photos"
TABLE = "CREATE TABLE celery_answer (photo text PRIMARY KEY, outcome text, label text, probability float8)"

app = Celery("celery_way", broker=os.environ.get("REDIS_URL", "redis://"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    task_default_queue=QUEUE,
    worker_proc_alive_timeout=120,
)


@functools.cache
def _held() -> tuple[Classifier, Any]:
    """Load the network and connect, once in a pool child; there is one a core, so each computes with one thread."""
    settings = Settings.load()
    classifier = Classifier.load(
        load_bundle(settings.model), engine="openvino", threads=1, cache=settings.cache_dir / str(os.getpid())
    )
    return classifier, psycopg2.connect(settings.database_url.get_secret_value())


@signals.worker_process_init.connect
def _start(**_: Any) -> None:
    if os.environ.get("CELERY_WAY_ENGINE") == "yes":
        _held()


@app.task(name=CLASSIFY)
def classify(path: str, photo: str) -> None:
    """Read, decode, ask the network, store the answer; a message that comes twice is stored once."""
    classifier, connection = _held()
    head, parts = decode(Path(path).read_bytes(), LIMITS)
    pixels = np.frombuffer(parts[0], np.uint8).reshape(1, SIDE, SIDE, 3)
    (answer,) = classifier.classify(pixels, [Quality(**head["quality"])])
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO celery_answer VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (photo, answer.outcome, answer.label, max(answer.probabilities.values())),
        )


@app.task(name=NOTHING)
def nothing(path: str, photo: str) -> None:
    """Answer at no cost, and keep nothing."""
