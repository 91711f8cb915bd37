"""Wilson's interval, as published."""

import pytest

from shared.registry.shadow import wilson


# Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3 (the score interval without correction).
@pytest.mark.parametrize(
    ("agreeing", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_published_one(agreeing: int, n: int, low: float, high: float) -> None:
    assert wilson(agreeing, n) == pytest.approx((low, high), abs=5e-5)


def test_it_is_the_same_from_both_sides_and_stays_within_the_unit() -> None:
    for agreeing in range(21):
        low, high = wilson(agreeing, 20)
        other_low, other_high = wilson(20 - agreeing, 20)
        assert (1 - other_high, 1 - other_low) == pytest.approx((low, high))
        assert 0 <= low < high <= 1
