"""Pictures without skin: every family, the same on every run."""

import numpy as np
import pytest

from training.probes import FAMILIES, probe


@pytest.mark.parametrize("family", FAMILIES)
def test_probes_repeat_exactly_and_differ_from_each_other(family: str) -> None:
    first = probe(7, family, 0, side=64)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, probe(7, family, 0, side=64))
    assert not np.array_equal(first, probe(7, family, 1, side=64))


def test_a_blank_probe_is_blank() -> None:
    assert probe(7, "blank", 0, side=64).std(axis=(0, 1)).max() < 3
