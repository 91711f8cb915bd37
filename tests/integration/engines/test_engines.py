"""Every engine answers as Keras did when the bundle was made, and each photo alone as in any batch."""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from shared.bundle import PARITY, WEIGHTS, Bundle, load_bundle
from shared.errors import BundleAltered, EngineRefused, ParityFailed
from training.publish import write_card
from worker.inference.answers import probabilities_of
from worker.inference.classifier import Classifier, _arithmetic
from worker.inference.compiled import RECORD, machine
from worker.inference.engine import Outputs
from worker.inference.openvino_engine import OpenVinoEngine, bf16_here
from worker.inference.parity import BOUNDS
from worker.inference.preprocess import Quality
from worker.inference.weights import load_reference

Load = Callable[[str, str], Classifier]
Tell = Callable[[str, str], Outputs]
Samples = tuple[NDArray[np.uint8], list[Quality], list[dict[str, object]]]
BUILDS = [("openvino", "f32"), ("openvino", "bf16"), ("tensorflow", "f32"), ("tensorflow", "bf16")]


@pytest.fixture(autouse=True)
def _spared(request: pytest.FixtureRequest) -> None:
    """Leave TensorFlow in bf16 on a CPU, which nobody is served by, to the long form: it compiles for half a minute."""
    given = getattr(request.node, "callspec", None)
    build = (given.params.get("engine"), given.params.get("precision")) if given else None
    if build == ("tensorflow", "bf16") and not request.config.getoption("--long"):
        pytest.skip("the long form, --long, compiles TensorFlow in bf16 too")


