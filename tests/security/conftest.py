"""What the tests of the HTTP API share with those of ``tests/integration``: an application, its callers, a worker."""

import random
from dataclasses import dataclass

import pytest

from tests.integration.web.conftest import (
    app,
    clinic,
    nothing_half_done,
    objects,
    rows,
    server,
    serving,
    stranger,
    web_pool,
)
from tests.integration.worker.conftest import make_receiver, make_worker, storage

__all__ = [
    "app",
    "clinic",
    "make_receiver",
    "make_worker",
    "nothing_half_done",
    "objects",
    "rows",
    "server",
    "serving",
    "storage",
    "stranger",
    "web_pool",
]


@dataclass(frozen=True)
class Extent:
    """How much of a hostile suite is run, and the seed that repeats it."""

    is_long: bool
    seed: int


@pytest.fixture
def extent(request: pytest.FixtureRequest) -> Extent:
    """Return the short form with a seed of its own, or what ``make fuzz`` asks for."""
    is_long = bool(request.config.getoption("--long"))
    seed = int(request.config.getoption("--seed") or (random.SystemRandom().randrange(1 << 31) if is_long else 1))
    if is_long:
        print(f"seed {seed}")
    return Extent(is_long, seed)
