"""Ending a job early: exactly one outcome a photo and one closing event, whoever comes first."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared.database import Database, new_id
from shared.errors import Conflict, NotFound
from shared.ledger.cancel import _END_IMAGES, cancel, expire
from shared.ledger.complete import Deferred, complete
from shared.ledger.reap import reap
from shared.ledger.sweep import sweep
from tests.conftest import make_tenant
from tests.integration.ledger.factories import (
    answers,
    change,
    check_invariants,
    finish,
    job_row,
    kinds,
    leases,
    let_leases_expire,
    result_rows,
    rows,
    submit_job,
    take,
    unit_rows,
    wait_for_waiters,
)


def end(app_db: Database, tenant: UUID, job: UUID) -> None:
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job)


def test_a_cancel_keeps_finished_answers_and_gives_the_others_theirs(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 96)
    done, held = take(worker_db, 2)
    finish(worker_db, [done])
    end(app_db, tenant, job.id)

    row = job_row(owner_db, job.id)
    assert (row.state, row.remaining, row.classified, row.cancelled) == ("cancelled", 0, 32, 64)
    assert [result.outcome for result in result_rows(owner_db, job.id)] == ["classified"] * 32 + ["cancelled"] * 64
    assert [unit.state for unit in unit_rows(owner_db, job.id)] == ["done", "cancelled", "cancelled"]
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started", "job.cancelled"]
    check_invariants(owner_db)
    # The worker that still has the photos writes nothing, and there is nothing left to claim.
    assert finish(worker_db, [held]).written == 0
    assert take(worker_db) == []
    check_invariants(owner_db)


def test_cancelled_photos_say_under_which_fence_and_attempt(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 33)
    [held] = take(worker_db, 1)
    end(app_db, tenant, job.id)
    found = result_rows(owner_db, job.id)
    assert {(row.fence, row.attempts, row.has_copy, row.numbers) for row in found[:32]} == {
        (held.fence, 1, False, None)
    }
    assert (found[32].fence, found[32].attempts) == (0, 0)


def test_cancelling_twice_is_no_error_and_has_one_event(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    job = submit_job(app_db, tenant, 5)
    end(app_db, tenant, job.id)
    end(app_db, tenant, job.id)
    assert kinds(owner_db, job.id) == ["job.accepted", "job.cancelled"]
    check_invariants(owner_db)


def test_a_completed_job_cannot_be_cancelled(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 1)
    finish(worker_db, take(worker_db))
    with pytest.raises(Conflict, match="completed already"):
        end(app_db, tenant, job.id)
    check_invariants(owner_db)


def test_unknown_jobs_and_other_tenants_jobs_are_not_found(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    other = make_tenant(owner_db, "other clinic")
    job = submit_job(app_db, other, 1)
    for stranger in (job.id, new_id()):
        with pytest.raises(NotFound):
            end(app_db, tenant, stranger)
    assert job_row(owner_db, job.id).state == "queued"


def test_waiting_photos_are_cancelled_too(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 2)
    [unit] = take(worker_db)
    with worker_db.transaction() as session:
        complete(session, leases([unit]), answers([unit])[:1], [Deferred(unit.id, 1, 3600)])
    end(app_db, tenant, job.id)
    assert [row.outcome for row in result_rows(owner_db, job.id)] == ["classified", "cancelled"]
    check_invariants(owner_db)


# Races, one interleaving at a time


def test_a_cancel_that_meets_a_split_under_way_ends_the_pieces_too(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    """The only open unit is being split, so the cancel finds none under its lock; the pieces come after."""
    job = submit_job(app_db, tenant, 8)
    take(worker_db)
    let_leases_expire(owner_db)
    with ThreadPoolExecutor(1) as pool:
        with worker_db.transaction() as session:
            assert reap(session).split == 1
            cancelling = pool.submit(end, app_db, tenant, job.id)
            wait_for_waiters(owner_db)
        cancelling.result(20)
    assert job_row(owner_db, job.id).cancelled == 8
    assert kinds(owner_db, job.id)[-1] == "job.cancelled"
    check_invariants(owner_db)


def test_a_cancel_that_meets_a_completion_ends_what_it_deferred(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 8)
    [unit] = take(worker_db)
    with ThreadPoolExecutor(1) as pool:
        with worker_db.transaction() as session:
            complete(session, leases([unit]), answers([unit])[:5], [Deferred(unit.id, n, 9) for n in (5, 6, 7)])
            cancelling = pool.submit(end, app_db, tenant, job.id)
            wait_for_waiters(owner_db)
        cancelling.result(20)
    row = job_row(owner_db, job.id)
    assert (row.state, row.classified, row.cancelled) == ("cancelled", 5, 3)
    check_invariants(owner_db)


def test_a_cancel_that_meets_the_last_completion_comes_too_late(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 8)
    [unit] = take(worker_db)
    with ThreadPoolExecutor(1) as pool:
        with worker_db.transaction() as session:
            complete(session, leases([unit]), answers([unit]))
            cancelling = pool.submit(end, app_db, tenant, job.id)
            wait_for_waiters(owner_db)
        with pytest.raises(Conflict):
            cancelling.result(20)
    assert kinds(owner_db, job.id)[-1] == "job.completed"
    check_invariants(owner_db)


def test_a_completion_that_meets_a_cancel_writes_nothing(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 8)
    units = take(worker_db)
    with ThreadPoolExecutor(1) as pool:
        with app_db.transaction(tenant) as session:
            cancel(session, tenant, job.id)
            completing = pool.submit(finish, worker_db, units)
            wait_for_waiters(owner_db)
        assert completing.result(20).written == 0
    assert job_row(owner_db, job.id).cancelled == 8
    check_invariants(owner_db)


def test_two_cancels_at_once_are_one(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    job = submit_job(app_db, tenant, 40)
    with ThreadPoolExecutor(1) as pool:
        with app_db.transaction(tenant) as session:
            cancel(session, tenant, job.id)
            second = pool.submit(end, app_db, tenant, job.id)
            wait_for_waiters(owner_db)
        second.result(20)
    assert kinds(owner_db, job.id).count("job.cancelled") == 1
    check_invariants(owner_db)


# Races left to chance


def run_together(chance: random.Random, *acts: Callable[[], object]) -> list[Exception | None]:
    """Run these at once, spread over some milliseconds, and return the error of each."""
    together = threading.Barrier(len(acts))

    def run(act: Callable[[], object], delay: float) -> None:
        together.wait()
        time.sleep(delay)  # spreads the runners out; nothing waits for this
        act()

    with ThreadPoolExecutor(len(acts)) as pool:
        running = [pool.submit(run, act, chance.random() * 0.008) for act in acts]
        errors = [future.exception(30) for future in running]
    unexpected = [error for error in errors if error is not None and not isinstance(error, Conflict)]
    if unexpected:
        raise unexpected[0]
    return [error if isinstance(error, Conflict) else None for error in errors]


def reap_once(worker_db: Database) -> None:
    with worker_db.transaction() as session:
        reap(session)


def test_cancels_completions_and_splits_in_any_order_leave_one_outcome_a_photo(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    """A deadlock would be an error of one of the three, since PostgreSQL ends one of those in the circle."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    winners = set()
    for number in range(40):
        job = submit_job(app_db, tenant, 70)
        units = take(worker_db, 3)
        if number % 2:
            late = "UPDATE unit SET lease_until = now() - interval '1 second' WHERE id = :id"
            change(owner_db, late, id=chance.choice(units).id)
        chance.shuffle(units)
        too_late = run_together(
            chance,
            partial(end, app_db, tenant, job.id),
            partial(finish, worker_db, units),
            partial(reap_once, worker_db),
        )[0]
        row = job_row(owner_db, job.id)
        assert row.state == ("completed" if too_late else "cancelled"), f"seed {seed}, round {number}"
        winners.add((row.cancelled > 0, row.classified > 0))
        check_invariants(owner_db, f"seed {seed}, round {number}")
    assert len(winners) > 1, f"seed {seed}: the race had one winner each time"


