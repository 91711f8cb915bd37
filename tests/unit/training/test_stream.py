"""Draws and noise fields are the same on every run and have the distribution they claim."""

import numpy as np
import pytest

from training.stream import Stream, blurred, fractal


def test_the_same_key_gives_the_same_draws_and_another_key_gives_others() -> None:
    assert np.array_equal(Stream(7, 1, 0, 3).uniforms(100), Stream(7, 1, 0, 3).uniforms(100))
    assert not np.array_equal(Stream(7, 1, 0, 3).uniforms(100), Stream(7, 1, 0, 4).uniforms(100))


def test_draws_do_not_change_with_the_numpy_release() -> None:
    # First raw words of PCG64 over SeedSequence([7, 1]), shifted to 53 bits: numpy promises both.
    raw = np.random.PCG64(np.random.SeedSequence([7, 1])).random_raw(3)
    assert Stream(7, 1).uniforms(3).tolist() == [(int(word) >> 11) / 2**53 for word in raw]


def test_draws_have_the_moments_of_their_distribution() -> None:
    uniform, normal = Stream(1).uniforms(20_000), Stream(2).normals(20_000)
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert uniform.std() == pytest.approx(12**-0.5, abs=0.01)
    assert normal.mean() == pytest.approx(0.0, abs=0.03)
    assert normal.std() == pytest.approx(1.0, abs=0.03)
    stream = Stream(3)
    beta = np.array([stream.beta(2.2, 1.2) for _ in range(4000)])
    assert beta.mean() == pytest.approx(2.2 / 3.4, abs=0.02)  # a / (a + b)


def test_whole_numbers_reach_both_ends_and_no_further() -> None:
    stream = Stream(4)
    assert {stream.integer(5, 8) for _ in range(200)} == {5, 6, 7, 8}


def test_fractal_noise_is_standardised_at_any_side() -> None:
    for side in (48, 96):
        field = fractal(Stream(5), side, grid=3, octaves=4)
        assert field.shape == (side, side)
        assert abs(field.mean()) < 1e-9
        assert field.std() == pytest.approx(1.0)


def test_blur_keeps_a_constant_and_spreads_a_point_evenly() -> None:
    assert blurred(np.full((9, 9, 3), 4.0), 1.1) == pytest.approx(np.full((9, 9, 3), 4.0))
    point = np.zeros((21, 21))
    point[10, 10] = 1.0
    soft = blurred(point, 1.5)
    assert soft.sum() == pytest.approx(1.0)
    assert soft == pytest.approx(soft.T)
    assert soft[10, 10] == soft.max()
