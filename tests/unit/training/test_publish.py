"""Rounding before anything is measured: values that both bf16 and float16 hold exactly."""

import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.bundle import GATE, PARITY
from training.publish import to_bfloat16, write_bundle


@pytest.mark.parametrize(
    ("exact", "rounded"),
    [
        (1.0, 1.0),
        (1.0 + 2**-7, 1.0 + 2**-7),  # the last of 8 significant bits
        (1.0 + 2**-8, 1.0),  # halfway: to even
        (1.0 + 3 * 2**-8, 1.0 + 2**-6),  # halfway: to even, upwards
        (1.0 + 2**-8 + 2**-20, 1.0 + 2**-7),
        (-0.1, -0.10009765625),
        (0.0, 0.0),
    ],
)
def test_rounding_keeps_eight_bits_with_ties_to_even(exact: float, rounded: float) -> None:
    assert to_bfloat16(np.array([exact], dtype=np.float32))[0] == rounded


def test_what_float16_stores_is_still_exact_in_bf16_even_among_its_subnormals() -> None:
    draws = np.random.default_rng(1)
    kernels = (draws.normal(size=100_000) * 10.0 ** draws.uniform(-9, 1, 100_000)).astype(np.float32)
    stored = to_bfloat16(kernels).astype(np.float16).astype(np.float32)
    assert np.array_equal(to_bfloat16(stored), stored)
    large = np.abs(kernels) > 2.0**-14
    assert np.array_equal(stored[large], to_bfloat16(kernels)[large])


def test_every_second_row_is_stored_as_it_reads_and_not_as_it_lies(tmp_path: Path) -> None:
    photos, gate = np.arange(24, dtype=np.uint8).reshape(6, 4), np.arange(12, dtype=np.float32).reshape(3, 4)
    write_bundle(
        tmp_path, weights={}, calibration={}, gate={"axes": gate.T}, parity={"photos": photos[::2]}, card={"id": "none"}
    )
    assert np.array_equal(load_file(tmp_path / PARITY)["photos"], photos[::2])
    assert np.array_equal(load_file(tmp_path / GATE)["axes"], gate.T)


def test_weights_that_the_disk_refuses_are_an_error_of_the_disk(tmp_path: Path) -> None:
    """And none of a library's own, which nobody would turn into words for people."""
    weights = {"head/kernel": np.zeros(5000, dtype=np.float32)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_bundle(tmp_path, weights=weights, calibration={}, gate={}, parity={}, card={"id": "none"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
