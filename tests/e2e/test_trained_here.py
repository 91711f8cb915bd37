"""A network trained here says the same as its training does, as its bundle does, over HTTP and in a signed webhook.

The whole way in one file: a network is trained, its bundle is loaded by every engine that this machine has, published
to a running service, and asked of photos that it never saw, over HTTP and by a webhook; each answer is held against
what the very network that was trained says of that photo in the process that trained it.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from standardwebhooks.webhooks import Webhook

from shared.bundle import CALIBRATION, CARD, WEIGHTS, Bundle, load_bundle
from shared.processors import processors
from tests.e2e.conftest import ROOT, Running, environment, until
from tests.e2e.trained_here import HELD_OUT, ID, PHOTOS, SAID
from training.casting import photos as photos_of
from training.pictures import look_at_all
from training.publish import write_card
from training.quantise import quantise
from training.rounding import convolutions_of, from_convolution
from training.runs import BUNDLE, FACTS
from training.synthesis import synthesise
from worker.inference.answers import probabilities_of, temperature_of
from worker.inference.classifier import Classifier
from worker.inference.compiled import processor_name
from worker.inference.openvino_engine import bf16_here, int8_here
from worker.inference.openvino_int8 import counted_resnet50
from worker.inference.parity import BOUNDS
from worker.inference.weights import load_weights

SECONDS = 120
Table = NDArray[np.float64]
#: What NNCF finds of the network that this training begins with.
RANGES = ROOT / "tests" / "integration" / "engines" / "int8_ranges.json"
TORCH = """
import sys
from pathlib import Path
import numpy as np
from shared.bundle import load_bundle
from worker.inference.classifier import Classifier
from worker.inference.compiled import processor_name
out = Path(sys.argv[2])
engine = Classifier.load(load_bundle(Path(sys.argv[1])), engine="torch", precision="f32", cache=out).engine
np.save(out / "logits.npy", engine.infer(np.load(out / "pixels.npy")).logits)
"""


class Trained:
    """What training left: its bundle, held-out photos, and what is said of them, probabilities [n, labels].

    `said`: the network that was trained, with its weights as they were stored; `learnt`: with those of the last step;
    `by_tensorflow`: the bundle in that engine.
    """

    def __init__(self, folder: Path) -> None:
        self.bundle: Bundle = load_bundle(folder / "run" / BUNDLE)
        self.facts: dict[str, Any] = json.loads((folder / "run" / FACTS).read_text(encoding="utf-8"))
        with np.load(folder / SAID) as found:
            names = [str(name) for name in found["photos"]]
            self.learnt, self.said, self.by_tensorflow = (found[by] for by in ("learnt", "stored", "tensorflow"))
        self.photos = [folder / PHOTOS / name for name in names]
        self.pixels, _ = look_at_all(folder / PHOTOS, names)

    def agrees(self, found: Table, bound: float) -> None:
        """Hold probabilities [n, labels] of the held-out photos against those of the training process."""
        assert found.shape == self.said.shape == (len(self.photos), len(self.bundle.labels))
        assert float(np.abs(found - self.said).max()) <= bound
        assert found.argmax(axis=1).tolist() == self.said.argmax(axis=1).tolist()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-m", "tests.e2e.trained_here", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Trained(folder)


@pytest.fixture(scope="module")
def quantised(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """Return the bundle with a record for int8, eleven convolutions exact, at float32's temperature."""
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    shutil.copytree(trained.bundle.path, folder, ignore=shutil.ignore_patterns(WEIGHTS))
    (folder / WEIGHTS).symlink_to(trained.bundle.path / WEIGHTS)
    places = convolutions_of(counted_resnet50(load_weights(trained.bundle)))
    ranges = from_convolution(places, json.loads(RANGES.read_text(encoding="utf-8")), 11)
    stored = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    admitted = {"agreement": 1.0, "max_probability_difference": 0.0}  # by hand: the test below measures
    stored |= {"precisions": [*stored["precisions"], "int8"], "int8": {"ranges": ranges, "record": admitted}}
    (folder / CALIBRATION).write_text(json.dumps(stored), encoding="utf-8")
    write_card(folder, json.loads((folder / CARD).read_text(encoding="utf-8")))
    yield load_bundle(folder)
    shutil.rmtree(folder)


def asked(trained: Trained, bundle: Bundle, precision: str, cache: Path) -> Table:
    engine = Classifier.load(bundle, engine="openvino", precision=precision, cache=cache).engine
    assert (engine.name, engine.precision) == ("openvino", precision)
    return probabilities_of(engine.infer(trained.pixels).logits, temperature_of(bundle, precision))


def table(results: list[dict[str, Any]], labels: tuple[str, ...]) -> Table:
    """The probabilities [n, labels] of results in the order of their photos."""
    in_order = sorted(results, key=lambda result: int(result["ordinal"]))
    return np.array([[result["probabilities"][label] for label in labels] for result in in_order])


