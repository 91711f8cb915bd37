"""What goes into a bundle beside the weights: the kind of gate, and the photos whose answers prove an engine."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from training.runs import TEST, TRAIN, VALIDATION, Member
from training.shipping import REFERENCES, choose_gate, references
from worker.inference.answers import probabilities_of
from worker.inference.engine import Outputs

DRAWS = np.random.default_rng(8)
KINDS = np.arange(240) % 2
ROLES = np.repeat(np.array([TRAIN, VALIDATION, TEST], dtype=np.uint8), [160, 40, 40])
FEATURES = np.abs(DRAWS.normal(size=(240, 2048))).astype(np.float32)


class Elsewhere:
    """An engine to which every picture looks like no photo of the run."""

    name, precision = "elsewhere", "f32"
    # As the protocol has it.
    measured: Mapping[str, object] = {}
    first_met = ()

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        features = 1.5 * np.abs(np.random.default_rng(len(batch)).normal(size=(len(batch), 2048)))
        empty = np.zeros((len(batch), 49), dtype=np.float32)
        return Outputs(empty[:, :2], empty.reshape(-1, 7, 7), features.astype(np.float32))


def other_photos(role: int) -> NDArray[np.float32]:
    changed = FEATURES.copy()
    changed[role == ROLES] *= 40.0
    return changed


def test_the_gate_is_chosen_on_validation_photos_alone_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.shipping.PROBES", 2)  # twelve of each family take a second to draw
    member = Member(0, 7, np.zeros((240, 2), dtype=np.float32), FEATURES, ROLES)
    chosen = choose_gate(member, KINDS, Elsewhere())
    assert "validation" in chosen["chosen_on"]
    for role, same in ((TEST, True), (VALIDATION, False), (TRAIN, False)):
        other = choose_gate(dataclasses.replace(member, features=other_photos(role)), KINDS, Elsewhere())
        assert (other == chosen) is same


def test_references_are_of_every_clearness_so_that_an_engine_that_strays_is_seen() -> None:
    sure, half_sure, tossed = 9.0, 0.5, 0.05
    margins = np.array([sure] * 100 + [half_sure] * 4 + [tossed] * 20, dtype=np.float32)
    logits = np.stack([margins, -margins], axis=1)
    logits[::2] = logits[::2, ::-1]
    chosen = references(logits, 1.0)
    p = probabilities_of(logits[chosen], 1.0).max(axis=1)
    assert len(set(chosen)) == REFERENCES
    assert sorted(logits[chosen].argmax(axis=1)) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert p.min() > 0.65, "a coin toss might be flipped by half a precision"
    assert (p < 0.9).sum() >= 2, "those that are certain would show nothing"


def test_a_network_that_has_learnt_nothing_has_references_too() -> None:
    logits = np.random.default_rng(4).normal(0, 0.01, (20, 3)).astype(np.float32)
    chosen = references(logits, 1.0)
    gap = np.diff(np.sort(probabilities_of(logits, 1.0), axis=1)[:, -2:], axis=1)[:, 0]
    assert sorted(chosen) == sorted(np.argsort(gap)[-REFERENCES:])
