"""One running service for a file of tests, and what its photos are answered when nobody disturbs."""

from collections.abc import Iterator

import pytest

from tests.chaos import promise
from tests.chaos.promise import Reference, Sampler, undisturbed
from tests.chaos.receivers import Receivers
from tests.chaos.running import Up, running
from tests.chaos.samples import JPEGS
from tests.chaos.senders import Senders


@pytest.fixture(scope="session")
def receivers() -> Iterator[Receivers]:
    """Return receivers of webhooks, good and bad."""
    with Receivers() as listening:
        yield listening


@pytest.fixture(scope="session")
def senders() -> Iterator[Senders]:
    """Return servers of photos, good and bad."""
    with Senders(JPEGS) as listening:
        yield listening


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, receivers: Receivers, senders: Senders) -> Iterator[Up]:
    """Return a running service with two workers."""
    settings = {
        "POXVISIO_WEBHOOK_LOOPBACK": f"{receivers.address},{senders.address}",
        "POXVISIO_FETCH_TIMEOUT": "1",
        "POXVISIO_WEBHOOK_SCHEDULE": "0.2,0.2,0.2,0.5",
    }
    with running(tmp_path_factory.mktemp("chaos"), settings=settings) as started:
        yield started


@pytest.fixture(scope="session")
def reference(service: Up) -> Reference:
    """Return the answers to the samples of a run that nobody disturbed."""
    return undisturbed(service)


@pytest.fixture
def watched(service: Up) -> Iterator[Sampler]:
    """Look at the counters all through the test, and in the end at all the books."""
    with Sampler(lambda: str(service.facts["database_url"])) as sampler:
        yield sampler
    assert sampler.samples > 0
    assert sampler.broken == []
    assert promise.books(service.rows) == []
