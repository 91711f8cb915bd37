"""A shadow looks at photos beside what answers them, and nothing that anybody sees changes by it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa

from shared.bundle import Bundle
from shared.database import Database
from shared.ledger import deletion
from shared.registry import shadow
from shared.registry.changes import make
from shared.registry.serving import Serving
from shared.settings import Settings
from shared.storage import Storage
from tests.integration.worker.conftest import Submit, photo, until
from tests.integration.worker.test_classification import results_of
from tests.integration.worker.test_models import (
    DEFAULT,
    DEMO,
    Publish,
    heard,
    make_bundle,
    now_serving,
    publish,
    wish,
    worker,
)
from worker.classification import Classification
from worker.inference.answers import Calibration
from worker.inference.classifier import Classifier
from worker.models import Models

__all__ = ["make_bundle", "publish", "worker"]

Begin = Callable[..., str]


@pytest.fixture
def models(
    settings: Settings, worker_db: Database, storage: Storage, network: Classifier, tmp_path: Path
) -> Iterator[Models]:
    """Return the networks of a worker; bundles of the same weights share what was compiled of them."""

    def load(bundle: Bundle) -> Classifier:
        return Classifier(bundle, network.engine, Calibration.of(bundle))

    found = Models(worker_db, storage, default=settings.model, cache=tmp_path / "cache", kept=1, load=load)
    found.start()
    yield found
    found.close()


@pytest.fixture
def begin(publish: Publish, models: Models, app_db: Database, worker_db: Database) -> Begin:
    """Return a function that makes a model the shadow of a share of photos, on the worker too."""

    def run(share: float = 1.0) -> str:
        digest = publish("second")
        wish(app_db, "shadow", "second", digest, share)
        assert make(worker_db, DEMO) == 1
        models.heed(now_serving(app_db).version)
        until(lambda: models.serving.shadow == digest)
        return digest

    return run


def seen(owner_db: Database) -> list[Any]:
    with owner_db.transaction() as session:
        return list(session.execute(sa.text("SELECT * FROM shadow_result ORDER BY image_id")))


def test_a_shadow_looks_at_each_photo_once_and_no_answer_count_or_event_knows_of_it(
    begin: Begin, worker: Classification, submit_photos: Submit, owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    digest = begin()
    job = submit_photos([photo(seed) for seed in range(5)])
    assert worker.drain() == 5
    rows = seen(owner_db)
    view, results = results_of(app_db, tenant, job)
    assert {row.image_id for row in rows} == {result.image_id for result in results}
    assert {(row.digest, row.live_digest) for row in rows} == {(digest, DEFAULT.digest)}
    assert all(row.moved < 1e-4 and row.label == row.live_label for row in rows), "the same weights say the same"
    assert {result.model_digest for result in results} == {DEFAULT.digest}
    assert (view.total, sum(view.counts.values()), view.state) == (5, 5, "completed")
    kinds = [event.kind for event in heard(app_db, tenant)]
    assert kinds == ["job.accepted", "job.started", "job.completed"], "nobody is told of a shadow"
    with owner_db.transaction() as session:
        assert shadow.write(session, [_again(rows[0])]) == 0, "a photo that has a row keeps it"


def _again(row: Any) -> shadow.Seen:
    return shadow.Seen(**{name: getattr(row, name) for name in shadow.Seen.__slots__} | {"label": "another"})


def test_it_looks_at_its_share_and_not_at_what_a_job_asked_of_another_model(
    begin: Begin, worker: Classification, submit_photos: Submit, owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    begin(0.5)
    job, pinned = submit_photos([photo(seed) for seed in range(12)]), submit_photos([photo(99)])
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE job SET model = :model WHERE id = :id"), {"id": pinned, "model": DEFAULT.id})
    worker.drain()
    images = [result.image_id for result in results_of(app_db, tenant, job)[1]]
    share = Serving(shadow="x", shadow_share=0.5)
    assert {row.image_id for row in seen(owner_db)} == {image for image in images if share.is_for_shadow(image)}


def test_people_who_wait_are_served_before_the_shadow_looks(
    begin: Begin, worker: Classification, models: Models, submit_photos: Submit, owner_db: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    begin()
    until(lambda: models._shadow is not None)
    by = models._shadow
    assert by is not None
    order: list[str] = []
    held: list[int] = []
    jobs: list[UUID] = []

    def look(pixels: np.ndarray[Any, Any], quality: Any) -> Any:
        if not jobs:
            jobs.append(submit_photos([photo(50)], "interactive"))
        with owner_db.transaction() as session:
            order.append(str(session.scalar(sa.text("SELECT count(*) FROM unit WHERE state = 'ready'"))))
            held.append(session.scalar(sa.text("SELECT count(*) FROM unit WHERE state = 'leased'")) or 0)
        return Classifier.classify(by, pixels, quality)

    monkeypatch.setattr(by, "classify", look)
    monkeypatch.setattr(Classification, "_batch_size", property(lambda _: 2))
    submit_photos([photo(seed) for seed in range(4)])
    assert worker.drain() == 5
    assert order[0] == "1", "it came while the shadow looked"
    assert set(order[1:]) == {"0"}, "and was answered before it looked again"
    assert set(held) == {0}, "a worker that dies over the shadow holds nothing that could be lost or suspected"
    assert len(seen(owner_db)) == 5


def test_a_shadow_that_breaks_or_whose_job_is_deleted_harms_no_answer(
    begin: Begin, worker: Classification, models: Models, submit_photos: Submit, owner_db: Database, app_db: Database,
    tenant: UUID, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    begin()
    by = models._shadow
    assert by is not None
    job = submit_photos([photo(1)])

    def delete_first(pixels: np.ndarray[Any, Any], quality: Any) -> Any:
        with app_db.transaction(tenant) as session:
            deletion.delete(session, tenant, job)
        return Classifier.classify(by, pixels, quality)

    monkeypatch.setattr(by, "classify", delete_first)
    assert worker.drain() == 1
    assert seen(owner_db) == []

    def broken(pixels: np.ndarray[Any, Any], quality: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(by, "classify", broken)
    again = submit_photos([photo(2)])
    assert worker.drain() == 1
    assert results_of(app_db, tenant, again)[0].state == "completed"
    assert seen(owner_db) == []


def test_a_shadow_becomes_live_or_is_taken_back_and_is_none_any_more(
    publish: Publish, app_db: Database, worker_db: Database
) -> None:
    second, third = publish("second"), publish("third")
    for kind, model, digest, share in (
        ("shadow", "second", second, 0.1),
        ("shadow", "third", third, 0.2),
        ("canary", "second", second, 0.3),
        ("activate", "third", third, None),
    ):
        wish(app_db, kind, model, digest, share)
        make(worker_db, DEMO)
    assert now_serving(app_db) == Serving(4, third, second, 0.3)
    wish(app_db, "shadow", "second", second, 1.0)
    make(worker_db, DEMO)
    assert now_serving(app_db) == Serving(5, third, None, 0.0, second, 1.0)
    wish(app_db, "rollback", "second", second)
    make(worker_db, DEMO)
    assert now_serving(app_db) == Serving(6, third)


def test_what_is_written_while_the_job_is_deleted_keeps_nobody_waiting_for_ever(
    begin: Begin, worker: Classification, submit_photos: Submit, worker_db: Database, owner_db: Database,
    app_db: Database, tenant: UUID,
) -> None:  # fmt: skip
    """Photos locked in two orders would be a deadlock, of which PostgreSQL ends one side."""
    begin()
    job = submit_photos([photo(seed) for seed in range(3)])
    worker.drain()
    first, *_, last = seen(owner_db)
    with owner_db.transaction() as session:
        session.execute(sa.text("DELETE FROM shadow_result"))

    def delete_it() -> None:
        with app_db.transaction(tenant) as session:
            deletion.delete(session, tenant, job)

    def somebody_waits() -> bool:
        with owner_db.transaction() as session:
            return bool(session.scalar(sa.text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")))

    with ThreadPoolExecutor(1) as pool:
        with worker_db.transaction() as session:
            shadow.write(session, [_again(last)])
            deleting = pool.submit(delete_it)
            until(somebody_waits)
            assert shadow.write(session, [_again(first)]) == 1
        deleting.result()
    assert seen(owner_db) == []
