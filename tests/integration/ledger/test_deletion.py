"""Deleting a job: all it has goes, its row stays as a tombstone, and nobody reads half of it meanwhile."""

import threading
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared import history
from shared.database import Database, new_id
from shared.errors import Conflict, Gone, NotFound
from shared.job_search import Wanted, find
from shared.ledger.cancel import cancel
from shared.ledger.deletion import delete
from shared.ledger.sweep import disagreements
from shared.views import JobDeleted
from tests.conftest import make_tenant
from tests.integration.ledger.factories import (
    change,
    check_invariants,
    finish,
    job_row,
    kinds,
    rows,
    submit_job,
    take,
    wait_for_waiters,
)


def end(app_db: Database, tenant: UUID, job: UUID, receipt: str | None = None) -> None:
    with app_db.transaction(tenant) as session:
        delete(session, tenant, job, receipt)


def belongings(owner_db: Database, job: UUID) -> dict[str, int]:
    return {
        table: rows(owner_db, f"SELECT count(*) FROM {table} WHERE job_id = :job", job=job)[0][0]
        for table in ("image", "result", "unit", "endpoint")
    }


def closed_job(app_db: Database, worker_db: Database, tenant: UUID, photos: int = 40) -> UUID:
    job = submit_job(app_db, tenant, photos, details={"metadata": {"patient": "somebody"}})
    finish(worker_db, take(worker_db))
    return job.id


def test_all_that_a_job_has_goes_and_its_tombstone_stays(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    other = closed_job(app_db, worker_db, tenant, 3)
    job = closed_job(app_db, worker_db, tenant)
    change(
        owner_db,
        "INSERT INTO endpoint (id, tenant_id, url, secret, job_id) VALUES (:id, :tenant, 'https://a.test', 's', :job)",
        id=new_id(),
        tenant=tenant,
        job=job,
    )
    assert min(belongings(owner_db, job).values()) > 0
    end(app_db, tenant, job, "ab" * 32)

    assert set(belongings(owner_db, job).values()) == {0}
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.classified, row.details) == ("completed", 40, 40, {})
    assert (row.deleted_at == row.purge_at, row.purged_at, row.receipt_digest) == (True, None, "ab" * 32)
    # The feed has no gap, and says nothing that would have to be deleted.
    assert kinds(owner_db, job) == ["job.accepted", "job.started", "job.completed"]
    assert belongings(owner_db, other)["result"] == 3
    with owner_db.transaction() as session:
        assert disagreements(session) == []
    check_invariants(owner_db)


def test_a_deleted_job_is_known_by_its_tombstone_alone(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    job = closed_job(app_db, worker_db, tenant)
    with app_db.transaction(tenant) as session:
        [image] = session.execute(sa.text("SELECT id FROM image WHERE ordinal = 7")).scalars()
    end(app_db, tenant, job)
    with app_db.transaction(tenant) as session:
        with pytest.raises(JobDeleted) as raised:
            history.job(session, job)
        with pytest.raises(NotFound):
            history.image(session, image)
        assert find(session, Wanted()).jobs == []
        assert list(history.manifest(session, job)) == []
    assert (raised.value.tombstone.job.state, raised.value.tombstone.job.counts["classified"]) == ("completed", 40)


def test_deleting_twice_changes_nothing_and_says_so(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant, 1)
    end(app_db, tenant, job, "first")
    before = job_row(owner_db, job)
    with pytest.raises(Gone):
        end(app_db, tenant, job, "second")
    assert job_row(owner_db, job) == before


def test_an_open_job_is_cancelled_first(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 40).id
    with pytest.raises(Conflict, match="queued: cancel it first"):
        end(app_db, tenant, job)
    held = take(worker_db, 1)
    with pytest.raises(Conflict, match="running: cancel it first"):
        end(app_db, tenant, job)
    check_invariants(owner_db)
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job)
    end(app_db, tenant, job)
    # The worker that still has the photos writes nothing.
    assert finish(worker_db, held).written == 0
    assert set(belongings(owner_db, job).values()) == {0}


def test_another_tenants_job_cannot_be_deleted(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant)
    other = make_tenant(owner_db, "other clinic")
    for named in (other, tenant):
        with pytest.raises(NotFound), app_db.transaction(other) as session:
            delete(session, named, job)
    assert belongings(owner_db, job)["result"] == 40


def test_a_reader_sees_all_results_or_the_tombstone_and_never_some(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant)
    with app_db.transaction(tenant) as session:
        view = history.job(session, job)
        assert len(history.results(session, view).rows) == 40
        end(app_db, tenant, job)
        # The reader has seen the job, and comes for its rows too late.
        with pytest.raises(JobDeleted):
            history.results(session, view)


def test_of_two_who_delete_at_once_one_does_it(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = closed_job(app_db, worker_db, tenant)
    refused: list[BaseException] = []

    def second() -> None:
        try:
            end(app_db, tenant, job, "second")
        except Gone as error:
            refused.append(error)

    thread = threading.Thread(target=second)
    with app_db.transaction(tenant) as session:
        delete(session, tenant, job, "first")
        thread.start()
        wait_for_waiters(owner_db)
    thread.join(20)
    assert len(refused) == 1
    assert job_row(owner_db, job).receipt_digest == "first"
