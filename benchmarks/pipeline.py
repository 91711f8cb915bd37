"""Benchmark of a worker: stored photos to committed results against the ceiling that decoding and network leave.

The ceiling is cores / (CPU of decoding with the working copy + CPU of the network), both measured on all cores at once
between the rounds. What other programs of this machine take of its cores during a round is not the worker's doing: the
ceiling counts the cores that they leave, idle ones included.
"""

# ruff: noqa: PLC0415 - the usual way alone needs Keras
import os
import statistics
import threading
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psutil
import sqlalchemy as sa
from PIL import Image

from benchmarks.apart import Apart, ask_all
from benchmarks.machine import Span
from benchmarks.pictures import LARGE, MEDIUM, SMALL, Kind, kind_named, photos
from benchmarks.report import Row, versus
from benchmarks.services import Services, running, submit_photos
from shared import logs
from shared.bundle import load_bundle
from shared.database import Database
from shared.processors import processors
from shared.settings import Settings
from shared.storage import open_storage
from worker.classification import Classification
from worker.holder import holder_name
from worker.inference.classifier import Classifier
from worker.inference.preprocess import SIDE
from worker.inference.weights import load_reference, load_weights
from worker.models import OneModel
from worker.photos import PhotoReader


class Worker:
    """What a pool child holds, without Celery; each question is one drain.

    With ``watched`` the answer tells how memory grew in it; to look costs up to 1 % of the work on a small machine.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        logs.configure("error")
        settings = Settings.load(environment)
        self._database = Database.open(settings, "poxvisio_worker")
        storage = open_storage(settings)
        self._classification = Classification(
            settings=settings,
            database=self._database,
            storage=storage,
            models=OneModel(_classifier(settings)),
            photos=PhotoReader(settings, storage),
            holder=holder_name(),
        )

    def __call__(self, *, watched: bool = False) -> dict[str, Any]:
        """Drain the queue; memory is [photos answered, MiB of the worker, MiB of its decoding children], as it went."""
        if not watched:
            return {"answered": self._classification.drain()}
        grown: list[tuple[int, float, float]] = []
        before = self._classification.answered
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.25):
                grown.append((self._classification.answered - before, *_memory()))

        looking = threading.Thread(target=look)
        looking.start()
        answered = self._classification.drain()
        done.set()
        looking.join()
        return {"answered": answered, "memory": [*grown, (answered, *_memory())]}

    def close(self) -> None:
        """Give everything back."""
        self._classification.close()
        self._database.close()


class Network:
    """The worker's engine alone; each question is a number of photos, in micro-batches like the worker's."""

    def __init__(self, environment: Mapping[str, str], batch: int) -> None:
        settings = Settings.load(environment)
        self._engine = _classifier(settings).engine
        seen = load_reference(load_bundle(settings.model)).photos
        self._batch = np.concatenate([seen] * batch)[:batch]
        self._engine.infer(self._batch)

    def __call__(self, count: int) -> None:
        """Put so many photos through."""
        for _ in range(-(-count // len(self._batch))):
            self._engine.infer(self._batch)


class UsualWay:
    """What one writes first: open a photo whole with Pillow, resize it, ask Keras, take the next."""

    def __init__(self, model: str, kind: str, different: int) -> None:
        import keras

        from worker.inference.tensorflow_engine import load_by_name

        weights = load_weights(load_bundle(Path(model)))
        base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3), pooling="avg")
        load_by_name(base, weights)
        head = keras.layers.Dense(len(weights["head/bias"]), activation="softmax")
        self._model = keras.Sequential([base, head])
        head.set_weights([weights["head/kernel"], weights["head/bias"]])
        self._prepare = keras.applications.resnet50.preprocess_input
        self._photos = photos(kind_named(kind), different)
        self(1)

    def __call__(self, count: int) -> None:
        """Answer so many photos."""
        for turn in range(count):
            with Image.open(BytesIO(self._photos[turn % len(self._photos)])) as opened:
                small = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            self._model.predict(self._prepare(np.asarray(small, dtype=np.float32)[None]), verbose=0)


def run(*, quick: bool) -> Iterator[Row]:
    """Measure photos of 1 MP, then phone photos of 12 MP."""
    with (
        running() as services,
        Apart("benchmarks.pipeline:Worker", environment=_environment(services)) as worker,
        Apart("benchmarks.pipeline:Network", environment=_environment(services, "network"), batch=4) as network,
    ):
        network.ask(count=1)
        sizes = ((SMALL, 40, 1),) if quick else ((SMALL, 800, 5), (LARGE, 200, 3), (MEDIUM, 300, 3))
        for kind, count, rounds in sizes:
            yield from _run(services, worker, network, kind, count=count, rounds=rounds)


def _run(services: Services, worker: Apart, network: Apart, kind: Kind, *, count: int, rounds: int) -> Iterator[Row]:
    different, tenth = min(8, count // 8), count // 10
    decoders = [Apart("benchmarks.decoding:Decoding", kind=kind.name, different=different) for _ in range(processors())]
    model = _environment(services)["MODEL"]
    usual = Apart("benchmarks.pipeline:UsualWay", model=model, kind=kind.name, different=different)
    drains, ceilings, usuals = [], [], []
    try:
        ask_all([*decoders, usual], count=1)
        for _ in range(rounds):
            decoding = statistics.mean(one.cpu for one in ask_all(decoders, count=tenth)) / tenth
            ceilings.append((decoding, network.ask(count=4 * tenth).cpu / (4 * tenth)))
            drains.append(_drain(services, worker, kind, different, count))
            took = usual.ask(count=tenth)
            usuals.append((tenth / took.wall, took.cpu / tenth))
    finally:
        for part in (*decoders, usual):
            part.close()
    yield from _rows(kind, count, drains, ceilings, usuals)


def _drain(services: Services, worker: Apart, kind: Kind, different: int, count: int) -> Span:
    tenant = services.tenant()
    with services.database("poxvisio_app") as database:
        job = submit_photos(services, database, tenant, photos(kind, different), count)
        with Span([worker.pid, services.postgres]) as span:
            answered = worker.ask().value["answered"]
        check_answers(database, tenant, job, count, answered)
    return span


def check_answers(database: Database, tenant: UUID, job: UUID, count: int, answered: int) -> None:
    """Raise unless every photo has a result and the network saw each."""
    with database.transaction(tenant) as session:
        asked = sa.text(
            "SELECT count(*) FILTER (WHERE outcome IN ('classified', 'abstained')) FROM result WHERE job_id = :job"
        )
        seen = session.execute(asked, {"job": job}).scalar_one()
    if not seen == answered == count:
        raise RuntimeError(f"{count} photos, {answered} answered, {seen} seen by the network")


def _rows(
    kind: Kind, count: int, drains: list[Span], ceilings: list[tuple[float, float]], usuals: list[tuple[float, float]]
) -> Iterator[Row]:
    decoding, network = (1000 * statistics.median(column) for column in zip(*ceilings, strict=True))
    rate = statistics.median(count / span.wall for span in drains)
    used = 1000 * statistics.median(span.ours / count for span in drains)
    free = [span.available / span.wall / sum(each) for span, each in zip(drains, ceilings, strict=True)]
    reached = statistics.median(count / span.wall / ceiling for span, ceiling in zip(drains, free, strict=True))
    idle = 100 * statistics.median((span.available - span.ours) / span.available for span in drains)
    others = statistics.median(span.others / span.wall for span in drains)
    note = (
        f"{used:.1f} ms CPU a photo, PostgreSQL included; the ceiling is {decoding:.1f} ms of decoding and "
        f"{network:.1f} ms of network on the {processors() - others:.2f} of {processors()} cores that other "
        f"programs left; {idle:.0f} % of these stayed idle"
    )
    what, ceiling = f"worker, {kind.name}", statistics.median(free)
    yield Row(what, rate, "photos/s", "ceiling, photos/s", ceiling, reached, at_least=0.95, note=note)
    usual, cpu = (statistics.median(column) for column in zip(*usuals, strict=True))
    note = f"the usual way answers {usual:.1f} photos/s"
    yield versus(f"the usual way, {kind.name}", 1000 * cpu, "ms CPU a photo", "the worker, ms CPU", used, note=note)


def _environment(services: Services, cache: str = "worker") -> dict[str, str]:
    return services.environment("poxvisio_worker_login", cache)


def _classifier(settings: Settings) -> Classifier:
    return Classifier.load(
        load_bundle(settings.model),
        engine=settings.engine,
        precision=settings.precision,
        threads=settings.engine_threads,
        cache=settings.cache_dir,
    )


def _memory() -> tuple[float, float]:
    """MiB of this process and of its children that decode."""
    here = psutil.Process(os.getpid())
    children = 0
    for child in here.children():
        try:
            children += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return here.memory_info().rss / 2**20, children / 2**20
