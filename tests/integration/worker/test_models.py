"""Models change while photos are answered: no job fails, and each answer names a model that was live."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import load_file, save_file

from shared.bundle import CALIBRATION, CARD, PARITY, WEIGHTS, Bundle, load_bundle
from shared.database import Database, new_id
from shared.errors import BundleMissing, Conflict
from shared.registry import bundles, changes, records, serving
from shared.registry.changes import Named
from shared.registry.serving import Serving
from shared.settings import Settings
from shared.storage import Storage
from shared.webhooks import Recorded
from tests.integration.worker.conftest import BUNDLE, Remembering, Submit, photo, until
from tests.integration.worker.test_classification import results_of
from training.publish import write_card
from worker.classification import Classification
from worker.examiner import Examiner
from worker.inference.answers import Calibration
from worker.inference.classifier import Classifier
from worker.models import ModelAway, Models
from worker.node_cache import Room
from worker.photos import PhotoReader

DEFAULT = load_bundle(BUNDLE)
DEMO = Named(DEFAULT.id, DEFAULT.digest)
# The long form: POXVISIO_TEST_SWAPS=100.
SWAPS = int(os.environ.get("POXVISIO_TEST_SWAPS", "3"))
PASSED = {"passed": True}

MakeBundle = Callable[..., Bundle]
Publish = Callable[..., str]
Load = Callable[[Bundle], Classifier]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Return a function that makes bundles like the demo's, under other ids; ``moved`` ones answer otherwise.

    Those that no engine is to load hold few bytes in place of the weights, which many tests carry to and fro.
    """

    def run(model_id: str, *, loadable: bool = False, moved: float = 0.0) -> Bundle:
        folder = tmp_path / "made" / model_id
        shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("photos", *(() if loadable else (WEIGHTS,))))
        if not loadable:
            (folder / WEIGHTS).write_bytes(b"no weights")
        said = json.loads((folder / CALIBRATION).read_text(encoding="utf-8")) | {"id": model_id}
        (folder / CALIBRATION).write_text(json.dumps(said), encoding="utf-8")
        if moved:
            reference = load_file(folder / PARITY)
            save_file(
                {**reference, "logits": reference["logits"] + np.array([moved, 0.0], dtype=np.float32)}, folder / PARITY
            )
        write_card(folder, json.loads((folder / CARD).read_text(encoding="utf-8")) | {"id": model_id})
        return load_bundle(folder)

    return run


@pytest.fixture
def publish(make_bundle: MakeBundle, app_db: Database, worker_db: Database, storage: Storage) -> Publish:
    """Return a function that publishes a bundle and lets it pass, unless told otherwise; it returns the digest."""

    def run(model_id: str, *, checked: bool = True, loadable: bool = False, moved: float = 0.0) -> str:
        bundle = make_bundle(model_id, loadable=loadable, moved=moved)
        size = bundles.store(storage, bundle)
        with app_db.transaction() as session:
            records.publish(session, bundle, size, None)
        if checked:
            with worker_db.transaction() as session:
                check = records.take_check(session)
                assert check is not None
                assert records.decide(session, check, PASSED)
        return bundle.digest

    return run


