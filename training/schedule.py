"""Owns the phases of a training: what learns in each, on pictures of which side, for how long and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from training.config import Recipe

HEAD: Final = "head"
TUNE: Final = "tune"


@dataclass(frozen=True)
class Phase:
    """Some epochs of one kind; the learning rate falls from `rate` to `last_rate` along a cosine."""

    name: str
    side: int
    epochs: int
    rate: float
    last_rate: float = 0.0


def phases_of(recipe: Recipe, *, transfers: bool) -> tuple[Phase, ...]:
    """Where weights are transferred the head first, then conv5; from scratch everything, by stages where asked for."""
    tune = Phase(TUNE, recipe.side, recipe.tune_epochs, recipe.tune_rate)
    if transfers:
        return Phase(HEAD, recipe.side, recipe.head_epochs, recipe.head_rate), tune
    stages = tuple(
        Phase(f"stage{number}", stage.side, stage.epochs, stage.rate, stage.last_rate)
        for number, stage in enumerate(recipe.stages)
    )
    return stages or (tune,)
