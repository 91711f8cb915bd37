"""Claiming: who gets what, under which fence, and how long it stays theirs."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import sqlalchemy as sa

from shared.database import Database, new_id
from shared.ledger.claim import Claimed, Lease, claim, heartbeat, people_wait
from tests.conftest import make_tenant
from tests.integration.ledger.factories import (
    LEASE,
    change,
    check_invariants,
    finish,
    follow_the_given_order,
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


def test_a_claim_takes_the_first_units_with_their_photos_in_order(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 70)
    units = take(worker_db, 2)

    assert [(unit.first, unit.n, unit.attempt, unit.crashes, unit.lane) for unit in units] == [
        (0, 32, 1, 0, "normal"),
        (32, 32, 1, 0, "normal"),
    ]
    assert [image.ordinal for unit in units for image in unit.images] == list(range(64))
    assert [(image.id, image.storage_key, image.bytes) for unit in units for image in unit.images] == [
        (image.id, image.storage_key, image.bytes) for image in job.images[:64]
    ]
    assert {(unit.tenant_id, unit.job_id) for unit in units} == {(tenant, job.id)}
    assert [unit.state for unit in unit_rows(owner_db, job.id)] == ["leased", "leased", "ready"]
    held = unit_rows(owner_db, job.id)[0]
    assert (held.leased_by, held.fence) == ("host/worker", units[0].fence)
    left = rows(owner_db, "SELECT extract(epoch FROM lease_until - now()) FROM unit WHERE id = :id", id=units[0].id)
    assert 0 < left[0][0] <= LEASE
    assert [unit.first for unit in take(worker_db, 5)] == [64]
    assert take(worker_db, 5) == []


def test_the_first_claim_of_a_job_starts_it_once(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 64)
    take(worker_db, 1)
    started = job_row(owner_db, job.id)
    assert started.state == "running"
    assert started.started_at is not None
    take(worker_db, 1)
    let_leases_expire(owner_db)
    assert job_row(owner_db, job.id).started_at == started.started_at
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started"]
    check_invariants(owner_db)


def test_small_units_are_claimed_together_and_a_large_one_alone(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    for photos in (1, 1, 3, 1, 1):
        submit_job(app_db, tenant, photos, "normal")

    def sizes(units: int, photos: int) -> list[int]:
        with worker_db.transaction() as session:
            return [unit.n for unit in claim(session, "host/worker", units=units, photos=photos, lease_seconds=LEASE)]

    assert sizes(8, 3) == [1, 1, 3]
    assert sizes(8, 3) == [1, 1]
    submit_job(app_db, tenant, 64, "normal")
    assert sizes(8, 10) == [32]
    assert sizes(1, 100) == [32]


def test_fences_only_grow(owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID) -> None:
    submit_job(app_db, tenant, 1)
    fences = []
    for _ in range(4):
        [unit] = take(worker_db)
        fences.append(unit.fence)
        change(owner_db, "UPDATE unit SET state = 'ready', leased_by = NULL, lease_until = NULL")
    assert fences == sorted(set(fences))
    assert unit.attempt == 4


def test_two_sessions_open_at_once_share_the_units_without_waiting(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 320)
    # The job runs already; the first start of a job is the one thing that two claims wait for.
    first = take(worker_db, 1)
    with worker_db.transaction() as one, worker_db.transaction() as other:
        a = claim(one, "host/a", units=4, lease_seconds=LEASE)
        b = claim(other, "host/b", units=4, lease_seconds=LEASE)
    assert len({unit.id for unit in [*first, *a, *b]}) == 9
    assert max(unit.first for unit in a) < min(unit.first for unit in b)


def test_many_threads_claim_every_unit_once(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    jobs = [submit_job(app_db, tenant, 320) for _ in range(4)]
    together = threading.Barrier(4)

    def work(name: str) -> list[Claimed]:
        together.wait()
        mine: list[Claimed] = []
        while units := take(worker_db, 3, worker=name):
            mine += units
        return mine

    with ThreadPoolExecutor(4) as pool:
        claimed = [unit for mine in pool.map(work, ["h/a", "h/b", "h/c", "h/d"]) for unit in mine]
    assert len(claimed) == 40
    assert len({unit.id for unit in claimed}) == 40
    assert len({unit.fence for unit in claimed}) == 40
    for job in jobs:
        assert kinds(owner_db, job.id) == ["job.accepted", "job.started"]


def test_a_second_claim_waits_for_the_first_to_start_the_job_and_does_not_start_it_again(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 64)
    with ThreadPoolExecutor(1) as pool:
        with worker_db.transaction() as session:
            claim(session, "host/a", units=1, lease_seconds=LEASE)
            second = pool.submit(take, worker_db, 1)
            wait_for_waiters(owner_db)
        assert len(second.result(20)) == 1
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started"]


def test_a_claim_that_rolls_back_leaves_the_units_ready(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 64)
    with worker_db.transaction() as session:
        assert len(claim(session, "host/a", units=2, lease_seconds=LEASE)) == 2
        session.rollback()
    assert [unit.state for unit in unit_rows(owner_db, job.id)] == ["ready", "ready"]
    assert job_row(owner_db, job.id).state == "queued"
    assert kinds(owner_db, job.id) == ["job.accepted"]


def test_people_wait_where_an_interactive_unit_of_few_photos_is_ready(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    def wait() -> bool:
        with worker_db.looking() as session:
            return people_wait(session)

    submit_job(app_db, tenant, 200)
    submit_job(app_db, tenant, 5, "interactive")
    assert not wait()
    submit_job(app_db, tenant, 4, "interactive")
    assert wait()
    with worker_db.transaction() as session:
        taken = claim(session, "host/a", units=8, lease_seconds=LEASE, whose="people", busy=True)
    assert [unit.n for unit in taken] == [4]
    assert not wait()


def test_whoever_leaves_people_to_others_takes_of_them_suspects_alone(
    app_db: Database, worker_db: Database, owner_db: Database, tenant: UUID
) -> None:
    person = submit_job(app_db, tenant, 1, "interactive")
    many = submit_job(app_db, tenant, 40)
    assert {unit.job_id for unit in take(worker_db, 8, whose="others")} == {many.id}
    change(owner_db, "UPDATE unit SET crashes = 1 WHERE state = 'ready'")
    assert [unit.job_id for unit in take(worker_db, 8, whose="others")] == [person.id]


def test_lanes_filter_what_is_claimed(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    submit_job(app_db, tenant, 200)
    submit_job(app_db, tenant, 10)
    submit_job(app_db, tenant, 1)
    assert [unit.lane for unit in take(worker_db, 10, lanes=("interactive",))] == ["interactive"]
    assert take(worker_db, 10, lanes=("interactive",)) == []
    assert [unit.lane for unit in take(worker_db, 10, lanes=("normal", "interactive"))] == ["normal"]
    assert {unit.lane for unit in take(worker_db, 10)} == {"bulk"}


def test_units_that_wait_or_are_closed_are_never_claimed(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 1)
    for state in ("waiting", "leased", "done", "split", "dead", "cancelled"):
        change(owner_db, "UPDATE unit SET state = :state", state=state)
        assert take(worker_db) == [], state


def suspects(owner_db: Database, *firsts: int) -> None:
    change(owner_db, "UPDATE unit SET crashes = 1 WHERE first = ANY (:firsts)", firsts=list(firsts))


def test_a_suspect_is_claimed_alone(owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID) -> None:
    submit_job(app_db, tenant, 160)
    suspects(owner_db, 0, 32, 96)
    claims = []
    while units := take(worker_db, 10):
        claims.append([unit.first for unit in units])
    # Healthy units do not wait for a suspect behind them, nor does a suspect at the head wait for them.
    assert claims == [[0], [32], [64, 128], [96]]


def test_a_suspect_under_somebody_elses_lock_holds_nobody_up(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 160)
    take(worker_db, 1)
    suspects(owner_db, 32, 128)
    with worker_db.transaction() as one, worker_db.transaction() as other, worker_db.transaction() as third:
        assert [unit.first for unit in claim(one, "h/a", units=9, lease_seconds=LEASE)] == [32]
        assert [unit.first for unit in claim(other, "h/b", units=9, lease_seconds=LEASE)] == [128]
        assert [unit.first for unit in claim(third, "h/c", units=9, lease_seconds=LEASE)] == [64, 96]


def test_a_suspect_behind_locked_units_is_found(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 96)
    take(worker_db, 1)
    suspects(owner_db, 64)
    with worker_db.transaction() as one, worker_db.transaction() as other:
        assert [unit.first for unit in claim(one, "h/a", units=9, lease_seconds=LEASE)] == [32]
        # The head, as the second claim still sees it, is healthy and taken.
        assert [unit.first for unit in claim(other, "h/b", units=9, lease_seconds=LEASE)] == [64]


def test_a_busy_worker_gets_no_suspect_and_nothing_past_one(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    def busy(units: int) -> list[int]:
        with worker_db.transaction() as session:
            found = claim(session, "host/worker", units=units, lease_seconds=LEASE, busy=True)
        return [unit.first for unit in found]

    submit_job(app_db, tenant, 128)
    suspects(owner_db, 32, 96)
    assert busy(1) == [0]
    assert busy(9) == []
    assert [unit.first for unit in take(worker_db, 9)] == [32]
    assert busy(9) == [64]
    assert busy(9) == []
    assert [unit.first for unit in take(worker_db, 9)] == [96]


def test_one_urgent_photo_is_in_the_very_next_claim_whatever_is_queued(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 10_000)
    finish(worker_db, take(worker_db, 8))
    urgent = submit_job(app_db, make_tenant(owner_db, "other clinic"), 1)
    assert [unit.job_id for unit in take(worker_db, 8)].count(urgent.id) == 1
    # The tenant's own urgent photo does not wait for its own bulk either.
    own = submit_job(app_db, tenant, 1)
    assert own.id in {unit.job_id for unit in take(worker_db, 8)}


def test_two_clinics_of_equal_weight_share_evenly(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 10_000)
    take(worker_db, 8)
    late = make_tenant(owner_db, "other clinic")
    submit_job(app_db, late, 10_000)
    shares = {tenant: 0, late: 0}
    for _ in range(20):
        for unit in take(worker_db, 8):
            shares[unit.tenant_id] += unit.n
    assert sum(shares.values()) == 20 * 8 * 32
    # The late one begins behind the first ready unit, so it is one unit behind.
    assert abs(shares[tenant] - shares[late]) <= 64


def test_a_clinic_of_weight_three_gets_three_times_as_much(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    heavy = make_tenant(owner_db, "large clinic")
    submit_job(app_db, tenant, 5000)
    submit_job(app_db, heavy, 5000, weight=3.0)
    units = [unit for _ in range(10) for unit in take(worker_db, 8)]
    assert abs(sum(unit.tenant_id == heavy for unit in units) - 60) <= 1


def test_two_jobs_of_one_tenant_come_in_the_order_they_were_sent(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    first, second = submit_job(app_db, tenant, 96), submit_job(app_db, tenant, 64)
    units = [take(worker_db, 1)[0] for _ in range(5)]
    assert [(unit.job_id, unit.first) for unit in units] == [
        (first.id, 0),
        (first.id, 32),
        (first.id, 64),
        (second.id, 0),
        (second.id, 32),
    ]


# Heartbeats


def beat(worker_db: Database, held: list[Lease], seconds: float = LEASE) -> set[UUID]:
    with worker_db.transaction() as session:
        return heartbeat(session, held, seconds)


def test_a_heartbeat_prolongs_what_is_held(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 96)
    units = take(worker_db, 2, seconds=5)
    assert beat(worker_db, leases(units), 1000) == {unit.id for unit in units}
    asked = "SELECT id FROM unit WHERE lease_until > now() + interval '900 seconds'"
    assert {row.id for row in rows(owner_db, asked)} == {unit.id for unit in units}


def test_an_expired_lease_is_not_prolonged(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 1)
    units = take(worker_db)
    let_leases_expire(owner_db)
    assert beat(worker_db, leases(units)) == set()
    assert len(rows(owner_db, "SELECT 1 FROM unit WHERE lease_until < now()")) == 1


def test_a_wrong_fence_prolongs_nothing(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 64)
    first, second = take(worker_db, 2)
    wrong = [Lease(first.id, first.fence - 1), Lease(second.id, first.fence), Lease(new_id(), first.fence)]
    assert beat(worker_db, wrong, 1000) == set()
    assert rows(owner_db, "SELECT 1 FROM unit WHERE lease_until > now() + interval '900 seconds'") == []
    assert beat(worker_db, [wrong[0], *leases([second])]) == {second.id}


def test_a_completed_unit_is_not_prolonged(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    submit_job(app_db, tenant, 64)
    first, second = take(worker_db, 2)
    finish(worker_db, [first])
    assert beat(worker_db, leases([first, second])) == {second.id}


def test_a_heartbeat_of_nothing_is_nothing(worker_db: Database) -> None:
    assert beat(worker_db, []) == set()


def test_a_heartbeat_locks_units_in_the_order_of_their_ids(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 64)
    units = sorted(take(worker_db, 2), key=lambda unit: unit.id)
    sooner = "UPDATE unit SET lease_until = now() + interval '20 seconds' WHERE id = :id"
    change(owner_db, sooner, id=units[1].id)

    def beat_backwards() -> set[UUID]:
        with worker_db.transaction() as session:
            follow_the_given_order(session)
            return heartbeat(session, leases(units)[::-1], LEASE)

    with ThreadPoolExecutor(1) as pool:
        with owner_db.transaction() as session:
            session.execute(sa.text("SELECT 1 FROM unit WHERE id = :id FOR UPDATE"), {"id": units[0].id})
            beaten = pool.submit(beat_backwards)
            wait_for_waiters(owner_db)
            free = rows(owner_db, "SELECT id FROM unit WHERE id = :id FOR UPDATE SKIP LOCKED", id=units[1].id)
        assert beaten.result(20) == {unit.id for unit in units}
    assert len(free) == 1, "it took the second lock before the first"
