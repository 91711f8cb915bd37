"""A worker's pace is measured over what it answered while more waited, and over nothing else."""

import pytest

from worker.pace import Pace


def test_nothing_is_known_before_enough_was_seen() -> None:
    pace = Pace()
    pace.look(0.0, 1000, is_full=True)
    pace.look(2.0, 1100, is_full=True)
    assert pace.rate is None
    pace.look(4.0, 1200, is_full=True)
    assert pace.rate == pytest.approx(50)


def test_a_slow_worker_is_measured_after_ten_seconds() -> None:
    pace = Pace()
    for second in range(0, 11, 2):
        pace.look(float(second), second // 2, is_full=True)
    assert pace.rate == pytest.approx(0.5)


def test_only_the_last_twenty_seconds_count() -> None:
    pace = Pace()
    for second in range(0, 61, 2):
        pace.look(float(second), second * 100 if second <= 30 else 3000 + (second - 30) * 10, is_full=True)
    assert pace.rate == pytest.approx(10)


def test_an_hour_in_which_nobody_waited_changes_nothing() -> None:
    pace = Pace()
    for second in range(0, 11, 2):
        pace.look(float(second), second * 100, is_full=True)
    pace.look(12.0, 1010, is_full=False)
    pace.look(3600.0, 1020, is_full=True)
    pace.look(3602.0, 1220, is_full=True)
    assert pace.rate == pytest.approx(100)


def test_a_worker_that_answers_nothing_keeps_what_it_could_do() -> None:
    pace = Pace()
    pace.look(0.0, 0, is_full=True)
    pace.look(2.0, 400, is_full=True)
    for second in range(4, 60, 2):
        pace.look(float(second), 400, is_full=True)
    assert pace.rate is not None
    assert pace.rate > 0
