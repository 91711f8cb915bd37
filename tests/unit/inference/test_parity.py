"""The parity check puts in the whole reference and each size that the engine names, and none of them may stray."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.bundle import load_bundle
from shared.errors import ParityFailed
from worker.inference.engine import Outputs
from worker.inference.parity import check_parity
from worker.inference.weights import load_reference

BUNDLE = load_bundle(Path(__file__).parents[3] / "models" / "demo")
REFERENCE = load_reference(BUNDLE)


class Recorded:
    """An engine that says what the reference says, but for batches of one size."""

    name, precision = "recorded", "f32"
    measured: Mapping[str, object] = {}
    first_met = (1, 3)

    def __init__(self, wrong_in: int = 0) -> None:
        self.asked: list[int] = []
        self._wrong_in = wrong_in

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        self.asked.append(len(batch))
        logits = REFERENCE.logits[: len(batch)].copy()
        if len(batch) == self._wrong_in:
            logits[-1] = logits[-1, ::-1]
        return Outputs(logits, REFERENCE.evidence[: len(batch)], np.zeros((len(batch), 2048), dtype=np.float32))


def test_each_size_that_an_engine_names_is_met_before_it_serves(tmp_path: Path) -> None:
    engine = Recorded()
    assert check_parity(engine, BUNDLE, tmp_path) == 0.0
    assert engine.asked == [len(REFERENCE.photos), 1, 3]


@pytest.mark.parametrize("size", [1, 3, len(REFERENCE.photos)])
def test_an_engine_that_strays_in_one_size_alone_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ParityFailed, match=f"flips 1 of {len(REFERENCE.photos)} labels"):
        check_parity(Recorded(wrong_in=size), BUNDLE, tmp_path)
