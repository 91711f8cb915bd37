"""When to look for an answer that is waited for."""

from itertools import islice, pairwise

import pytest

from web.services import Pace


def looks(pace: Pace, count: int) -> list[float]:
    """Return when the first looks come, in seconds since the waiting began."""
    at, found = 0.0, []
    for pause in islice(pace.pauses(), count):
        at += pause
        found.append(at)
    return found


def learned(seconds: float) -> Pace:
    pace = Pace()
    for _ in range(50):
        pace.learn(seconds, looks=3)
    return pace


def test_where_nothing_is_known_the_first_looks_come_at_once() -> None:
    assert looks(Pace(), 3) == pytest.approx([0.005, 0.010, 0.015])


@pytest.mark.parametrize("usual", [0.08, 0.2, 0.3])
def test_the_first_look_comes_before_the_usual_time(usual: float) -> None:
    assert looks(learned(usual), 1) == pytest.approx([0.8 * usual], rel=1e-3)


@pytest.mark.parametrize("usual", [0.08, 0.5, 2.0])
def test_around_the_usual_time_no_answer_is_late_by_more_than_a_tenth(usual: float) -> None:
    found = looks(learned(usual), 30)
    gaps = [later - earlier for earlier, later in pairwise(found) if 0.8 * usual <= earlier < 1.3 * usual]
    assert len(gaps) > 3
    assert max(gaps) <= 0.1 * usual


def test_whatever_was_usual_there_are_four_looks_a_second() -> None:
    assert looks(learned(30.0), 4) == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_an_answer_that_was_there_at_the_first_look_makes_the_next_look_earlier() -> None:
    pace = learned(0.3)
    before = looks(pace, 1)[0]
    pace.learn(before, looks=1)
    assert looks(pace, 1)[0] < 0.9 * before