# Deadlines


def test_a_deadline_ends_a_job_through_the_sweep(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job, later = submit_job(app_db, tenant, 64), submit_job(app_db, tenant, 1)
    change(owner_db, "UPDATE job SET deadline = now() + interval '1 hour'")
    done, _ = take(worker_db, 2, lanes=("normal",))
    finish(worker_db, [done])
    swept = sweep(worker_db)
    assert swept is not None
    assert swept.expired == 0

    change(owner_db, "UPDATE job SET deadline = now() - interval '1 second' WHERE id = :job", job=job.id)
    swept = sweep(worker_db)
    assert swept is not None
    assert (swept.expired, swept.ready) == (1, {"interactive": 1})
    row = job_row(owner_db, job.id)
    assert (row.state, row.classified, row.expired) == ("expired", 32, 32)
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started", "job.expired"]
    assert job_row(owner_db, later.id).state == "queued"
    check_invariants(owner_db)
    swept = sweep(worker_db)
    assert swept is not None
    assert swept.expired == 0
    with pytest.raises(Conflict, match="expired already"):
        end(app_db, tenant, job.id)


def test_expiry_after_completion_changes_nothing(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 1)
    finish(worker_db, take(worker_db))
    before = job_row(owner_db, job.id)
    with worker_db.transaction() as session:
        expire(session, job.id)
    assert job_row(owner_db, job.id) == before
    assert len(rows(owner_db, "SELECT 1 FROM result")) == 1
    check_invariants(owner_db)


def test_ending_a_job_compares_no_unit_with_the_photos_of_others(
    owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 3000)
    change(owner_db, "ANALYZE image, unit")
    units = [str(row.id) for row in rows(owner_db, "SELECT id FROM unit")]
    with app_db.transaction(tenant) as session:
        asked = sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {_END_IMAGES.text}")
        [found] = session.execute(asked, {"units": units, "outcome": "cancelled"}).scalar_one()
        session.rollback()
    # Rows of a plan are means of its loops, rounded.
    assert _looked_at(found["Plan"]) == pytest.approx(3000, rel=0.05)


def _looked_at(plan: dict[str, Any]) -> float:
    """Return how many photos a plan reads, and pairs with units in vain."""
    removed = sum(plan.get(f"Rows Removed by {kind}", 0) for kind in ("Filter", "Join Filter"))
    own = removed + (plan["Actual Rows"] if plan.get("Relation Name") == "image" else 0)
    return float(plan["Actual Loops"] * own) + sum(_looked_at(part) for part in plan.get("Plans", []))
