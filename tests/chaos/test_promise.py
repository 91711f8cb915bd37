"""What looks at the books sees every way in which they can be wrong."""

import hashlib
import time
from uuid import UUID

import pytest

from shared import webhooks
from shared.database import Database
from shared.ledger.submit import NewJob
from shared.signing import Keyring
from tests.chaos import promise
from tests.chaos.promise import Sampler
from tests.chaos.running import ask
from tests.integration.ledger.factories import change, finish, submit_job, take

# Of three photos; the factories make a photo's bytes of its place.
PHOTOS = [b"0", b"1", b"2"]
REFERENCE = {hashlib.sha256(photo).hexdigest(): ("classified", "other") for photo in PHOTOS}


@pytest.fixture
def job(app_db: Database, worker_db: Database, tenant: UUID) -> NewJob:
    """Return a job whose three photos are answered, of which an endpoint heard."""
    with app_db.transaction(tenant) as session:
        webhooks.create_endpoint(session, Keyring(b"k" * 32), tenant, "https://clinic.example/", list(webhooks.KINDS))
    made = submit_job(app_db, tenant, 3)
    finish(worker_db, take(worker_db), label="other")
    return made


@pytest.fixture
def rows(owner_url: str) -> promise.Rows:
    return lambda statement, *values: ask(owner_url, statement, *values)


def test_books_in_order_are_found_in_order(job: NewJob, rows: promise.Rows, owner_db: Database) -> None:
    assert promise.books(rows) == []
    assert promise.answers(rows, job.id, PHOTOS, REFERENCE) == []
    change(owner_db, "UPDATE delivery SET state = 'delivered'")
    assert promise.deliveries(rows) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        # Counters that do not add up to the total PostgreSQL refuses by itself.
        ("UPDATE job SET remaining = 1, classified = 2", "counters do not add up"),
        ("DELETE FROM result WHERE ordinal = 1", "counters do not add up"),
        ("UPDATE job SET closed_at = NULL", "counters do not add up"),
        ("UPDATE result SET fence = fence - 1 WHERE ordinal = 2", "a result carries a superseded fence"),
        ("UPDATE unit SET state = 'ready'", "a unit was left open"),
        ("UPDATE unit SET n = 2", "units do not cover the job"),
        ("DELETE FROM event WHERE kind = 'job.completed'", "the end of a job was not told"),
        ("DELETE FROM event WHERE kind = 'job.started'", "the feed has a gap"),
        (
            "DELETE FROM event WHERE kind = 'image.completed' AND body ->> 'ordinal' = '1'",
            "what became of a photo was not told",
        ),
        ('UPDATE event SET body = body || \'{"outcome": "failed"}\'', "what became of a photo was not told"),
        (
            "UPDATE event e SET body = o.body FROM event o WHERE e.kind = 'image.completed' AND o.kind = e.kind",
            "an event was told twice",
        ),
        ("UPDATE event_counter SET last = last + 1", "the feed has a gap"),
    ],
)
def test_damaged_books_are_found_out(
    job: NewJob, rows: promise.Rows, owner_db: Database, damage: str, found: str
) -> None:
    change(owner_db, damage)
    assert any(line.startswith(found) for line in promise.books(rows))


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM result WHERE ordinal = 1",
        "UPDATE result SET label = 'another' WHERE ordinal = 1",
        "UPDATE result SET outcome = 'failed', label = NULL WHERE ordinal = 1",
        # Quarantined, but by nobody's death.
        "UPDATE result SET outcome = 'failed', label = NULL, reasons = '{quarantined}' WHERE ordinal = 1",
    ],
)
def test_answers_that_differ_from_the_undisturbed_ones_are_found_out(
    job: NewJob, rows: promise.Rows, owner_db: Database, damage: str
) -> None:
    change(owner_db, damage)
    [wrong] = promise.answers(rows, job.id, PHOTOS, REFERENCE)
    assert wrong.startswith(f"{job.id}/1: ")


def test_photos_that_are_not_those_sent_are_found_out(job: NewJob, rows: promise.Rows) -> None:
    for sent in (PHOTOS[:2], [*PHOTOS, b"3"], PHOTOS[::-1]):
        [wrong] = promise.answers(rows, job.id, sent, REFERENCE)
        assert "photos, not the" in wrong


def test_the_sampler_sees_a_moment_that_is_wrong(job: NewJob, owner_db: Database, owner_url: str) -> None:
    with Sampler(lambda: owner_url, seconds=0.01) as sampler:
        end = time.monotonic() + 30
        while not sampler.samples and time.monotonic() < end:
            time.sleep(0.01)
        assert (sampler.broken, sampler.results) == ([], 3)
        change(owner_db, "UPDATE job SET remaining = 2, classified = 1")
        while not sampler.broken and time.monotonic() < end:
            time.sleep(0.01)
    assert sampler.broken
    assert str(job.id) in sampler.broken[0]
