"""What learns when, and in which arithmetic: decided before TensorFlow is asked anything."""

import pytest

from training.config import Recipe, Stage
from training.hardware import precision_of
from training.schedule import HEAD, TUNE, phases_of


def test_transferred_weights_learn_the_head_first_and_then_the_last_stage() -> None:
    recipe = Recipe(side=64, head_epochs=2, tune_epochs=3)
    assert [(phase.name, phase.side, phase.epochs) for phase in phases_of(recipe, transfers=True)] == [
        (HEAD, 64, 2),
        (TUNE, 64, 3),
    ]


def test_from_scratch_everything_learns_at_once_or_on_small_pictures_first() -> None:
    [tune] = phases_of(Recipe(tune_epochs=3), transfers=False)
    assert (tune.name, tune.side, tune.epochs) == (TUNE, 224, 3)
    stages = [Stage(side=96, epochs=9, rate=5e-4, last_rate=2e-4), Stage(side=224, epochs=4, rate=1e-4)]
    found = phases_of(Recipe(stages=stages), transfers=False)
    assert [(phase.side, phase.epochs, phase.rate, phase.last_rate) for phase in found] == [
        (96, 9, 5e-4, 2e-4),
        (224, 4, 1e-4, 0.0),
    ]
    assert len({phase.name for phase in found}) == 2  # a stopped run finds its phase by name


@pytest.mark.parametrize(
    ("asked", "halves", "policy"),
    [
        ("auto", (), "float32"),  # a CPU, or a GPU that gains nothing
        ("auto", ("f16",), "mixed_float16"),  # Volta, Turing
        ("auto", ("bf16", "f16"), "mixed_bfloat16"),  # Ampere and later
        ("float32", ("bf16",), "float32"),
        ("mixed_float16", (), "mixed_float16"),
    ],
)
def test_mixed_precision_is_for_gpus_that_gain_by_it_unless_asked_for(
    asked: str, halves: tuple[str, ...], policy: str
) -> None:
    assert precision_of(asked, halves) == policy
