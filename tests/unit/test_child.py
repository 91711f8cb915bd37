"""The pause before a dead child starts again."""

import pytest

from cli.child import restart_delay


@pytest.mark.parametrize(
    ("deaths", "seconds"),
    [
        (1, 0.5),  # the first death costs next to nothing
        (2, 1.0),
        (3, 2.0),
        (6, 16.0),
        (7, 30.0),  # 32, but for the bound
        (5000, 30.0),  # no overflow after a night
    ],
)
def test_the_pause_doubles_up_to_half_a_minute(deaths: int, seconds: float) -> None:
    assert restart_delay(deaths) == seconds


def test_a_shorter_bound_holds_from_the_first_death() -> None:
    assert [restart_delay(deaths, 0.2) for deaths in (1, 2, 9)] == [0.2, 0.2, 0.2]
