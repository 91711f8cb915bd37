"""The sweep: one process at a time, and everything that must happen even if nobody asks."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared.database import Database
from shared.ledger.complete import complete
from shared.ledger.sweep import Sweep, disagreements, sweep
from tests.integration.ledger.factories import (
    answers,
    change,
    check_invariants,
    finish,
    job_row,
    kinds,
    leases,
    let_leases_expire,
    rows,
    submit_job,
    take,
    unit_rows,
    wait_for_waiters,
)


def swept(worker_db: Database) -> Sweep:
    found = sweep(worker_db)
    assert found is not None
    return found


def test_a_second_sweep_at_once_stands_back(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 1)
    take(worker_db)
    let_leases_expire(owner_db)
    change(owner_db, "UPDATE unit SET crashes = 2")
    with ThreadPoolExecutor(1) as pool:
        # The first one is held up in the middle of its reaping by a lock on the job.
        with owner_db.transaction() as session:
            session.execute(sa.text("SELECT 1 FROM job FOR UPDATE"))
            first = pool.submit(sweep, worker_db)
            wait_for_waiters(owner_db)
            assert sweep(worker_db) is None
        found = first.result(20)
    assert found is not None
    assert found.reaped.quarantined == 1
    check_invariants(owner_db)


def test_it_tells_which_lanes_have_work(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    assert swept(worker_db).ready == {}
    submit_job(app_db, tenant, 1)
    submit_job(app_db, tenant, 40)
    submit_job(app_db, tenant, 200)
    assert swept(worker_db).ready == {"interactive": 1, "normal": 2, "bulk": 7}
    take(worker_db)
    assert swept(worker_db).ready == {}


def test_it_counts_the_workers_that_reported_themselves_and_at_least_one(
    owner_db: Database, worker_db: Database
) -> None:
    assert swept(worker_db).workers == 1
    for name, age in (("a", 1), ("b", 2), ("gone", 60)):
        seen = (
            "INSERT INTO worker_node (name, state, last_seen) "
            "VALUES (:name, 'ready', now() - make_interval(secs => :age))"
        )
        change(owner_db, seen, name=name, age=age)
    assert swept(worker_db).workers == 2


def test_one_sweep_does_it_all(owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID) -> None:
    lost, waiting, overdue = (submit_job(app_db, tenant, 2) for _ in range(3))
    take(worker_db, 1)
    let_leases_expire(owner_db)
    change(owner_db, "UPDATE unit SET state = 'waiting' WHERE job_id IN (:a, :b)", a=waiting.id, b=overdue.id)
    change(owner_db, "UPDATE job SET deadline = now() WHERE id = :job", job=overdue.id)
    found = swept(worker_db)
    assert (found.reaped.split, found.expired, found.promoted, found.ready) == (1, 1, 2, {"normal": 4})
    assert [unit.state for unit in unit_rows(owner_db, lost.id)] == ["split", "ready", "ready"]
    assert [unit.state for unit in unit_rows(owner_db, waiting.id)] == ["ready"]
    assert job_row(owner_db, overdue.id).state == "expired"
    check_invariants(owner_db)


@pytest.mark.parametrize(
    ("allowed", "finished", "failures", "stops"),
    [
        (0.5, 64, 33, True),  # 33 / 64 is more than a half
        (0.5, 64, 32, False),  # a half is allowed
        (0.0, 64, 1, True),
        (0.0, 64, 0, False),
        (1.0, 64, 64, False),
        (0.0, 32, 32, False),  # fewer than 50 finished say nothing
        (None, 64, 64, False),
    ],
)
def test_a_job_that_fails_more_than_it_allows_is_stopped(
    *,
    owner_db: Database,
    app_db: Database,
    worker_db: Database,
    tenant: UUID,
    allowed: float | None,
    finished: int,
    failures: int,
    stops: bool,
) -> None:
    job = submit_job(app_db, tenant, 96, max_failure_rate=allowed)
    units = take(worker_db, finished // 32)
    outcomes = answers(units)
    half = failures // 2
    bad = [item._replace(outcome="rejected") for item in outcomes[:half]]
    bad += [item._replace(outcome="failed") for item in outcomes[half:failures]]
    with worker_db.transaction() as session:
        complete(session, leases(units), bad + outcomes[failures:])
    assert swept(worker_db).stopped == int(stops)
    row = job_row(owner_db, job.id)
    assert (row.state, row.cancelled) == (("stopped", 96 - finished) if stops else ("running", 0))
    assert row.rejected + row.failed == failures
    assert kinds(owner_db, job.id)[2:] == (["job.stopped"] if stops else [])
    check_invariants(owner_db)
    assert swept(worker_db).stopped == 0


def test_a_sweep_that_waits_for_a_unit_holds_no_job(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    """Whoever has units goes on to lock jobs; a sweep that had a job and waited for units would close the circle."""
    dying, overdue = submit_job(app_db, tenant, 1), submit_job(app_db, tenant, 2)
    take(worker_db)
    change(owner_db, "UPDATE unit SET crashes = 2 WHERE job_id = :job", job=dying.id)
    change(owner_db, "UPDATE unit SET lease_until = now() - interval '1 second' WHERE job_id = :job", job=dying.id)
    change(owner_db, "UPDATE job SET deadline = now() WHERE id = :job", job=overdue.id)
    with ThreadPoolExecutor(1) as pool:
        with owner_db.transaction() as session:
            session.execute(sa.text("SELECT 1 FROM unit WHERE job_id = :job FOR UPDATE"), {"job": overdue.id})
            sweeping = pool.submit(swept, worker_db)
            wait_for_waiters(owner_db)
            free = rows(owner_db, "SELECT id FROM job FOR UPDATE SKIP LOCKED")
            counters = rows(owner_db, "SELECT 1 FROM event_counter FOR UPDATE SKIP LOCKED")
        found = sweeping.result(20)
    assert (found.reaped.quarantined, found.expired) == (1, 1)
    assert {row.id for row in free} == {dying.id, overdue.id}
    assert len(counters) == 1
    check_invariants(owner_db)


def test_a_disagreement_of_counters_and_results_is_found(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    def found() -> list[UUID]:
        with worker_db.transaction() as session:
            return disagreements(session)

    good, bad = submit_job(app_db, tenant, 3), submit_job(app_db, tenant, 3)
    finish(worker_db, take(worker_db))
    assert found() == []
    change(owner_db, "DELETE FROM result WHERE job_id = :job AND ordinal = 1", job=bad.id)
    assert found() == [bad.id]
    change(owner_db, "UPDATE job SET closed_at = now() - interval '1 hour'")
    assert found() == []
    assert job_row(owner_db, good.id).state == "completed"


def test_a_job_that_cannot_be_ended_holds_up_no_other_work(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    stuck, other = submit_job(app_db, tenant, 1).id, submit_job(app_db, tenant, 1).id
    change(owner_db, "UPDATE job SET deadline = now() - interval '1 second'")
    change(owner_db, f"UPDATE unit SET state = 'waiting', available_at = now() WHERE job_id = '{other}'")
    change(owner_db, f"ALTER TABLE result ADD CONSTRAINT bad_day CHECK (job_id <> '{stuck}')")
    try:
        found = swept(worker_db)
    finally:
        change(owner_db, "ALTER TABLE result DROP CONSTRAINT bad_day")
    assert (found.promoted, found.expired) == (1, 1)
    assert job_row(owner_db, other).state == "expired"
    assert job_row(owner_db, stuck).state == "queued"
    assert swept(worker_db).expired == 1
    check_invariants(owner_db)
