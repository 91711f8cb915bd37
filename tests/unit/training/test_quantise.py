"""What admits a bundle in int8, and what is written then."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.bundle import load_bundle
from shared.errors import DataRefused
from shared.registry.records import IdRefused
from tests.unit.training.folders import first
from training.layouts import SYNTHETIC_NOTE
from training.manifest import Description
from training.quantise import (
    _calibration,
    _kinds,
    _record,
    _refuse_other_kind,
    _write,
    quantise,
)
from training.rounding import find_ranges
from worker.inference.answers import fitted_for
from worker.inference.openvino_int8 import is_close
from worker.inference.parity import AGREEMENT

DEMO = Path(__file__).parents[3] / "models" / "demo"


@pytest.fixture(scope="module")
def logits() -> NDArray[np.float32]:
    drawn: NDArray[np.float32] = np.random.default_rng(5).normal(0, 2, (400, 2)).astype(np.float32)
    return drawn


def test_labels_that_flip_or_probabilities_that_move_keep_a_bundle_out(logits: NDArray[np.float32]) -> None:
    own = 0.9
    same = _record(logits, logits, own)
    assert (same["agreement"], same["max_probability_difference"], is_close(same)) == (1.0, 0.0, True)
    near, far = (np.tile(np.array([[0.0, apart]], dtype=np.float32), (400, 1)) for apart in (0.1, 0.3))
    clear = _record(near, far, own)
    assert clear["agreement"] == 1.0
    assert not is_close(clear), "it moved too far without another label"
    edge = np.tile(np.array([[0.0, 0.001]], dtype=np.float32), (400, 1))
    for flips, admitted in ((2, True), (3, False)):
        other = edge.copy()
        other[:flips] = [0.001, 0.0]
        found = _record(edge, other, own)
        assert found["flipped_labels"] == flips
        assert is_close(found) is admitted, "of 400 photos two may have another label"
    assert AGREEMENT == 0.995


def test_classes_go_by_name_or_are_those_of_msld_and_nothing_is_guessed() -> None:
    bundle = load_bundle(DEMO)
    assert _kinds(["Others", "Monkeypox", "Others"], bundle).tolist() == [1, 0, 1]
    assert _kinds([bundle.labels[1], bundle.labels[0]], bundle).tolist() == [1, 0]
    for strange in (["Monkeypox"], ["Chickenpox", "Monkeypox"], ["Chickenpox", "Measles", "Monkeypox"]):
        with pytest.raises(DataRefused, match="name the folders like its labels"):
            _kinds(strange, bundle)


def test_what_is_written_is_a_whole_bundle_of_another_digest_with_its_own_calibration(
    tmp_path: Path, logits: NDArray[np.float32]
) -> None:
    bundle = load_bundle(DEMO)
    kinds = (logits[:, 1] > logits[:, 0]).astype(np.int64)
    kinds[::7] = 1 - kinds[::7]
    features = np.random.default_rng(1).normal(0, 1, (400, 2048)).astype(np.float32)
    own = _calibration(bundle, logits, kinds, features)
    out = tmp_path / "new" / "int8"
    _write(bundle, out, "quick", {"ranges": {"op1/0": [0.0, 1.0]}, "calibration": own, "record": {"agreement": 1.0}})
    made = load_bundle(out)
    assert (made.id, made.labels, made.synthetic) == ("quick", bundle.labels, True)
    assert made.digest != bundle.digest
    assert made.calibration["precisions"][-1] == "int8"
    assert fitted_for(made, "int8")["temperature"] == own["temperature"] != bundle.calibration["temperature"]
    assert made.card["quantised_from"] == bundle.digest
    assert [path.name for path in out.parent.iterdir()] == ["int8"], "nothing half written is left"
    with pytest.raises(DataRefused, match="is not empty"):
        _write(bundle, out, "quick", {"record": {}})


def test_too_few_photos_prove_nothing_and_nothing_is_written(tmp_path: Path) -> None:
    first(tmp_path / "photos")
    (tmp_path / "photos" / SYNTHETIC_NOTE).touch()
    out = tmp_path / "out"
    with pytest.raises(DataRefused, match="200 are the least"):
        quantise(DEMO, tmp_path / "photos", out, "quick")
    assert not out.exists()


def test_without_nncf_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(DataRefused, match=r"requirements/int8\.txt"):
        find_ranges({}, np.zeros((1, 224, 224, 3), np.uint8), {})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"synthetic": False}, "those of bundle demo-synthetic were SYNTHETIC"),
        ({"digest": "ab" * 32}, "trained on these very photos"),
    ],
)
def test_photos_of_another_kind_or_learnt_from_prove_nothing(other: dict[str, Any], said: str) -> None:
    bundle = load_bundle(DEMO)
    learnt = replace(bundle, card=dict(bundle.card) | {"data": {"manifest_digest": "ab" * 32}})
    photos = Description("cd" * 32, 500, 500, 500, 5, {}, {}, (), synthetic=True)
    _refuse_other_kind(learnt, photos)
    with pytest.raises(DataRefused, match=said):
        _refuse_other_kind(learnt, replace(photos, **other))


def test_a_folder_that_holds_something_is_refused_before_any_photo_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="is not empty"):
        quantise(DEMO, tmp_path / "no photos here", DEMO, "quick")


def test_an_id_under_which_nothing_can_be_published_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(IdRefused, match="must be 1 to 100 of"):
        quantise(DEMO, tmp_path / "no photos here", tmp_path / "out", "Not an id")