pytestmark = [
    # TensorFlow and Keras warn about their own insides at import.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def told(bundle: Bundle, classifier: Load) -> Tell:
    """Return a function that has an engine tell of the bundle's reference photos, each engine once."""

    @cache
    def tell(engine: str, precision: str) -> Outputs:
        return classifier(engine, precision).engine.infer(load_reference(bundle).photos)

    return tell


@pytest.mark.parametrize(("engine", "precision"), BUILDS)
def test_an_engine_equals_the_parity_record(bundle: Bundle, told: Tell, engine: str, precision: str) -> None:
    reference, temperature = load_reference(bundle), float(bundle.calibration["temperature"])
    found = told(engine, precision)
    expected, given = (probabilities_of(logits, temperature) for logits in (reference.logits, found.logits))
    assert np.abs(given - expected).max() <= BOUNDS[precision]
    assert given.argmax(1).tolist() == expected.argmax(1).tolist()
    strongest = np.abs(reference.evidence).max()
    assert np.abs(found.evidence - reference.evidence).max() <= (1e-4 if precision == "f32" else 0.1) * strongest


def test_openvino_equals_tensorflow_on_photos_outside_the_record(classifier: Load, samples: Samples) -> None:
    one, other = (classifier(engine, "f32").engine.infer(samples[0][::4][:4]) for engine in ("openvino", "tensorflow"))
    assert np.abs(one.logits - other.logits).max() < 1e-4
    assert np.abs(one.features - other.features).max() < 1e-3
    assert np.abs(one.evidence - other.evidence).max() < 1e-2


@pytest.mark.parametrize(("engine", "precision"), BUILDS)
def test_the_evidence_averages_to_the_margin_of_the_logits(told: Tell, engine: str, precision: str) -> None:
    found = told(engine, precision)
    margin = found.logits[:, 0] - found.logits[:, 1]
    assert found.evidence.mean(axis=(1, 2)) == pytest.approx(margin, abs=1e-3 if precision == "f32" else 0.25)


@pytest.mark.parametrize(("engine", "precision"), BUILDS)
def test_the_same_photo_gets_the_same_answer_alone_and_in_any_batch(
    classifier: Load, samples: Samples, engine: str, precision: str
) -> None:
    loaded = classifier(engine, precision)
    pixels, qualities, _ = samples
    together = loaded.classify(pixels[:3], qualities[:3])
    alone = [loaded.classify(pixels[at : at + 1], qualities[at : at + 1])[0] for at in range(3)]
    backwards = loaded.classify(pixels[1:3][::-1], qualities[1:3][::-1])
    assert together == alone
    assert together[1:] == backwards[::-1]


def test_threads_do_not_change_an_answer(bundle: Bundle, classifier: Load, compiled: Path, samples: Samples) -> None:
    single = Classifier.load(bundle, engine="openvino", precision="f32", threads=1, cache=compiled)
    some = samples[0][:3], samples[1][:3]
    assert single.classify(*some) == classifier("openvino", "f32").classify(*some)


def test_calls_of_several_threads_overlap_and_change_no_answer(classifier: Load, samples: Samples) -> None:
    infer = classifier("openvino", "f32").engine.infer
    batches = [samples[0][at : at + size] for at, size in ((0, 3), (1, 2), (2, 1), (0, 1), (1, 2))]
    expected = [infer(batch).logits for batch in batches]
    with ThreadPoolExecutor(len(batches)) as threads:
        found = list(threads.map(lambda batch: infer(batch).logits, batches))
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one, other)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_batch_begins_while_the_one_before_it_has_every_thread(
    bundle: Bundle, compiled: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Classifier.load(bundle, engine="openvino", precision="f32", threads=1, cache=compiled).engine
    assert isinstance(engine, OpenVinoEngine)
    begin: Callable[..., None] = engine._begin
    begun: list[int] = []

    def noted(request: Any, part: NDArray[np.uint8]) -> None:
        begin(request, part)
        begun.append(len(part))

    monkeypatch.setattr(engine, "_begin", noted)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(engine.infer, np.concatenate([samples[0]] * 16)[:16])
        until(lambda: len(begun) == 1)
        second = threads.submit(engine.infer, samples[0][:2])
        # Else the thread that becomes free has nothing to do until somebody here has looked at the first.
        until(lambda: len(begun) == 2)
        assert not first.done()
        second.result()


def compiled_in(cache: Path, bundle: Bundle, engine: str) -> Path:
    return cache / bundle.digest[:16] / f"{engine}-{machine()}"


def test_a_parity_record_lies_beside_the_compiled_engine(bundle: Bundle, classifier: Load, compiled: Path) -> None:
    classifier("openvino", "f32")
    folder = compiled_in(compiled, bundle, "openvino-f32")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    assert (record["digest"], record["engine"], record["precision"]) == (bundle.digest, "openvino", "f32")
    assert record["max_difference"] <= BOUNDS["f32"]
    assert record["passed"] is True
    assert record["cpu"]
    assert list(folder.glob("*.blob"))


def blobs_of(folder: Path) -> set[tuple[str, int, int]]:
    return {(file.name, file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.glob("*.blob")}


def test_what_this_machine_compiled_and_checked_is_used_again_and_what_another_did_is_not(
    bundle: Bundle, classifier: Load, compiled: Path
) -> None:
    classifier("openvino", "f32")
    folder = compiled_in(compiled, bundle, "openvino-f32")
    first = blobs_of(folder)
    Classifier.load(bundle, engine="openvino", precision="f32", cache=compiled)
    assert first == blobs_of(folder) != set()

    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    (folder / RECORD).write_text(json.dumps({**record, "machine": "0123456789ab", "max_difference": 0.0}))
    for blob in folder.glob("*.blob"):
        blob.write_bytes(b"code for another processor")
    (folder / "more of it").touch()
    again = Classifier.load(bundle, engine="openvino", precision="f32", cache=compiled)
    assert json.loads((folder / RECORD).read_text(encoding="utf-8")) == record
    assert not (folder / "more of it").exists()
    assert all(blob.stat().st_size > 1024 for blob in folder.glob("*.blob"))
    assert np.isfinite(again.engine.infer(load_reference(bundle).photos[:1]).logits).all()


def test_half_precision_is_not_chosen_for_a_bundle_that_was_not_proved_in_it(bundle: Bundle) -> None:
    unproved = replace(bundle, calibration={**bundle.calibration, "precisions": ["f32"]})
    assert _arithmetic(unproved, "openvino") == "f32"
    assert not bf16_here() or _arithmetic(bundle, "openvino") == "bf16"


def test_openvino_refuses_an_arithmetic_it_has_not(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineRefused, match="f32 or bf16"):
        Classifier.load(bundle, engine="openvino", precision="f16", cache=tmp_path)


def test_pytorch_is_refused_where_keras_already_runs_on_tensorflow(
    bundle: Bundle, classifier: Load, tmp_path: Path
) -> None:
    classifier("tensorflow", "f32")
    with pytest.raises(EngineRefused, match="Keras already runs on tensorflow in this process"):
        Classifier.load(bundle, engine="torch", precision="f32", cache=tmp_path)


@pytest.fixture
def tampered(bundle: Bundle, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("photos"))
    return folder


def test_an_engine_that_answers_differently_is_not_served(bundle: Bundle, tampered: Path, tmp_path: Path) -> None:
    reference = load_file(tampered / PARITY)
    reference["logits"] = reference["logits"] + np.array([0.5, 0.0], dtype=np.float32)
    save_file(reference, tampered / PARITY)
    write_card(tampered, bundle.card)
    altered = load_bundle(tampered)
    with pytest.raises(ParityFailed, match="openvino in f32"):
        Classifier.load(altered, engine="openvino", precision="f32", cache=tmp_path / "cache")
    folder = compiled_in(tmp_path / "cache", altered, "openvino-f32")
    assert json.loads((folder / RECORD).read_text(encoding="utf-8"))["passed"] is False


def test_weights_that_became_unreadable_are_named(bundle: Bundle, tampered: Path, tmp_path: Path) -> None:
    (tampered / WEIGHTS).write_bytes(b"not weights")
    write_card(tampered, bundle.card)
    with pytest.raises(BundleAltered, match=WEIGHTS):
        Classifier.load(load_bundle(tampered), engine="openvino", precision="f32", cache=tmp_path / "cache")
