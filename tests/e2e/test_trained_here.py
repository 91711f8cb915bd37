"""A network trained here says the same as its training does, as its bundle does, over HTTP and in a webhook.

The whole way in one test: photos are trained on, the bundle is published to a running service, the same files are
sent to it, and each answer is held against what Keras made of that photo in the process that trained.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from shared.bundle import Bundle, load_bundle
from tests.e2e.conftest import ROOT, Running, environment, until
from tests.e2e.trained_here import ASKED, ID
from training.pictures import look_at_all
from training.runs import BUNDLE
from worker.inference.answers import probabilities_of, temperature_of
from worker.inference.classifier import Classifier
from worker.inference.openvino_engine import bf16_here
from worker.inference.parity import BOUNDS

SECONDS = 120
Table = NDArray[np.float64]


class Trained:
    """What training left: photos, bundle, and the probabilities [n, labels] that Keras gives the photos."""

    def __init__(self, folder: Path) -> None:
        self.bundle: Bundle = load_bundle(folder / "run" / BUNDLE)
        with np.load(folder / "said.npz") as said:
            names = [str(name) for name in said["photos"]]
            self.said: Table = said["probabilities"]
        self.photos = [folder / "photos" / name for name in names]
        self.pixels, _ = look_at_all(folder / "photos", names)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-m", "tests.e2e.trained_here", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Trained(folder)


def strays(found: Table, said: Table) -> float:
    assert found.shape == said.shape
    return float(np.abs(found - said).max())


def table(results: list[dict[str, Any]], labels: tuple[str, ...]) -> Table:
    """The probabilities [n, labels] of results in the order of their photos."""
    in_order = sorted(results, key=lambda result: int(result["ordinal"]))
    return np.array([[result["probabilities"][label] for label in labels] for result in in_order])


def test_photos_tell_the_networks_apart(trained: Trained) -> None:
    """Else an answer of another network, or of another photo, would pass for the right one."""
    assert trained.said.max(axis=0).min() > 0.6
    assert np.unique(trained.said.round(4), axis=0).shape[0] == ASKED


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_exported_network_agrees_with_the_one_that_was_trained(
    trained: Trained, precision: str, tmp_path: Path
) -> None:
    if precision == "bf16" and not bf16_here():
        pytest.skip("this processor has no bf16")
    engine = Classifier.load(trained.bundle, engine="openvino", precision=precision, cache=tmp_path).engine
    found = probabilities_of(engine.infer(trained.pixels).logits, temperature_of(trained.bundle, precision))
    assert strays(found, trained.said) <= BOUNDS[precision]
    assert (found.argmax(axis=1) == trained.said.argmax(axis=1)).all()


def test_the_service_agrees_over_http_and_in_a_webhook(trained: Trained, running: Running) -> None:
    published = running.run("models", "publish", str(trained.bundle.path))
    assert published.exit_code == 0, published.stderr
    options = {"model": ID, "webhook": {"url": f"http://{running.listener}/trained", "detail": "full"}}
    files = [("photos", (photo.name, photo.read_bytes(), "image/jpeg")) for photo in trained.photos]
    with httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {running.key}"}, timeout=60) as client:
        sent = client.post("/v1/jobs", data={"job": json.dumps(options)}, files=files)
        assert sent.status_code == 202, sent.text
        job = sent.json()["id"]
        assert until(lambda: bool(client.get(f"/v1/jobs/{job}").json()["closed_at"]), SECONDS)
        results = client.get(f"/v1/jobs/{job}/results").json()["results"]
    done = f"job.completed {job}"
    assert until(lambda: done in running.heard, SECONDS)
    told = running.heard[done]["data"]
    assert told["results_complete"] is True
    for answers in (results, told["results"]):
        assert {(one["model"]["id"], one["model"]["digest"]) for one in answers} == {(ID, trained.bundle.digest)}
        found = table(answers, trained.bundle.labels)
        # The service of these tests computes in float32.
        assert strays(found, trained.said) <= BOUNDS["f32"]
        assert (found.argmax(axis=1) == trained.said.argmax(axis=1)).all()
