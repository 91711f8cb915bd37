"""A bundle in int8: it serves from a record alone, with the calibration that was fitted for it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from shared.bundle import CALIBRATION, CARD, WEIGHTS, Bundle, load_bundle
from shared.errors import BundleAltered, EngineRefused, ParityFailed
from tests.integration.engines.conftest import MODELS
from training.publish import write_card
from training.rounding import BEGINS, convolutions_of, find_ranges, from_convolution
from worker.inference import classifier, openvino_engine
from worker.inference.answers import fitted_for, temperature_of
from worker.inference.classifier import Classifier
from worker.inference.openvino_int8 import counted_resnet50, heads_of
from worker.inference.weights import load_reference, load_weights

# What NNCF finds on 80 drawn photos, all stages of it.
FOUND: dict[str, list[float]] = json.loads((Path(__file__).parent / "int8_ranges.json").read_text(encoding="utf-8"))
FITTED = {"temperature": 0.9, "thresholds": {"mpox (synthetic)": 0.25, "other (synthetic)": 0.7}, "gate_limit": 4.0}
PROOF = {"agreement": 1.0, "max_probability_difference": 0.015}

Quantised = Callable[..., Bundle]


@pytest.fixture(scope="module")
def counted(bundle: Bundle) -> ov.Model:
    return counted_resnet50(load_weights(bundle))


@pytest.fixture(scope="module")
def quantised(counted: ov.Model, tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    """Return a function that makes a bundle with a record, eleven convolutions exact unless given ranges."""

    def run(ranges: Any = None, scales: Any = None, **proof: float) -> Bundle:
        folder = tmp_path_factory.mktemp("int8") / "bundle"
        shutil.copytree(MODELS, folder, ignore=shutil.ignore_patterns("photos", WEIGHTS))
        (folder / WEIGHTS).symlink_to(MODELS / WEIGHTS)
        stored = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
        used = from_convolution(convolutions_of(counted), FOUND, 11) if ranges is None else ranges
        record = {"ranges": used, "calibration": FITTED, "record": PROOF | proof}
        record |= {} if scales is None else {"scales": scales}
        stored |= {"id": "int8", "precisions": [*stored["precisions"], "int8"], "int8": record}
        (folder / CALIBRATION).write_text(json.dumps(stored), encoding="utf-8")
        write_card(folder, json.loads((folder / CARD).read_text(encoding="utf-8")) | {"id": "int8"})
        return load_bundle(folder)

    return run


@pytest.fixture(scope="module")
def made(quantised: Quantised) -> Bundle:
    return quantised()


def test_a_quantised_bundle_in_int8_says_the_same_and_is_served_in_it_where_nothing_is_faster(
    made: Bundle, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not openvino_engine.int8_here():
        pytest.skip("this processor has no int8")
    assert classifier._arithmetic(made, "openvino") == (openvino_engine.halves_here() or ("int8",))[0]
    monkeypatch.setitem(classifier._HALVES, "openvino", tuple)
    served = Classifier.load(made, engine="openvino", cache=tmp_path / "cache")
    assert (served.engine.name, served.engine.precision) == ("openvino", "int8")
    photos = load_reference(bundle).photos
    together = served.engine.infer(photos)
    alone = served.engine.infer(photos[3:4])
    assert np.array_equal(together.logits[3:4], alone.logits), "whatever the batch"
    assert not np.array_equal(together.logits, load_reference(bundle).logits), "it was rounded"
    maps = np.corrcoef(together.evidence.ravel(), load_reference(bundle).evidence.ravel())[0, 1]
    assert maps > 0.99, "the evidence is the same map"


def test_what_was_fitted_for_int8_counts_for_int8_alone(made: Bundle) -> None:
    assert temperature_of(made, "int8") == FITTED["temperature"]
    assert temperature_of(made, "bf16") == made.calibration["temperature"] != FITTED["temperature"]
    assert fitted_for(made, "int8")["thresholds"] == FITTED["thresholds"]
    assert fitted_for(made, "int8")["gate"]["limit"] == 4.0
    assert fitted_for(made, "f32")["gate"]["limit"] == made.calibration["gate"]["limit"]


def test_without_a_record_there_is_no_int8(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineRefused, match="not quantised"):
        Classifier.load(bundle, engine="openvino", precision="int8", cache=tmp_path)
    with pytest.raises(EngineRefused, match="OpenVINO alone"):
        Classifier.load(bundle, engine="tensorflow", precision="int8", cache=tmp_path)


@pytest.mark.parametrize("proof", [{"agreement": 0.99}, {"max_probability_difference": 0.031}])
def test_a_record_that_proves_too_little_is_refused(
    quantised: Quantised, tmp_path: Path, proof: dict[str, float]
) -> None:
    with pytest.raises(EngineRefused, match="holds no proof"):
        Classifier.load(quantised(**proof), engine="openvino", precision="int8", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("ranges", "error"),
    [
        ({"op1": [0.0]}, BundleAltered),
        ({"op1/0": [1.0, 0.0]}, BundleAltered),
        ({"op1/0": [0.0, float("nan")]}, BundleAltered),
        ({"op999999/0": [0.0, 1.0]}, EngineRefused),
        # A block's own sum and the photo, as earlier records had them.
        ({"op46/1": [-1.0, 1.0]}, EngineRefused),
        ({"op7/0": [-110.0, 152.0]}, EngineRefused),
        ({place: [0.0, 0.01] for place in FOUND}, ParityFailed),
    ],
)
def test_ranges_that_cannot_be_or_spoil_the_answers_are_refused(
    quantised: Quantised, tmp_path: Path, ranges: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Classifier.load(quantised(ranges), engine="openvino", precision="int8", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("scales", "error"),
    [
        ([1.0], BundleAltered),
        ({"conv1": 1.0}, BundleAltered),
        ({"conv1": [0.0] * 64}, BundleAltered),
        ({"conv1": [float("inf")] * 64}, BundleAltered),
        ({"conv1": [1.0]}, EngineRefused),
        # The ranges were found with other scales than these.
        ({"conv2": [0.01] * 256}, ParityFailed),
    ],
)
def test_scales_that_cannot_be_or_are_not_those_of_the_ranges_are_refused(
    quantised: Quantised, tmp_path: Path, scales: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Classifier.load(quantised(scales=scales), engine="openvino", precision="int8", cache=tmp_path / "cache")


def test_operations_are_counted_alike_each_time_and_the_heads_stay_exact(bundle: Bundle, counted: ov.Model) -> None:
    first, second = counted, counted_resnet50(load_weights(bundle))
    kinds = [
        {one.get_friendly_name(): one.get_type_name() for one in model.get_ordered_ops()} for model in (first, second)
    ]
    assert kinds[0] == kinds[1]
    assert {kinds[0][place.partition("/")[0]] for place in FOUND} <= {"Convolution", "Add", "MaxPool"}
    assert not {place.partition("/")[0] for place in FOUND} & set(heads_of(first))
    counts = [len(from_convolution(convolutions_of(first), FOUND, exact)) for exact in BEGINS]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == len(FOUND) > counts[-1] > 0


def test_nncf_finds_ranges_for_the_same_places_whatever_the_photos(
    bundle: Bundle, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("the long form, --long, has NNCF look at photos: ten seconds of a processor")
    pytest.importorskip("nncf")
    found = find_ranges(load_weights(bundle), load_reference(bundle).photos[:2], {})
    assert set(found) == set(FOUND)
    assert all(low < high for low, high in found.values())
