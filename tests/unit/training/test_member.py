"""What one network learns, and when it stops: the head, then the last stage; classes alike; the best epoch is kept."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from training.backbone import Start
from training.calibration import negative_log_likelihood
from training.config import Recipe
from training.member import MemberTraining, Watch
from training.runs import HISTORY
from training.splits import Split
from training.trunk import trunk_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras against numpy 2
TRANSFERRED = Start("a test", "0" * 64, Path())
Pixels = NDArray[np.uint8]
Kinds = NDArray[np.int64]
Train = Callable[..., Any]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Return a function that trains a small network of ResNet50's names, and returns it."""
    from tests.unit.training.one_member import small  # TensorFlow takes seconds to import

    def run(pixels: Pixels, kinds: Kinds, split: Split, recipe: Recipe, tell: Callable[[Any, str], None]) -> Any:
        network = small(2, TRANSFERRED, 7, dropout=0.0, precision="float32")
        watch = Watch(lambda text: tell(network, text))
        tell(network, "begun")
        MemberTraining(network, recipe, TRANSFERRED, tmp_path / "member", watch).run(pixels, kinds, split, 7)
        return network

    return run


def shades(kinds: Kinds) -> Pixels:
    """Photos [n, 32, 32, 3], dark or bright by their kind."""
    noise = np.random.default_rng(3).integers(0, 60, (len(kinds), 32, 32, 3))
    return (noise + 150 * kinds[:, None, None, None]).astype(np.uint8)


def layers(network: Any) -> dict[str, list[NDArray[Any]]]:
    named = {layer.name: layer for layer in trunk_of(network).layers if layer.weights}
    return {name: layer.get_weights() for name, layer in (named | {"head": network.get_layer("head")}).items()}


def changed(one: dict[str, list[NDArray[Any]]], other: dict[str, list[NDArray[Any]]]) -> set[str]:
    return {name for name in one if any(not np.array_equal(a, b) for a, b in zip(one[name], other[name], strict=True))}


def test_first_the_head_learns_alone_and_then_the_last_stage_without_its_batchnorm(train: Train) -> None:
    seen = {}
    kinds = np.arange(12) % 2
    recipe = Recipe(side=32, batch=4, head_epochs=1, tune_epochs=1, tune_rate=1e-3)
    split = Split(np.arange(8), np.arange(8, 12), np.arange(0))
    train(shades(kinds), kinds, split, recipe, lambda network, text: seen.update({text.split(":")[0]: layers(network)}))
    assert list(seen) == ["begun", "member head 1/1", "member tune 1/1"]
    begun, headed, tuned = seen.values()
    assert set(begun) == {"conv1_conv", "conv5_conv", "conv5_bn", "head"}
    assert changed(begun, headed) == {"head"}
    assert changed(headed, tuned) == {"head", "conv5_conv"}


def test_a_class_of_few_photos_weighs_as_much_as_one_of_many(train: Train) -> None:
    """On photos that tell nothing a network says how often it was told of each class: as often of both."""
    kinds = np.array([0] * 4 + [1] * 12 + [0, 1])
    pixels = np.full((len(kinds), 32, 32, 3), 128, dtype=np.uint8)
    recipe = Recipe(side=32, batch=4, head_epochs=8, head_rate=0.1, tune_epochs=1, patience=8)
    split = Split(np.arange(16), np.array([16, 17]), np.arange(0))
    network = train(pixels, kinds, split, recipe, lambda _network, _text: None)
    odds = np.ptp(np.asarray(network(pixels[:1], training=False)))
    assert odds < 0.3, f"3 to 1 would be {np.log(3):.1f}"


def test_it_stops_when_validation_worsens_and_keeps_the_best_epoch(train: Train, tmp_path: Path) -> None:
    """Validation photos under the opposite label: whatever is learnt makes the answers to them worse."""
    shown = np.arange(16) % 2
    kinds, validation = shown.copy(), np.arange(8, 16)
    kinds[validation] = 1 - kinds[validation]
    pixels, seen = shades(shown), {}
    recipe = Recipe(side=32, batch=4, head_epochs=20, head_rate=0.05, tune_epochs=20, tune_rate=1e-2, patience=2)
    split = Split(np.arange(8), validation, np.arange(0))
    network = train(
        pixels, kinds, split, recipe, lambda network, text: seen.update({text.split(":")[0]: layers(network)})
    )
    with (tmp_path / "member" / HISTORY).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for phase in ("head", "tune"):
        told = [float(row["validation_nll"]) for row in rows if row["phase"] == phase]
        assert len(told) == int(np.argmin(told)) + 1 + recipe.patience < 20
    best = min((row for row in rows if row["phase"] == "tune"), key=lambda row: float(row["validation_nll"]))
    assert not changed(layers(network), seen[f"member tune {int(best['epoch']) + 1}/20"])
    # And they were asked as they are, as nobody changes what is served.
    logits = np.asarray(network(pixels[validation], training=False))
    assert negative_log_likelihood(logits, kinds[validation], 1.0) == pytest.approx(
        float(best["validation_nll"]), abs=1e-4
    )
