"""Taking units back from the dead: split, run alone, and at the third crash answered."""

from uuid import UUID

from shared.database import Database
from shared.ledger.claim import Claimed
from shared.ledger.reap import Reaped, holders, reap, release
from tests.integration.ledger.factories import (
    change,
    check_invariants,
    finish,
    job_row,
    kinds,
    let_leases_expire,
    result_rows,
    rows,
    submit_job,
    take,
    unit_rows,
)


def reap_all(owner_db: Database, worker_db: Database) -> Reaped:
    let_leases_expire(owner_db)
    with worker_db.transaction() as session:
        return reap(session)


def test_a_lost_unit_of_several_photos_is_split_into_suspects(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 40)
    lost = take(worker_db, 1)[0]
    assert reap_all(owner_db, worker_db) == Reaped(split=1)
    parent, *pieces = [unit for unit in unit_rows(owner_db, job.id) if unit.first < 32]
    assert (parent.id, parent.state, parent.leased_by, parent.lease_until) == (lost.id, "split", None, None)
    assert [(unit.first, unit.n, unit.state) for unit in pieces] == [(place, 1, "ready") for place in range(32)]
    assert {(unit.vft, unit.lane, unit.crashes, unit.attempt) for unit in pieces} == {(parent.vft, parent.lane, 1, 1)}
    check_invariants(owner_db)
    assert [len(take(worker_db, 10)) for _ in range(32)] == [1] * 32
    assert take(worker_db, 10)[0].n == 8


def test_a_lost_single_photo_is_ready_again_and_quarantined_after_the_third_crash(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 1)
    for crash in (1, 2):
        take(worker_db)
        assert reap_all(owner_db, worker_db) == Reaped(ready=1)
        assert [(unit.state, unit.crashes) for unit in unit_rows(owner_db, job.id)] == [("ready", crash)]
    last = take(worker_db)
    assert reap_all(owner_db, worker_db) == Reaped(quarantined=1)
    assert [(unit.state, unit.crashes) for unit in unit_rows(owner_db, job.id)] == [("dead", 3)]
    [result] = result_rows(owner_db, job.id)
    assert (result.outcome, result.reasons, result.attempts, result.numbers) == ("failed", ["quarantined"], 3, None)
    assert (job_row(owner_db, job.id).state, job_row(owner_db, job.id).failed) == ("completed", 1)
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started", "job.completed"]
    check_invariants(owner_db)
    assert finish(worker_db, last).written == 0
    assert take(worker_db) == []


def test_one_deadly_photo_takes_no_other_with_it(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 40)
    deadly, claims = 17, 0
    while units := take(worker_db, 4):
        claims += 1
        assert claims < 100
        if any(image.ordinal == deadly for unit in units for image in unit.images):
            reap_all(owner_db, worker_db)
        else:
            finish(worker_db, units)
        check_invariants(owner_db)
    outcomes = [row.outcome for row in result_rows(owner_db, job.id)]
    assert outcomes == ["classified"] * 17 + ["failed"] + ["classified"] * 22


def test_a_living_lease_is_left_alone(owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID) -> None:
    submit_job(app_db, tenant, 64)
    units = take(worker_db, 2)
    with worker_db.transaction() as session:
        assert reap(session).total == 0
    assert finish(worker_db, units).written == 64


def test_reaping_is_bounded_and_goes_on(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 96)
    take(worker_db, 3)
    let_leases_expire(owner_db)
    with worker_db.transaction() as session:
        assert reap(session, limit=2).total == 2
    with worker_db.transaction() as session:
        assert reap(session, limit=2).total == 1
    check_invariants(owner_db)


def test_what_a_dead_process_held_is_released_at_once(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 96)

    def under(worker: str) -> Claimed:
        return take(worker_db, 1, worker=worker)[0]

    dead, living, elsewhere = under("alpha/1"), under("alpha/2"), under("alpha-2/1")
    with worker_db.transaction() as session:
        assert sorted(holders(session, "alpha")) == ["alpha/1", "alpha/2"]
        assert holders(session, "alph_") == []
        assert release(session, "alpha/1") == Reaped(split=1)
    with worker_db.transaction() as session:
        assert holders(session, "alpha") == ["alpha/2"]
        assert release(session, "alpha/1") == Reaped()
    assert finish(worker_db, [dead]).written == 0
    assert finish(worker_db, [living, elsewhere]).written == 64
    check_invariants(owner_db)


def test_a_release_counts_as_a_crash(owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID) -> None:
    job = submit_job(app_db, tenant, 1)
    found = []
    for _ in range(3):
        take(worker_db, worker="alpha/1")
        with worker_db.transaction() as session:
            found.append(release(session, "alpha/1"))
    assert found == [Reaped(ready=1), Reaped(ready=1), Reaped(quarantined=1)]
    assert job_row(owner_db, job.id).state == "completed"
    check_invariants(owner_db)


def test_two_reapers_at_once_bury_each_unit_once(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 64)
    take(worker_db, 2)
    let_leases_expire(owner_db)
    with worker_db.transaction() as one, worker_db.transaction() as other:
        assert reap(one, limit=1).split + reap(other).split == 2
    assert len([unit for unit in unit_rows(owner_db, job.id) if unit.n == 1]) == 64
    check_invariants(owner_db)


def test_quarantine_of_several_jobs_closes_each(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    jobs = [submit_job(app_db, tenant, 1) for _ in range(3)]
    take(worker_db)
    change(owner_db, "UPDATE unit SET crashes = 2")
    assert reap_all(owner_db, worker_db) == Reaped(quarantined=3)
    assert {job_row(owner_db, job.id).state for job in jobs} == {"completed"}
    assert len(rows(owner_db, "SELECT 1 FROM event WHERE kind = 'job.completed'")) == 3
    check_invariants(owner_db)


def test_leases_that_ran_out_while_the_server_was_away_are_no_crashes(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 40)
    take(worker_db, 2)
    change(owner_db, "UPDATE unit SET lease_until = pg_postmaster_start_time() - interval '1 minute'")
    with worker_db.transaction() as session:
        assert reap(session) == Reaped(ready=2)
    assert [(unit.n, unit.state, unit.crashes) for unit in unit_rows(owner_db, job.id)] == [
        (32, "ready", 0),
        (8, "ready", 0),
    ]


def test_a_round_after_an_outage_blames_nobody(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 1)
    for _ in range(3):
        take(worker_db)
        let_leases_expire(owner_db)
        with worker_db.transaction() as session:
            assert reap(session, after_outage=True) == Reaped(ready=1)
    assert [(unit.state, unit.crashes) for unit in unit_rows(owner_db, job.id)] == [("ready", 0)]
