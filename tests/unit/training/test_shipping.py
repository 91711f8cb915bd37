"""The gate's kind is chosen on validation photos: what the report measures on test photos had no part in it."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from training.runs import TEST, TRAIN, VALIDATION, Member
from training.shipping import choose_gate
from worker.inference.engine import Outputs

DRAWS = np.random.default_rng(8)
KINDS = np.arange(240) % 2
ROLES = np.repeat(np.array([TRAIN, VALIDATION, TEST], dtype=np.uint8), [160, 40, 40])
FEATURES = np.abs(DRAWS.normal(size=(240, 2048))).astype(np.float32)


class Elsewhere:
    """An engine to which every picture looks like no photo of the run."""

    name, precision = "elsewhere", "f32"
    measured: Mapping[str, object] = {}  # as the protocol has it

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        features = 1.5 * np.abs(np.random.default_rng(len(batch)).normal(size=(len(batch), 2048)))
        empty = np.zeros((len(batch), 49), dtype=np.float32)
        return Outputs(empty[:, :2], empty.reshape(-1, 7, 7), features.astype(np.float32))


def other_photos(role: int) -> NDArray[np.float32]:
    changed = FEATURES.copy()
    changed[role == ROLES] *= 40.0
    return changed


def test_the_gate_is_chosen_on_validation_photos_alone_and_says_so() -> None:
    member = Member(0, 7, np.zeros((240, 2), dtype=np.float32), FEATURES, ROLES)
    chosen = choose_gate(member, KINDS, Elsewhere())
    assert "validation" in chosen["chosen_on"]
    for role, same in ((TEST, True), (VALIDATION, False), (TRAIN, False)):
        other = choose_gate(dataclasses.replace(member, features=other_photos(role)), KINDS, Elsewhere())
        assert (other == chosen) is same