@pytest.fixture(scope="module")
def load(network: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return a function that loads networks, each but once: most tests publish the same one under other ids."""
    compiled = tmp_path_factory.mktemp("compiled")

    def what(bundle: Bundle) -> tuple[str, str]:
        return bundle.card["files"][WEIGHTS], bundle.card["files"][PARITY]

    engines = {what(DEFAULT): network.engine}

    def run(bundle: Bundle) -> Classifier:
        if bundle.digest != DEFAULT.digest:
            time.sleep(0.3)  # as a network takes: photos are answered meanwhile
        if what(bundle) not in engines:
            loaded = Classifier.load(bundle, engine="openvino", precision="f32", cache=compiled)
            engines[what(bundle)] = Remembering(loaded.engine)
        return Classifier(bundle, engines[what(bundle)], Calibration.of(bundle))

    return run


@pytest.fixture
def models(settings: Settings, worker_db: Database, storage: Storage, tmp_path: Path, load: Load) -> Iterator[Models]:
    """Return the networks of a worker that keeps no more than it needs, so that every change asks for one."""
    found = Models(worker_db, storage, default=settings.model, cache=tmp_path / "cache", kept=1, load=load)
    found.start()
    yield found
    found.close()


@pytest.fixture
def worker(settings: Settings, worker_db: Database, storage: Storage, models: Models) -> Iterator[Classification]:
    own = settings.model_copy(update={"decoders": 1})
    made = Classification(
        settings=own,
        database=worker_db,
        storage=storage,
        models=models,
        photos=PhotoReader(own, storage),
        holder="host/1/1",
    )
    yield made
    made.close()


def wish(app_db: Database, kind: str, model: str, digest: str | None, share: float | None = None) -> None:
    with app_db.transaction() as session:
        changes.ask(session, kind, model, digest, share=share)


def now_serving(database: Database) -> Serving:
    with database.transaction() as session:
        return serving.read(session)


@pytest.mark.timeout(180 + 30 * SWAPS)
def test_models_change_under_load_without_a_failed_job_and_each_answer_names_one_that_was_live(
    worker: Classification, models: Models, publish: Publish, submit_photos: Submit, app_db: Database,
    worker_db: Database, tenant: UUID,
) -> None:  # fmt: skip
    second, third = publish("second", loadable=True), publish("third", loadable=True)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            worker.drain()
            ended.wait(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    jobs: list[tuple[UUID, set[str]]] = []
    was = DEFAULT.digest
    try:
        for number in range(SWAPS):
            digest = (second, third)[number % 2]
            jobs.append((submit_photos([photo(seed) for seed in range(4)]), {was, digest}))
            wish(app_db, "activate", "a model", digest)
            assert changes.make(worker_db, DEMO) == 1
            jobs.append((submit_photos([photo(0)], "interactive"), {was, digest}))
            version = now_serving(worker_db).version
            models.heed(version)
            until(lambda digest=digest: models.live.bundle.digest == digest, 120)  # type: ignore[misc]
            jobs.append((submit_photos([photo(1)], "interactive"), {digest}))
            last = jobs[-1][0]
            until(lambda last=last: results_of(app_db, tenant, last)[0].is_closed, 120)  # type: ignore[misc]
            was = digest
        until(lambda: all(results_of(app_db, tenant, job)[0].is_closed for job, _ in jobs))
    finally:
        ended.set()
        thread.join()
    for job, allowed in jobs:
        view, results = results_of(app_db, tenant, job)
        assert view.state == "completed"
        assert {result.outcome for result in results} <= {"classified", "abstained"}
        assert {result.model_digest for result in results} <= allowed
    assert {result.model_digest for job, _ in jobs for result in results_of(app_db, tenant, job)[1]} >= {second, third}


def test_a_job_that_asks_for_a_model_is_answered_by_it_and_others_by_what_is_live(
    worker: Classification, publish: Publish, submit_photos: Submit, owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    second = publish("second", loadable=True)
    asked, other = submit_photos([photo(1), photo(2)]), submit_photos([photo(3)])
    gone = submit_photos([photo(4)])
    with owner_db.transaction() as session:
        for job, model in ((asked, "second"), (gone, "no-such-model")):
            session.execute(sa.text("UPDATE job SET model = :model WHERE id = :id"), {"id": job, "model": model})
    worker.drain()
    digests = [{result.model_digest for result in results_of(app_db, tenant, job)[1]} for job in (asked, other, gone)]
    assert digests == [{second}, {DEFAULT.digest}, set()]
    with owner_db.transaction() as session:
        states = session.execute(sa.text("SELECT state FROM unit WHERE job_id = :id"), {"id": gone}).scalars()
        assert set(states) - {"split"} == {"waiting"}, "it is tried again later, and nothing is made up"


def test_a_canary_answers_its_share_of_jobs_and_always_the_same(
    worker: Classification, models: Models, publish: Publish, submit_photos: Submit, app_db: Database,
    worker_db: Database, tenant: UUID,
) -> None:  # fmt: skip
    second = publish("second", loadable=True)
    wish(app_db, "canary", "second", second, 0.5)
    changes.make(worker_db, DEMO)
    models.heed(1)
    until(lambda: models.serving.version == 1)
    jobs = [submit_photos([photo(1)]) for _ in range(24)]
    worker.drain()
    expected = {job: second if serving.draw(job) < 0.5 else DEFAULT.digest for job in jobs}
    answered = {job: results_of(app_db, tenant, job)[1][0].model_digest for job in jobs}
    assert answered == expected
    assert set(answered.values()) == {second, DEFAULT.digest}


def test_a_share_is_what_it_says() -> None:
    serves = Serving(1, None, "x", 0.2)
    found = sum(serves.is_for_canary(new_id()) for _ in range(5000))
    assert 850 < found < 1150  # seven standard errors either way
    assert not any(Serving(1, None, "x", 0.0).is_for_canary(new_id()) for _ in range(100))


def test_a_model_that_cannot_be_loaded_replaces_none_that_answers(
    worker: Classification, models: Models, publish: Publish, submit_photos: Submit, app_db: Database,
    worker_db: Database, storage: Storage, tenant: UUID,
) -> None:  # fmt: skip
    second = publish("second")
    storage.delete([bundles.bundle_key(second, "weights.safetensors")])
    wish(app_db, "activate", "second", second)
    changes.make(worker_db, DEMO)
    job = submit_photos([photo(1)])
    models.heed(1)
    until(lambda: models.problem is not None)
    worker.drain()
    [result] = results_of(app_db, tenant, job)[1]
    assert result.model_digest == DEFAULT.digest
    assert "weights.safetensors" in str(models.problem)


def test_every_tenant_with_a_feed_hears_of_the_change_once_and_a_rollback_brings_back_what_was(
    publish: Publish, submit_photos: Submit, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    second = publish("second")
    submit_photos([photo(1)])
    wish(app_db, "activate", "second", second)
    assert changes.make(worker_db, DEMO) == 1
    assert changes.make(worker_db, DEMO) == 0
    assert now_serving(app_db) == Serving(1, second)
    wish(app_db, "rollback", "second", second)
    changes.make(worker_db, DEMO)
    assert now_serving(app_db) == Serving(2, None)
    told = [event.body for event in heard(app_db, tenant) if event.kind == "model.activated"]
    assert [(body["from"]["digest"], body["model"]["digest"]) for body in told] == [
        (DEFAULT.digest, second),
        (second, DEFAULT.digest),
    ]


def heard(app_db: Database, tenant: UUID) -> list[Recorded]:
    from shared import events

    with app_db.transaction(tenant) as session:
        return events.since(session, 0)


def test_a_change_waits_for_the_check_and_one_change_waits_at_a_time(
    publish: Publish, app_db: Database, worker_db: Database
) -> None:
    second = publish("second", checked=False)
    wish(app_db, "activate", "second", second)
    assert changes.make(worker_db, DEMO) == 0
    assert now_serving(app_db) == Serving()
    with pytest.raises(Conflict):
        wish(app_db, "canary", "second", second, 0.5)
    wish(app_db, "rollback", "second", second)
    changes.make(worker_db, DEMO)
    with app_db.transaction() as session:
        states = [(change.kind, change.state) for change in changes.history(session)]
    assert states == [("rollback", "applied"), ("activate", "refused")]


def test_the_check_refuses_a_bundle_that_answers_otherwise(
    settings: Settings, publish: Publish, app_db: Database, worker_db: Database, storage: Storage, tmp_path: Path
) -> None:
    """One that passes: ``test_six_labels``."""
    bad = publish("third", checked=False, loadable=True, moved=0.5)
    own = settings.model_copy(update={"cache_dir": tmp_path / "cache", "engine": "openvino", "precision": "f32"})
    examiner = Examiner(own, worker_db, storage)
    assert examiner.work_once()
    assert not examiner.work_once()
    with app_db.transaction() as session:
        refused = records.find(session, "third")
    assert refused.state == "refused"
    assert "differs from the reference" in str(refused.problem)
    wish(app_db, "activate", "third", bad)
    changes.make(worker_db, DEMO)
    assert now_serving(app_db) == Serving()


def test_a_check_whose_fence_was_lost_decides_nothing(
    publish: Publish, owner_db: Database, worker_db: Database
) -> None:
    publish("second", checked=False)
    with worker_db.transaction() as session:
        first = records.take_check(session)
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE model SET lease_until = now() - interval '1 s'"))
    with worker_db.transaction() as session:
        again = records.take_check(session)
        assert first is not None
        assert again is not None
        assert not records.decide(session, first, PASSED)
        assert records.decide(session, again, {"passed": False, "problem": "x"})


def test_a_nodes_altered_copy_is_brought_again_and_a_half_one_never_shows(
    publish: Publish, storage: Storage, tmp_path: Path
) -> None:
    digest = publish("second")
    copy = bundles.fetch(storage, digest, tmp_path / "node")
    (copy.path / PARITY).write_bytes(b"altered")
    assert bundles.fetch(storage, digest, tmp_path / "node").digest == digest
    storage.delete([bundles.bundle_key(digest, PARITY)])
    with pytest.raises(BundleMissing):
        bundles.fetch(storage, digest, tmp_path / "other")
    assert list((tmp_path / "other" / "bundles").iterdir()) == []


def test_what_serves_or_is_asked_for_stays_on_the_node_and_the_rest_goes(
    settings: Settings, publish: Publish, submit_photos: Submit, owner_db: Database, app_db: Database,
    worker_db: Database, storage: Storage, classifier: Classifier, tmp_path: Path,
) -> None:  # fmt: skip
    cache = tmp_path / "node"
    digests = {name: publish(name) for name in ("live", "canary", "pinned", "spare", "idle")}
    for digest in digests.values():
        bundles.fetch(storage, digest, cache)
    for kind, share in (("activate", None), ("canary", 0.1)):
        name = "live" if kind == "activate" else "canary"
        wish(app_db, kind, name, digests[name], share)
        changes.make(worker_db, DEMO)
    job = submit_photos([photo(1)])
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE job SET model = 'pinned' WHERE id = :id"), {"id": job})
    room = Room(models=1, bytes=1, seconds=0.0)
    one = Models(worker_db, storage, default=settings.model, cache=cache, kept=1, load=lambda _: classifier, room=room)
    one.start()
    until(lambda: len(list((cache / "bundles").iterdir())) == 3)
    one.close()
    kept = {path.name for path in (cache / "bundles").iterdir()}
    assert kept == {digests[name] for name in ("live", "canary", "pinned")}


def test_an_id_is_given_once(publish: Publish, make_bundle: MakeBundle, app_db: Database, tmp_path: Path) -> None:
    publish("second")
    shutil.rmtree(tmp_path / "made" / "second")
    other = make_bundle("second", moved=0.25)
    with pytest.raises(Conflict, match="given once"), app_db.transaction() as session:
        records.publish(session, other, 1, None)


def test_a_model_that_is_gone_is_away_and_not_another(models: Models) -> None:
    with pytest.raises(ModelAway):
        until(lambda: models._asked_for("no-such-model") is not None)
