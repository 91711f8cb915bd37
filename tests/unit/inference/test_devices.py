"""The half precisions that a GPU of each generation is faster in."""

import pytest

from worker.inference.devices import tensor_core_halves


@pytest.mark.parametrize(
    ("capability", "halves"),
    [
        ((6, 1), ()),  # no tensor cores
        ((7, 0), ("f16",)),
        ((7, 5), ("f16",)),
        ((8, 0), ("f16", "bf16")),
        ((9, 0), ("f16", "bf16")),
        ((12, 0), ("f16", "bf16")),
    ],
)
def test_a_gpu_takes_the_half_precisions_of_its_tensor_cores(
    capability: tuple[int, int], halves: tuple[str, ...]
) -> None:
    assert tensor_core_halves(capability) == halves
