"""The shape of the network and the closed form of its evidence."""

import numpy as np
import pytest

from worker.inference.weights import blocks, evidence_head


def test_there_are_sixteen_blocks_and_each_stage_opens_with_a_projection() -> None:
    found = list(blocks())
    assert len(found) == 16
    assert [block.name for block in found if block.projects] == [f"conv{stage}_block1" for stage in (2, 3, 4, 5)]
    assert [block.stride for block in found if block.projects] == [1, 2, 2, 2]
    assert all(block.stride == 1 for block in found if not block.projects)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_mean_of_the_evidence_is_the_margin_of_the_first_label(classes: int) -> None:
    draws = np.random.default_rng(classes)
    last = draws.normal(size=(7, 7, 2048)).astype(np.float32)
    kernel, bias = draws.normal(size=(2048, classes)).astype(np.float32), draws.normal(size=classes).astype(np.float32)
    direction, offset = evidence_head(kernel, bias)
    logits = last.mean(axis=(0, 1)) @ kernel + bias
    assert (last @ direction + offset).mean() == pytest.approx(logits[0] - logits[1:].mean(), abs=1e-3)
