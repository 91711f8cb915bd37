"""The shipped bundle, and its engines loaded once for all tests of this folder."""

import io
import json
from collections.abc import Callable, Iterator
from functools import cache
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
    @cache
    def load(engine: str, precision: str) -> Classifier:
        if precision == "bf16" and not bf16_here():
            pytest.skip("this processor does not compute in bf16")
        return Classifier.load(bundle, engine=engine, precision=precision, cache=compiled)

    yield load
    load.cache_clear()


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
