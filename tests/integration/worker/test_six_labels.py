"""A bundle of six labels is served by the same code: published, examined, and asked by the worker over the ledger."""

from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from shared.bundle import Bundle, load_bundle
from shared.database import Database
from shared.registry import bundles, records
from shared.settings import Settings
from shared.storage import Storage
from tests.integration.worker.conftest import Submit, Worker
from tests.integration.worker.test_classification import results_of
from training.novelty import fit_neighbours
from training.publish import write_bundle
from training.served import exact_engine, run
from training.synthetic import jpeg, patient, render
from worker.examiner import Examiner
from worker.inference.classifier import Classifier
from worker.inference.preprocess import Quality
from worker.inference.weights import load_reference, load_weights

LABELS = ("mpox", "chickenpox", "measles", "cowpox", "HFMD", "healthy")
FIT = Quality(blur=500.0, exposure=0.5, size=400, flat=30.0)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("six")
    demo = load_bundle(Path(__file__).parents[3] / "models" / "demo")
    weights = load_weights(demo)
    draws = np.random.default_rng(4)
    stored = {
        **{
            name: value.astype(np.float16) if name.endswith("_conv/kernel") else value
            for name, value in weights.items()
        },
        "head/kernel": draws.normal(0, 0.5, (2048, 6)).astype(np.float32),
        "head/bias": np.zeros(6, dtype=np.float32),
    }
    photos = load_reference(demo).photos[:4]
    cache = folder / "cache"
    cache.mkdir()
    outputs = run(exact_engine({k: v.astype(np.float32) for k, v in stored.items()}, photos, cache), photos)
    identity = {"id": "six", "labels": list(LABELS), "clinical": False, "synthetic": True}
    calibration = {
        **identity, "temperature": 1.0, "thresholds": dict.fromkeys(LABELS, 0.5), "precisions": ["f32"],
        "gate": {"limit": 10.0},
        "quality_limits": {"blur": 0.0, "darkest": 0.0, "brightest": 1.0, "size": 1, "flat": 0.0},
    }  # fmt: skip
    write_bundle(
        folder / "bundle", weights=stored, calibration=calibration,
        gate=fit_neighbours(outputs.features, np.zeros(len(photos), dtype=np.int64)),
        parity={"photos": photos, "logits": outputs.logits, "evidence": outputs.evidence}, card=identity,
    )  # fmt: skip
    return folder / "bundle"


@pytest.fixture(scope="module")
def loaded(six: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    bundle: Bundle = load_bundle(six)
    assert bundle.labels == LABELS
    return Classifier.load(bundle, engine="openvino", precision="f32", cache=tmp_path_factory.mktemp("cache"))


def test_six_labels_are_answered_with_six_probabilities_and_a_set_of_one(loaded: Classifier) -> None:
    photos = np.stack([render(patient(3, 0, number), 1) for number in range(3)])
    answers = loaded.classify(photos, [FIT] * 3)
    for answer in answers:
        assert list(answer.probabilities) == list(LABELS)
        assert sum(answer.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        assert answer.label == max(answer.probabilities, key=lambda name: answer.probabilities[name])
        assert (answer.outcome == "classified") == (answer.prediction_set == [answer.label])
        assert len(answer.evidence) == 49


def test_a_job_is_answered_with_six_labels_each_photo_with_its_prediction_set(
    loaded: Classifier, make_worker: Worker, submit_photos: Submit, app_db: Database, tenant: UUID
) -> None:
    job = submit_photos([jpeg(render(patient(3, 0, number), 1)) for number in range(3)])
    make_worker(network=loaded).drain()
    view, results = results_of(app_db, tenant, job)
    assert (view.state, len(results)) == ("completed", 3)
    for result in results:
        assert result.outcome in {"classified", "abstained"}
        assert result.answer is not None
        p, said = result.answer["probabilities"], result.answer["prediction_set"]
        assert set(p) == set(LABELS)
        assert set(said) == {name for name in LABELS if p[name] >= 0.5}
        assert result.outcome != "classified" or said == [result.label]


def test_a_bundle_of_six_labels_is_published_and_passes_its_examination(
    six: Path, settings: Settings, app_db: Database, worker_db: Database, storage: Storage, tmp_path: Path
) -> None:
    bundle = load_bundle(six)
    with app_db.transaction() as session:
        records.publish(session, bundle, bundles.store(storage, bundle), None)
    own = settings.model_copy(update={"cache_dir": tmp_path / "cache", "engine": "openvino", "precision": "f32"})
    assert Examiner(own, worker_db, storage).work_once()
    with app_db.transaction() as session:
        found = records.find(session, "six")
    assert (found.state, found.problem) == ("ready", None)
    assert found.verdict is not None
    assert found.verdict["known_answers"] == 4
