"""Taking a job in: everything in one transaction, in as many statements whatever the number of photos."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from shared.database import Database, new_id
from shared.ledger.cancel import cancel
from shared.ledger.submit import NewJob, add_job, insert_images, submit
from tests.integration.ledger.factories import (
    change,
    check_invariants,
    job_row,
    new_image,
    new_job,
    rows,
    submit_job,
    take,
    unit_rows,
    wait_for_waiters,
    wait_until,
)
from tests.integration.ledger.statements import statements


def test_a_job_is_written_with_its_photos_units_and_event(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    job = submit_job(app_db, tenant, 70, model="demo", details={"metadata": {"ward": "7"}}, max_failure_rate=0.5)

    row = job_row(owner_db, job.id)
    assert (row.state, row.lane, row.total, row.remaining, row.round) == ("queued", "normal", 70, 70, 0)
    assert (row.model, row.details, row.max_failure_rate) == ("demo", {"metadata": {"ward": "7"}}, 0.5)
    assert row.started_at is None
    assert row.closed_at is None
    photos = rows(owner_db, "SELECT * FROM image WHERE job_id = :job ORDER BY ordinal", job=job.id)
    assert [
        (row.id, row.ordinal, row.client_name, row.storage_key, bytes(row.sha256), row.bytes) for row in photos
    ] == [
        (image.id, image.ordinal, image.client_name, image.storage_key, image.sha256, image.bytes)
        for image in job.images
    ]
    assert {row.tenant_id for row in photos} == {tenant}
    units = unit_rows(owner_db, job.id)
    assert [(unit.first, unit.n, unit.state, unit.kind, unit.lane) for unit in units] == [
        (0, 32, "ready", "images", "normal"),
        (32, 32, "ready", "images", "normal"),
        (64, 6, "ready", "images", "normal"),
    ]
    assert {(unit.attempt, unit.crashes, unit.fence, unit.leased_by) for unit in units} == {(0, 0, 0, None)}
    events = rows(owner_db, "SELECT tenant_id, seq, kind, round, body FROM event")
    assert events == [(tenant, 1, "job.accepted", 0, {"total": 70, "priority": "normal"})]
    check_invariants(owner_db)


def test_a_photo_with_bytes_seen_before_in_the_job_names_the_first(
    owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    once, twice = b"1" * 32, b"2" * 32
    images = [new_image(place, sha256=digest) for place, digest in enumerate([once, twice, once, twice, once])]
    job = submit_job(app_db, tenant, 5, images=images)
    submit_job(app_db, tenant, 1, images=[new_image(0, sha256=once)])

    found = rows(owner_db, "SELECT job_id, duplicate_of FROM image ORDER BY job_id, ordinal")
    first, second = images[0].id, images[1].id
    assert [row.duplicate_of for row in found] == [None, None, first, second, first, None]
    assert found[0].job_id == job.id


def test_a_job_that_breaks_a_rule_leaves_nothing_behind(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    images = [new_image(0, custom_id="a"), new_image(1, custom_id="b"), new_image(2, custom_id="a")]
    with pytest.raises(IntegrityError, match="uq_image_custom_id"), app_db.transaction(tenant) as session:
        submit(session, new_job(tenant, 3, images=images))
    for table in ("job", "image", "unit", "flow", "event", "event_counter"):
        assert rows(owner_db, f"SELECT 1 FROM {table}") == [], table

    submit_job(app_db, tenant, 2, images=images[:2])
    other = [new_image(0, custom_id="a")]  # another job's ids are its own
    submit_job(app_db, tenant, 1, images=other)
    assert [row.seq for row in rows(owner_db, "SELECT seq FROM event ORDER BY seq")] == [1, 2]


def test_a_job_without_photos_is_refused(app_db: Database, tenant: UUID) -> None:
    with pytest.raises(ValueError, match="at least one photo"), app_db.transaction(tenant) as session:
        submit(session, new_job(tenant, 0, "normal"))


def test_any_number_of_photos_goes_in_with_as_many_statements(
    owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    def sent(photos: int) -> list[str]:
        with app_db.transaction(tenant) as session, statements(session) as found:
            submit(session, new_job(tenant, photos, "bulk"))
        return [" ".join(statement.split()[:3]) for statement in found]

    # The first of its lane, which no flow is there for, one of many units, and one more.
    assert [sent(photos) for photos in (1, 5000, 1)] == [["WITH v AS"]] * 3
    assert rows(owner_db, "SELECT count(*) FROM image")[0][0] == 5002


def submit_all(app_db: Database, job: NewJob) -> None:
    with app_db.transaction(job.tenant_id) as session:
        submit(session, job)


def test_two_jobs_of_a_tenant_at_once_take_tags_and_numbers_after_each_other(
    owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with app_db.transaction(tenant) as session:
            first = submit(session, new_job(tenant, 40, "bulk"))
            after = pool.submit(submit_job, app_db, tenant, 40, "bulk")
            waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
            wait_until(lambda: rows(owner_db, waits)[0][0])
        after.result()
    assert first.last_tag == 40
    assert [row.vft for row in rows(owner_db, "SELECT vft FROM unit ORDER BY vft")] == [32, 40, 72, 80]
    assert [row.seq for row in rows(owner_db, "SELECT seq FROM event ORDER BY seq")] == [1, 2]


def test_neither_tags_nor_events_of_a_tenant_wait_while_images_go_in(
    owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 1, "bulk")
    job, other = new_job(tenant, 40, "bulk"), new_job(tenant, 1, "bulk")
    free = "SELECT (SELECT count(*) FROM (SELECT FROM {} FOR UPDATE SKIP LOCKED) x) AS rows"
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError), app_db.transaction(tenant) as session:
            add_job(session, other, state="receiving", total=1)
            insert_images(session, replace(other, images=[replace(other.images[0], id=job.images[0].id)]))
            waiting = pool.submit(submit_all, app_db, job)
            wait_for_waiters(owner_db)
            held = [table for table in ("flow", "event_counter") if rows(owner_db, free.format(table))[0].rows != 1]
            raise ZeroDivisionError
        waiting.result()
    assert held == []
    assert rows(owner_db, "SELECT count(*) FROM image")[0][0] == 41


def test_tags_go_on_where_the_tenants_last_job_of_the_lane_ended(
    owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 40, "bulk")
    submit_job(app_db, tenant, 40, "bulk")
    submit_job(app_db, tenant, 8, "normal")
    found = rows(owner_db, "SELECT lane, first, vft FROM unit ORDER BY id")
    # bulk: 32, 40, then 40 + 32, 40 + 40; normal begins at the first ready tag: 32 + 8 / 4
    assert [row.vft for row in found] == [32, 40, 72, 80, 34]
    assert dict(rows(owner_db, "SELECT lane, last_vft FROM flow")) == {"bulk": 80, "normal": 34}


def test_a_tenants_weight_moves_its_tags(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    submit_job(app_db, tenant, 64, "bulk", weight=4.0)
    assert [row.vft for row in rows(owner_db, "SELECT vft FROM unit ORDER BY first")] == [8, 16]


def test_a_tenant_that_was_idle_starts_from_now(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 320, "bulk")
    take(worker_db, 5)
    idle = new_id()
    with owner_db.transaction() as session:
        session.execute(sa.text("INSERT INTO tenant (id, name) VALUES (:id, 'idle')"), {"id": idle})
    job = submit_job(app_db, idle, 1)
    # five of ten units are gone, so the first ready tag is 6 * 32
    assert unit_rows(owner_db, job.id)[0].vft == 6 * 32 + 1 / 8


def test_a_unit_that_comes_back_does_not_turn_the_time_back(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 320, "bulk")
    take(worker_db, 5)
    change(owner_db, "UPDATE unit SET state = 'ready', leased_by = NULL, lease_until = NULL WHERE vft = 32")
    job = submit_job(app_db, tenant, 1)
    assert unit_rows(owner_db, job.id)[0].vft == 6 * 32 + 1 / 8


def test_a_job_that_is_taken_back_is_no_debt(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    kept = submit_job(app_db, tenant, 64, "bulk")
    mistake = submit_job(app_db, tenant, 3200, "bulk")
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, mistake.id)
    after = submit_job(app_db, tenant, 32, "bulk")
    assert [row.vft for row in unit_rows(owner_db, kept.id)] == [32, 64]
    # behind what is kept, and behind the first unit that was taken back at most
    assert [row.vft for row in unit_rows(owner_db, after.id)] == [96 + 32]
    check_invariants(owner_db)
