"""Keras on PyTorch answers as the bundle's reference does, in a process of its own: Keras has one library a process."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.bundle import Bundle
from worker.inference.answers import probabilities_of
from worker.inference.classifier import Classifier
from worker.inference.parity import BOUNDS
from worker.inference.preprocess import Quality
from worker.inference.weights import load_reference

Samples = tuple[NDArray[np.uint8], list[Quality], list[dict[str, object]]]
Found = dict[str, NDArray[Any]]
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")

ANSWERS = """
import sys
from dataclasses import asdict
import json
import numpy as np
from pathlib import Path
from shared.bundle import load_bundle
from worker.inference.classifier import Classifier
from worker.inference.preprocess import Quality
from worker.inference.weights import load_reference
bundle, precision, out = load_bundle(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
loaded = Classifier.load(bundle, engine="torch", precision=precision, cache=out)
photos = np.load(out / "photos.npy")
reference = loaded.engine.infer(load_reference(bundle).photos)
sample = loaded.engine.infer(photos)
fit = Quality(blur=500.0, exposure=0.5, size=400, flat=30.0)
ask = lambda some: [asdict(answer) for answer in loaded.classify(some, [fit] * len(some))]
answers = {
    "engine": [loaded.engine.name, loaded.engine.precision],
    "imported": sorted({"tensorflow", "torch", "keras"} & set(sys.modules)),
    "together": ask(photos),
    "alone": [ask(photos[at : at + 1])[0] for at in range(len(photos))],
    "backwards": ask(photos[::-1])[::-1],
}
(out / "answers.json").write_text(json.dumps(answers))
np.savez(out / "found.npz", logits=reference.logits, evidence=reference.evidence, sample_logits=sample.logits,
         sample_evidence=sample.evidence, sample_features=sample.features)
"""


def fresh(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)


@pytest.fixture(scope="module")
def torch_answers(
    bundle: Bundle, samples: Samples, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Found, dict[str, Any]]]:
    """Return a function that lets PyTorch answer in a process of its own, once for each precision."""

    @cache
    def run(precision: str) -> tuple[Found, dict[str, Any]]:
        out = tmp_path_factory.mktemp(precision)
        np.save(out / "photos.npy", samples[0][:5])
        done = fresh(ANSWERS, bundle.path, precision, out)
        assert done.returncode == 0, done.stderr
        with np.load(out / "found.npz") as found:
            return dict(found), json.loads((out / "answers.json").read_text(encoding="utf-8"))

    return run


Answers = Callable[[str], tuple[Found, dict[str, Any]]]


@needs_torch
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_pytorch_equals_the_parity_record(bundle: Bundle, torch_answers: Answers, precision: str) -> None:
    reference, temperature = load_reference(bundle), float(bundle.calibration["temperature"])
    found, said = torch_answers(precision)
    assert said["engine"] == ["torch", precision]
    expected, given = (probabilities_of(logits, temperature) for logits in (reference.logits, found["logits"]))
    assert np.abs(given - expected).max() <= BOUNDS[precision]
    assert given.argmax(1).tolist() == expected.argmax(1).tolist()
    strongest = np.abs(reference.evidence).max()
    assert np.abs(found["evidence"] - reference.evidence).max() <= (1e-4 if precision == "f32" else 0.1) * strongest


@needs_torch
def test_pytorch_equals_openvino_on_photos_outside_the_record(
    classifier: Callable[[str, str], Classifier], torch_answers: Answers, samples: Samples
) -> None:
    found, _ = torch_answers("f32")
    other = classifier("openvino", "f32").engine.infer(samples[0][:5])
    assert np.abs(found["sample_logits"] - other.logits).max() < 1e-4
    assert np.abs(found["sample_features"] - other.features).max() < 1e-3
    assert np.abs(found["sample_evidence"] - other.evidence).max() < 1e-2


@needs_torch
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_same_photo_gets_the_same_answer_alone_and_in_any_batch(torch_answers: Answers, precision: str) -> None:
    _, said = torch_answers(precision)
    assert said["together"] == said["alone"] == said["backwards"]


@needs_torch
def test_answering_with_pytorch_imports_no_tensorflow(torch_answers: Answers) -> None:
    assert torch_answers("f32")[1]["imported"] == ["keras", "torch"]


@needs_torch
def test_auto_takes_float32_where_pytorch_sees_no_gpu(bundle: Bundle, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
import torch
from shared.bundle import load_bundle
from worker.inference.classifier import Classifier
loaded = Classifier.load(load_bundle(Path(sys.argv[1])), engine="torch", cache=Path(sys.argv[2]))
print(loaded.engine.precision, torch.cuda.is_available())
"""
    done = fresh(program, bundle.path, tmp_path)
    assert done.returncode == 0, done.stderr
    precision, gpu = done.stdout.split()[-2:]
    assert gpu == "True" or precision == "f32"


REFUSED = """
import os, sys
from pathlib import Path
from shared.bundle import load_bundle
from shared.errors import EngineRefused
from worker.inference.classifier import Classifier
{before}
try:
    Classifier.load(load_bundle(Path(sys.argv[1])), engine=sys.argv[3], precision="f32", cache=Path(sys.argv[2]))
except EngineRefused as error:
    print(error)
"""


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_a_missing_pytorch_is_named_with_its_remedy(bundle: Bundle, tmp_path: Path) -> None:
    done = fresh(REFUSED.format(before=""), bundle.path, tmp_path, "torch")
    assert "PyTorch is not installed: install the extra poxvisio[torch]." in done.stdout, done.stderr


@needs_torch
def test_tensorflow_is_refused_where_keras_already_runs_on_pytorch(bundle: Bundle, tmp_path: Path) -> None:
    before = "os.environ['KERAS_BACKEND'] = 'torch'; import keras"
    done = fresh(REFUSED.format(before=before), bundle.path, tmp_path, "tensorflow")
    assert "Keras already runs on torch in this process" in done.stdout, done.stderr
