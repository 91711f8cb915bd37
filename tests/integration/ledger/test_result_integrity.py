"""What a result names is there, and goes with it: kept by triggers that look once a statement."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from shared.database import Database, new_id
from tests.integration.ledger.factories import change, finish, rows, submit_job, take, wait_for_waiters
from tests.integration.ledger.said import said

INSERT = sa.text("""
    INSERT INTO result (image_id, tenant_id, job_id, ordinal, fence, outcome, reasons, attempts, has_copy, scheme_id,
                        numbers)
    VALUES (:image, :tenant, :job, :ordinal, 1, 'failed', '{}', 1, false, :scheme, :numbers)
""")


@pytest.mark.parametrize("wrong", ["image", "job", "ordinal", "scheme"])
@pytest.mark.parametrize("role", ["owner_db", "app_db", "worker_db"])
def test_no_role_writes_a_result_of_what_is_not_there(
    request: pytest.FixtureRequest, app_db: Database, tenant: UUID, wrong: str, role: str
) -> None:
    first, second = submit_job(app_db, tenant, 2), submit_job(app_db, tenant, 2)
    named: dict[str, object] = {"image": first.images[0].id, "tenant": tenant, "job": first.id, "ordinal": 0}
    wrongs: dict[str, dict[str, object]] = {
        "image": {"image": new_id()},
        "job": {"job": second.id},
        "ordinal": {"ordinal": 1},
        "scheme": {"scheme": new_id(), "numbers": b"x"},
    }
    named |= {"scheme": None, "numbers": None} | wrongs[wrong]
    database: Database = request.getfixturevalue(role)
    with (
        pytest.raises(IntegrityError, match="foreign key"),
        database.transaction(tenant if role == "app_db" else None) as session,
    ):
        session.execute(INSERT, named)


def test_a_result_cannot_be_moved_to_another_image(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 1)
    finish(worker_db, take(worker_db))
    other = submit_job(app_db, tenant, 1)
    with pytest.raises(IntegrityError, match="foreign key"):
        change(owner_db, "UPDATE result SET image_id = :image", image=other.images[0].id)


@pytest.mark.parametrize(
    "statement", ["DELETE FROM image", "DELETE FROM job", "DELETE FROM tenant", "TRUNCATE tenant CASCADE"]
)
def test_results_go_with_their_images_jobs_and_tenants(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID, statement: str
) -> None:
    submit_job(app_db, tenant, 40)
    finish(worker_db, take(worker_db), **said())
    assert len(rows(owner_db, "SELECT 1 FROM result")) == 40
    change(owner_db, statement)
    assert rows(owner_db, "SELECT 1 FROM result") == []


def test_a_job_whose_results_are_being_written_is_deleted_after_them_and_with_them(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 2)
    with ThreadPoolExecutor(1) as pool:
        with worker_db.transaction() as session:
            for at, image in enumerate(job.images):
                session.execute(
                    INSERT,
                    {
                        "image": image.id,
                        "tenant": tenant,
                        "job": job.id,
                        "ordinal": at,
                        "scheme": None,
                        "numbers": None,
                    },
                )
            deleting = pool.submit(change, owner_db, "DELETE FROM job")
            wait_for_waiters(owner_db)
        deleting.result(20)
    assert rows(owner_db, "SELECT 1 FROM result") == []


def test_a_result_of_a_job_that_is_being_deleted_waits_and_is_refused(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 1)
    named = {"image": job.images[0].id, "tenant": tenant, "job": job.id, "ordinal": 0, "scheme": None, "numbers": None}

    def write() -> None:
        with worker_db.transaction() as session:
            session.execute(INSERT, named)

    with ThreadPoolExecutor(1) as pool:
        with owner_db.transaction() as session:
            session.execute(sa.text("DELETE FROM job"))
            writing = pool.submit(write)
            wait_for_waiters(owner_db)
        with pytest.raises(IntegrityError, match="foreign key"):
            writing.result(20)
    assert rows(owner_db, "SELECT 1 FROM result") == []


def test_a_scheme_is_written_once_however_many_results_name_it(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 64)
    for _ in range(2):
        finish(worker_db, take(worker_db, 1), **said())
    submit_job(app_db, tenant, 1)
    finish(worker_db, take(worker_db), **said(model_digest="cd" * 32))
    found = rows(
        owner_db,
        """
        SELECT s.model_digest, count(*) FROM result r JOIN answer_scheme s ON s.id = r.scheme_id GROUP BY 1 ORDER BY 1
        """,
    )
    assert found == [("ab" * 32, 64), ("cd" * 32, 1)]