def test_photos_tell_the_networks_apart(trained: Trained) -> None:
    """Else an answer of another network, or of another photo, would pass for the right one."""
    assert trained.said.max(axis=0).min() > 0.6
    assert len(trained.photos) == len(photos_of(HELD_OUT)) > 6
    assert np.unique(trained.said.round(4), axis=0).shape[0] == len(trained.photos)


def test_the_run_says_what_it_was_computed_with(trained: Trained) -> None:
    assert {"tensorflow", "keras", "numpy", "openvino"} <= set(trained.facts["versions"])
    assert all(version[0].isdigit() for version in trained.facts["versions"].values())
    assert processor_name() in trained.facts["hardware"]
    assert f"{processors()} cores" in trained.facts["hardware"]


def test_storing_the_network_rounds_it_and_changes_no_label(trained: Trained) -> None:
    trained.agrees(trained.learnt, BOUNDS["bf16"])
    assert not np.array_equal(trained.learnt, trained.said)


def test_the_exported_network_agrees_in_tensorflow(trained: Trained) -> None:
    trained.agrees(trained.by_tensorflow, BOUNDS["f32"])


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_exported_network_agrees_in_openvino(trained: Trained, precision: str, tmp_path: Path) -> None:
    if precision == "bf16" and not bf16_here():
        pytest.skip("this processor has no bf16")
    trained.agrees(asked(trained, trained.bundle, precision, tmp_path), BOUNDS[precision])


def test_the_exported_network_agrees_in_int8(trained: Trained, quantised: Bundle, tmp_path: Path) -> None:
    if not int8_here():
        pytest.skip("this processor has no int8")
    found = asked(trained, quantised, "int8", tmp_path)
    trained.agrees(found, BOUNDS["int8"])
    assert float(np.abs(found - trained.said).max()) > BOUNDS["f32"], "it was rounded"


def test_the_exported_network_agrees_as_it_is_quantised(
    trained: Trained, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("the long form, --long, has NNCF look at photos: twenty seconds of a processor")
    pytest.importorskip("nncf")
    if not int8_here():
        pytest.skip("this processor has no int8")
    photos, out = tmp_path / "photos", tmp_path / "bundle"
    synthesise(type(HELD_OUT)(layout="msld-v1", patients=10, copies=0, seed=99), photos)
    record = quantise(trained.bundle.path, photos, out, "trained-here-int8", fewest=4)
    bundle = load_bundle(out)
    assert temperature_of(bundle, "int8") == record["temperature"] != trained.bundle.calibration["temperature"]
    engine = Classifier.load(bundle, engine="openvino", precision="int8", cache=tmp_path).engine
    # Its own temperature is fitted anew, on other photos; the arithmetic is compared at that of float32.
    logits = engine.infer(trained.pixels).logits
    trained.agrees(probabilities_of(logits, temperature_of(trained.bundle, "f32")), BOUNDS["int8"])


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_exported_network_agrees_in_pytorch(trained: Trained, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", trained.pixels)
    command = [sys.executable, "-c", TORCH, str(trained.bundle.path), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    logits = np.load(tmp_path / "logits.npy")
    trained.agrees(probabilities_of(logits, temperature_of(trained.bundle, "f32")), BOUNDS["f32"])


def test_the_service_agrees_over_http_and_in_a_signed_webhook(trained: Trained, running: Running) -> None:
    published = running.run("models", "publish", str(trained.bundle.path))
    assert published.exit_code == 0, published.stderr
    options = {"model": ID, "webhook": {"url": f"http://{running.listener}/trained", "detail": "full"}}
    files = [("photos", (photo.name, photo.read_bytes(), "image/jpeg")) for photo in trained.photos]
    with httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {running.key}"}, timeout=60) as client:
        sent = client.post("/v1/jobs", data={"job": json.dumps(options)}, files=files)
        assert sent.status_code == 202, sent.text
        job, secret = sent.json()["id"], sent.json()["webhook"]["secret"]
        assert until(lambda: bool(client.get(f"/v1/jobs/{job}").json()["closed_at"]), SECONDS)
        results = client.get(f"/v1/jobs/{job}/results").json()["results"]
        alone = [client.get(f"/v1/images/{one['image']}").json() for one in results]
    done = f"job.completed {job}"
    assert until(lambda: done in running.heard, SECONDS)
    headers, body = running.heard[done]
    told = Webhook(secret).verify(body, headers)["data"]
    assert told["results_complete"] is True
    for answers in (results, alone, told["results"]):
        assert {(one["model"]["id"], one["model"]["digest"]) for one in answers} == {(ID, trained.bundle.digest)}
        assert [one["label"] for one in sorted(answers, key=lambda one: int(one["ordinal"]))] == [
            trained.bundle.labels[at] for at in trained.said.argmax(axis=1)
        ]
        # The service of these tests computes in float32.
        trained.agrees(table(answers, trained.bundle.labels), BOUNDS["f32"])
