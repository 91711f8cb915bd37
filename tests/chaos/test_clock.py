"""Every accepted photo has exactly one result, though the database's clock is set forward or back in the middle."""

import pytest

from tests.chaos import promise
from tests.chaos.clock import step
from tests.chaos.promise import Reference, Sampler
from tests.chaos.running import LONG, Up, until
from tests.chaos.samples import SAMPLES


@pytest.fixture(autouse=True)
def _watched(watched: Sampler) -> None:
    """Look at the books in every test."""


@pytest.mark.parametrize(
    "seconds",
    [3600.0, pytest.param(-3600.0, marks=LONG), pytest.param(5.0, marks=LONG), pytest.param(-5.0, marks=LONG)],
)
def test_the_clock_steps_while_photos_are_under_way(service: Up, reference: Reference, seconds: float) -> None:
    photos = SAMPLES * 5
    job = service.submit(photos)
    until(lambda: service.answered(job) > 0, "some photos are answered")
    step(service, seconds)
    until(lambda: service.answered(job) > len(photos) // 2, "more photos are answered")
    step(service, seconds)
    promise.await_closed(service, [job], 90)
    assert promise.answers(service.rows, job, photos, reference) == []
