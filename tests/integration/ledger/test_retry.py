"""Trying failed photos again: a new round of the same job, counted, closed and accounted for like the first."""

import threading
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from shared.database import Database
from shared.errors import Conflict, Gone, NotFound, Refused
from shared.ledger.cancel import cancel, expire
from shared.ledger.complete import Outcome, complete
from shared.ledger.deletion import delete
from shared.ledger.retry import failed_photos, retry
from shared.ledger.sweep import disagreements, sweep
from tests.conftest import make_tenant
from tests.integration.ledger.factories import (
    change,
    check_invariants,
    finish,
    job_row,
    leases,
    result_rows,
    rows,
    submit_job,
    take,
    unit_rows,
    wait_for_waiters,
)

Act = Callable[[Session, UUID, UUID], None]
FAILED = (0, 10, 20, 30)


def closed_job(app_db: Database, worker_db: Database, tenant: UUID, photos: int = 40, every: int = 10) -> UUID:
    """Return a job that closed with one of ``every`` so many photos failed."""
    job = submit_job(app_db, tenant, photos)
    units = take(worker_db)
    outcomes = [
        Outcome(image.id, unit.id, image.ordinal, "failed" if image.ordinal % every == 0 else "classified")
        for unit in units
        for image in unit.images
    ]
    with worker_db.transaction() as session:
        complete(session, leases(units), outcomes)
    return job.id


def again(app_db: Database, tenant: UUID, job: UUID, receipt: str | None = None) -> None:
    with app_db.transaction(tenant) as session:
        retry(session, tenant, job, [photo.ordinal for photo in failed_photos(session, job)], receipt=receipt)


def test_failed_photos_get_another_try_and_the_others_keep_their_answers(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant)
    before = {row.image_id: row for row in result_rows(owner_db, job)}
    again(app_db, tenant, job, "ab" * 32)

    row = job_row(owner_db, job)
    assert (row.state, row.round, row.remaining, row.failed, row.classified) == ("queued", 1, 4, 0, 36)
    assert (row.closed_at, row.receipt_digest) == (None, "ab" * 32)
    check_invariants(owner_db)
    units = [unit for unit in unit_rows(owner_db, job) if unit.state == "ready"]
    assert [(unit.first, unit.n, unit.attempt, unit.crashes) for unit in units] == [(at, 1, 0, 0) for at in FAILED]
    assert sorted(unit.vft for unit in units) == [unit.vft for unit in units]
    assert len({unit.vft for unit in units}) == 4

    assert finish(worker_db, take(worker_db)).closed == (job,)
    row = job_row(owner_db, job)
    assert (row.state, row.round, row.remaining, row.failed, row.classified) == ("completed", 1, 0, 0, 40)
    for result in result_rows(owner_db, job):
        assert (result == before[result.image_id]) == (result.ordinal % 10 != 0)
    kept = rows(owner_db, "SELECT ordinal, round, outcome FROM result_history ORDER BY ordinal")
    assert kept == [(ordinal, 0, "failed") for ordinal in FAILED]
    check_invariants(owner_db)
    with owner_db.transaction() as session:
        assert disagreements(session) == []


def test_every_round_has_its_own_events_and_no_second_acceptance(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant, 3, every=1)
    for _ in range(2):
        again(app_db, tenant, job)
        finish(worker_db, take(worker_db), "failed")
    told = rows(owner_db, "SELECT kind, round FROM event WHERE job_id = :job ORDER BY seq", job=job)
    assert told == [("job.accepted", 0)] + [
        (kind, number) for number in range(3) for kind in ("job.started", "job.completed")
    ]
    assert rows(owner_db, "SELECT count(*), max(round) FROM result_history") == [(6, 1)]
    check_invariants(owner_db)


def test_tags_go_on_from_the_tenants_last_one(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant)
    last = rows(owner_db, "SELECT last_vft FROM flow")[0][0]
    again(app_db, tenant, job)
    [flow] = rows(owner_db, "SELECT lane, last_vft FROM flow")
    assert flow == ("normal", last + 1.0)  # four photos, four to a unit of virtual time
    assert min(unit.vft for unit in unit_rows(owner_db, job) if unit.state == "ready") == last + 0.25


def test_there_is_nothing_to_retry_in_an_open_job_one_without_failures_or_anothers(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    whole = closed_job(app_db, worker_db, tenant, 1, every=2)
    change(owner_db, "UPDATE result SET outcome = 'rejected'")
    change(owner_db, "UPDATE job SET rejected = 1, failed = 0, classified = 0")
    with pytest.raises(Conflict, match="no failed photos"):
        again(app_db, tenant, whole)
    failed = closed_job(app_db, worker_db, tenant)
    other = make_tenant(owner_db, "other clinic")
    with pytest.raises(NotFound):
        again(app_db, other, failed)
    again(app_db, tenant, failed)
    with pytest.raises(Conflict, match="queued"):
        again(app_db, tenant, failed)
    check_invariants(owner_db)


def test_what_ended_the_round_before_does_not_end_the_next(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant, 64, every=2)
    change(owner_db, "UPDATE job SET state = 'stopped', max_failure_rate = 0, deadline = now() - interval '1 hour'")
    again(app_db, tenant, job)
    sweep(worker_db)
    assert job_row(owner_db, job).remaining == 32
    finish(worker_db, take(worker_db))
    assert job_row(owner_db, job).state == "completed"


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_a_round_can_be_cancelled_or_expire_like_the_first(
    how: str, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant)
    again(app_db, tenant, job)
    with app_db.transaction(tenant) as session:
        if how == "cancelled":
            cancel(session, tenant, job)
        else:
            expire(session, job)
    row = job_row(owner_db, job)
    assert (row.state, getattr(row, how), row.classified) == (how, 4, 36)
    check_invariants(owner_db)


def test_of_two_retries_at_once_one_wins(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant)
    refused = beside(owner_db, app_db, tenant, job, first=retry_all, second=retry_all)
    assert isinstance(refused, Conflict)
    assert (job_row(owner_db, job).round, job_row(owner_db, job).remaining) == (1, 4)
    check_invariants(owner_db)


def test_of_a_retry_and_a_delete_at_once_one_wins(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant)
    assert isinstance(beside(owner_db, app_db, tenant, job, first=retry_all, second=delete), Conflict)
    check_invariants(owner_db)
    finish(worker_db, take(worker_db), "failed")
    assert isinstance(beside(owner_db, app_db, tenant, job, first=delete, second=retry_all), Gone)
    assert rows(owner_db, "SELECT 1 FROM unit") == rows(owner_db, "SELECT 1 FROM result_history") == []


def retry_all(session: Session, tenant: UUID, job: UUID) -> None:
    retry(session, tenant, job, range(40))


def beside(owner_db: Database, app_db: Database, tenant: UUID, job: UUID, *, first: Act, second: Act) -> Refused | None:
    """Do the first thing, and the second while the first is not committed; return what the second was refused with."""
    refused: list[Refused] = []

    def late() -> None:
        try:
            with app_db.transaction(tenant) as session:
                second(session, tenant, job)
        except Refused as error:
            refused.append(error)

    thread = threading.Thread(target=late)
    with app_db.transaction(tenant) as session:
        first(session, tenant, job)
        thread.start()
        wait_for_waiters(owner_db)
    thread.join(20)
    return refused[0] if refused else None
