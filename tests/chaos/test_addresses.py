"""Every address of a list has exactly one answer, whatever its server does and whoever dies while it is fetched."""

from uuid import UUID, uuid4

import pytest

from tests.chaos import promise
from tests.chaos.clock import step
from tests.chaos.promise import Reference, Sampler
from tests.chaos.running import LONG, Up, job_of, until
from tests.chaos.samples import JPEGS
from tests.chaos.senders import FAILING, GIVING, REFUSING, Senders

# Six tries are made, with 62 s of pauses between them.
_PAUSES = 80.0


@pytest.fixture(autouse=True)
def _watched(watched: Sampler) -> None:
    """Look at the books in every test."""


def listed(service: Up, addresses: list[str]) -> UUID:
    answer = service.post_addresses(addresses, str(uuid4()))
    assert answer.status_code == 202, answer.text
    return job_of(answer)


def test_every_kind_of_server_leaves_one_answer_each(service: Up, senders: Senders, reference: Reference) -> None:
    kinds = [*GIVING, *FAILING, *REFUSING]
    key = uuid4().hex
    job = listed(service, [senders.url(kind, place, key) for place, kind in enumerate(kinds)])
    given = [JPEGS[place] for place in range(len(GIVING))]
    until(lambda: service.answered(job) >= len(given) + len(REFUSING), "all but the failing are answered")

    def has_ended() -> bool:
        # The clock goes on between two tries only: a step takes away the lease of whoever fetches.
        step(service, _PAUSES, once_free=job)
        return service.answered(job) == len(kinds)

    until(has_ended, "the failing are tried for the last time")
    promise.await_closed(service, [job], 30)
    rows = service.rows("SELECT ordinal, outcome, reasons FROM result WHERE job_id = %s ORDER BY ordinal", str(job))
    failed = [("failed", ["url_unreachable"])] * len(FAILING)
    refused = [("rejected", [reason]) for _, reason in REFUSING.values()]
    assert [row[1:] for row in rows[len(given) :]] == failed + refused
    assert promise.answers(service.rows, job, given, reference, only=len(given)) == []


@pytest.mark.parametrize("point", ["worker.appended", pytest.param("worker.receiving", marks=LONG)])
def test_a_worker_killed_while_it_fetches(service: Up, senders: Senders, reference: Reference, point: str) -> None:
    has_died = service.order_death(point)
    key = uuid4().hex
    photos = JPEGS + JPEGS[:10]
    kinds = ["busy" if place % 5 == 0 else "good" for place in range(len(photos))]
    addresses = [senders.url(kind, place % len(JPEGS), f"{key}-{place}") for place, kind in enumerate(kinds)]
    job = listed(service, addresses)
    until(has_died, f"a worker dies at {point}")
    promise.await_closed(service, [job], 90)
    assert promise.answers(service.rows, job, photos, reference) == []
