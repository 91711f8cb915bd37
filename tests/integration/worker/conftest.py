"""A worker's parts over the test services: storage in a folder, the demo bundle behind OpenVINO, jobs to answer."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shared.database import Database, new_id
from shared.ledger.submit import NewImage, NewJob, submit
from shared.settings import Settings
from shared.storage import Storage, open_storage
from worker.classification import Classification
from worker.inference.answers import Calibration
from worker.inference.classifier import Classifier
from worker.inference.engine import Engine, Outputs
from worker.models import OneModel
from worker.photos import PhotoReader
from worker.receiver import Receiver

BUNDLE = Path(__file__).parents[3] / "models" / "demo"


class Remembering:
    """An engine that computes each picture once: its own tests show that no answer depends on the batch."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.precision, self.measured = engine.name, engine.precision, engine.measured
        self.first_met = engine.first_met
        self._engine = engine
        self._found: dict[bytes, tuple[NDArray[np.float32], ...]] = {}

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        """Return the engine's outputs, in order."""
        asked = [sha256(one.tobytes()).digest() for one in batch]
        new = list({key: at for at, key in enumerate(asked) if key not in self._found}.values())
        if new:
            found = self._engine.infer(batch[new])
            rows = zip(found.logits, found.evidence, found.features, strict=True)
            self._found |= {asked[at]: row for at, row in zip(new, rows, strict=True)}
        return Outputs(*(np.stack(column) for column in zip(*(self._found[key] for key in asked), strict=True)))


def remembering(classifier: Classifier) -> Classifier:
    """Return the same network behind an engine that computes each picture once."""
    rules = Calibration.of(classifier.bundle, classifier.engine.precision)
    return Classifier(classifier.bundle, Remembering(classifier.engine), rules)


@pytest.fixture
def storage(settings: Settings) -> Storage:
    """Return the storage that the settings name."""
    return open_storage(settings)


def photo(seed: int, side: int = 256) -> bytes:
    """Return a JPEG of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until it is so; fail if that does not come to pass."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.02)


Submit = Callable[..., UUID]


@pytest.fixture
def submit_photos(app_db: Database, storage: Storage, tenant: UUID) -> Submit:
    """Return a function that stores photos and submits them as one job."""

    def run(photos: Sequence[bytes], lane: str = "normal") -> UUID:
        job = new_id()
        images = []
        for ordinal, data in enumerate(photos):
            key = f"incoming/{job.hex}/{ordinal:05d}"
            with storage.create(key, limit=len(data)) as upload:
                upload.write(data)
                stored = upload.finish()
            images.append(NewImage(new_id(), ordinal, f"{ordinal}.jpg", None, key, stored.sha256, stored.size))
        storage.settle([image.storage_key for image in images])
        with app_db.transaction(tenant) as session:
            submit(session, NewJob(job, tenant, None, lane, images))
        return job

    return run


Worker = Callable[..., Classification]


@pytest.fixture
def make_worker(
    settings: Settings, worker_db: Database, storage: Storage, request: pytest.FixtureRequest
) -> Iterator[Worker]:
    """Return a function that makes workers, of the demo network unless told; they are closed after the test."""
    made: list[Classification] = []

    def run(
        holder: str = "host/1/1", network: Any = None, store: Storage = storage, **changes: object
    ) -> Classification:
        network = network or request.getfixturevalue("network")
        # One decoding child unless a test is about more: each takes a fifth of a second to start.
        own = settings.model_copy(update={"decoders": 1} | changes)
        worker = Classification(
            settings=own,
            database=worker_db,
            storage=store,
            models=OneModel(network),
            photos=PhotoReader(own, store),
            holder=holder,
        )
        made.append(worker)
        return worker

    yield run
    for worker in made:
        worker.close()


Receive = Callable[..., Receiver]


@pytest.fixture
def make_receiver(settings: Settings, worker_db: Database, storage: Storage) -> Iterator[Receive]:
    made: list[Receiver] = []

    def run(store: Storage = storage, wake: Callable[[str], object] = lambda _: None, **changes: object) -> Receiver:
        one = Receiver(settings.model_copy(update=changes), worker_db, store, "host/receiver", wake)
        made.append(one)
        return one

    yield run
    for one in made:
        one.close()
