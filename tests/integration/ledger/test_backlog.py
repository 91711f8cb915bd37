"""What waits before a photo, as the sweep counts it and as everybody reads it."""

from uuid import UUID

import pytest

from shared.database import Database
from shared.ledger import backlog
from shared.ledger.backlog import Backlog
from shared.ledger.sweep import sweep
from tests.conftest import make_tenant
from tests.integration.ledger.factories import change, finish, rows, submit_job, take


def counted(worker_db: Database) -> Backlog:
    """Count now and return what was found."""
    with worker_db.transaction() as session:
        backlog.recount(session)
    with worker_db.transaction() as session:
        found = backlog.look(session)
    assert found is not None
    return found


def behind(app_db: Database, found: Backlog, tenant: UUID, lane: str) -> float:
    """Return how many photos are before the tenant's next job."""
    with app_db.transaction(tenant) as session:
        return found.before(backlog.next_tag(session, tenant, lane))


def a_worker(owner_db: Database, name: str = "host/1", rate: float | None = 25.0, **columns: object) -> None:
    """Put a worker there that answers so many photos a second."""
    row = {"state": "busy", "ago": 0, **columns}
    change(
        owner_db,
        "INSERT INTO worker_node (name, state, images_per_second, last_seen)"
        " VALUES (:name, :state, :rate, now() - make_interval(secs => :ago))",
        name=name,
        rate=rate,
        **row,
    )


def test_each_lane_is_counted_with_what_is_leased(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 70)
    submit_job(app_db, make_tenant(owner_db, "other clinic"), 300)
    submit_job(app_db, tenant, 1)
    units = take(worker_db, 2)
    found = counted(worker_db)
    assert dict(found.lanes) == {"interactive": 1, "normal": 70, "bulk": 300}
    assert found.leased == sum(unit.n for unit in units)
    assert found.ahead[-1] == 371 - found.leased
    finish(worker_db, units)
    found = counted(worker_db)
    assert (sum(found.lanes.values()), found.leased) == (371 - sum(unit.n for unit in units), 0)


def test_a_bulk_job_lies_before_the_next_bulk_job_and_before_no_single_photo(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 5_000)
    found = counted(worker_db)
    assert behind(app_db, found, tenant, "bulk") == 5_000
    assert behind(app_db, found, tenant, "interactive") == 0
    other = make_tenant(owner_db, "other clinic")
    assert behind(app_db, found, other, "bulk") == 0


def test_two_tenants_wait_for_each_other_as_they_share(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    other = make_tenant(owner_db, "other clinic")
    submit_job(app_db, tenant, 1_600)
    submit_job(app_db, other, 16_000)
    found = counted(worker_db)
    # The first is done when both have had as much: its 1,600 photos and about as many of the other's.
    assert behind(app_db, found, tenant, "bulk") == pytest.approx(3_200, rel=0.05)
    assert behind(app_db, found, other, "bulk") == 17_600


def test_the_rate_is_that_of_living_workers(owner_db: Database, worker_db: Database) -> None:
    assert counted(worker_db).rate is None
    a_worker(owner_db, "a", 20.0)
    a_worker(owner_db, "b", 5.0, state="ready")
    a_worker(owner_db, "starting", None)
    a_worker(owner_db, "broken", 7.0, state="setup failed")
    a_worker(owner_db, "gone", 100.0, ago=40)
    assert counted(worker_db).rate == 25.0


def test_the_sweep_counts_and_the_web_reads(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    with app_db.transaction() as session:
        assert backlog.look(session) is None
    submit_job(app_db, tenant, 40)
    assert sweep(worker_db) is not None
    with app_db.transaction() as session:
        found = backlog.look(session)
    assert found is not None
    assert found.lanes["normal"] == 40
    assert 0 <= found.age < 60
    change(owner_db, "UPDATE backlog_count SET counted_at = now() - interval '2 minutes'")
    with app_db.transaction() as session:
        assert backlog.look(session) is None


def test_counting_keeps_to_its_share_of_a_core(owner_db: Database, worker_db: Database) -> None:
    counted(worker_db)
    with worker_db.transaction() as session:
        assert not backlog.count(session)
    seconds_ago = "UPDATE backlog_count SET counted_at = now() - interval '5 seconds', took = :took"
    change(owner_db, seconds_ago, took=1.0)  # a count of a second is done again after twenty
    with worker_db.transaction() as session:
        assert not backlog.count(session)
    change(owner_db, seconds_ago, took=0.1)
    with worker_db.transaction() as session:
        assert backlog.count(session)
    assert len(rows(owner_db, "SELECT 1 FROM backlog_count")) == 1


def test_a_job_knows_its_last_unit_and_its_longest_pause(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 70)
    tags = [row.vft for row in rows(owner_db, "SELECT vft FROM unit WHERE job_id = :job ORDER BY vft", job=job.id)]
    with worker_db.transaction() as session:
        assert backlog.last_units(session, [job.id]) == {job.id: (tags[-1], 0.0)}
    take(worker_db, 10)
    with worker_db.transaction() as session:
        assert backlog.last_units(session, [job.id]) == {}
    change(owner_db, "UPDATE unit SET state = 'waiting', available_at = now() + interval '1 hour'")
    with worker_db.transaction() as session:
        tag, pause = backlog.last_units(session, [job.id])[job.id]
    assert tag is None
    assert pause == pytest.approx(3600, abs=60)
