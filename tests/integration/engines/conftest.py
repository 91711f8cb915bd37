"""The shipped bundle, and its engines loaded once for all tests of this folder."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shared.bundle import Bundle, load_bundle
from worker.inference.classifier import Classifier
from worker.inference.openvino_engine import bf16_here
from worker.inference.preprocess import Quality, measure_quality, network_input

MODELS = Path(__file__).parents[3] / "models" / "demo"
Load = Callable[[str, str], Classifier]
Samples = tuple[NDArray[np.uint8], list[Quality], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return load_bundle(MODELS)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def classifier(bundle: Bundle, compiled: Path) -> Iterator[Load]:
    loaded: dict[tuple[str, str], Classifier] = {}

    def load(engine: str, precision: str) -> Classifier:
        if precision == "bf16" and not bf16_here():
            pytest.skip("this processor does not compute in bf16")
        if (engine, precision) not in loaded:
            found = Classifier.load(bundle, engine=engine, precision=precision, cache=compiled)
            # What "auto" chose is asked for by its names as well.
            loaded[engine, precision] = loaded[found.engine.name, found.engine.precision] = found
        return loaded[engine, precision]

    yield load
    loaded.clear()


@pytest.fixture(scope="session")
def samples() -> Samples:
    """The sample photos that are pictures of skin or scenes: inputs, qualities and truths."""
    listed = json.loads((MODELS / "photos" / "photos.json").read_text(encoding="utf-8"))["photos"]
    shown = [entry for entry in listed if entry["truth"] == "no skin" or "stage" in entry]
    pixels, qualities = [], []
    for entry in shown:
        with Image.open(io.BytesIO((MODELS / "photos" / entry["file"]).read_bytes())) as picture:
            pixels.append(network_input(picture))
            qualities.append(measure_quality(picture, shorter_side=min(picture.size)))
    return np.stack(pixels), qualities, shown
