"""Finding jobs by what they are called, sent by and answered by, over a long history and in bounded steps."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared import ids, job_search
from shared.database import Database, new_id
from shared.job_search import Wanted, find
from shared.ledger.deletion import delete
from tests.conftest import make_tenant
from tests.integration.ledger.factories import change, finish, new_image, new_job, rows, submit_job, take
from tests.integration.ledger.said import said

Finder = Callable[..., list[UUID]]


@pytest.fixture
def found(app_db: Database, tenant: UUID) -> Finder:
    """Return the ids of every job that fits, following the cursors."""

    def search(limit: int = 50, **wanted: Any) -> list[UUID]:
        seen: list[UUID] = []
        after: UUID | None = None
        for _ in range(100):
            with app_db.transaction(tenant) as session:
                page = find(session, Wanted(**wanted), after=after, limit=limit)
            assert len(page.jobs) <= limit
            seen += [job.id for job in page.jobs]
            if page.next is None:
                return seen
            after = page.next
        raise AssertionError("the pages never end")

    return search


def submit_named(app_db: Database, tenant: UUID, *names: str, **custom_ids: str) -> UUID:
    job = new_job(tenant, 0, "normal").id
    images = [
        new_image(place, job=job, client_name=name, custom_id=custom_ids.get(f"p{place}"))
        for place, name in enumerate(names)
    ]
    return submit_job(app_db, tenant, 0, "normal", id=job, images=images).id


def test_a_photo_is_found_by_what_its_name_or_custom_id_begins_with(
    app_db: Database, tenant: UUID, found: Finder
) -> None:
    ward = submit_named(app_db, tenant, "IMG_0001.JPG", "back.jpg", p1="Patient-47/b")
    other = submit_named(app_db, tenant, "img_0002.jpg", "100%_sure.jpg", p0="patient-48")
    assert found(text="IMG_0001") == [ward]
    assert found(text="img_000") == [other, ward]
    assert found(text="Img_000") == [other, ward]  # in capitals, and in small letters
    assert found(text="Patient-47") == [ward]
    assert found(text="patient-4") == [other]
    assert found(text="100%") == [other]
    assert found(text="0001") == found(text="%") == found(text="IMG_____1") == []


def test_a_job_is_found_by_its_id_by_a_photos_id_and_by_its_metadata(
    app_db: Database, tenant: UUID, found: Finder
) -> None:
    job = submit_job(app_db, tenant, 2, details={"metadata": {"ward": "Ward 7, Süd", "study": "A'\"\\"}})
    submit_job(app_db, tenant, 1, details={"metadata": {"ward 7": "no"}})
    assert found(text=ids.text("job", job.id)) == [job.id]
    assert found(text=ids.text("job", job.id)[:-2]) == [job.id]
    assert found(text=job.id.hex) == [job.id]
    assert found(text=ids.text("image", job.images[1].id)) == [job.id]
    assert found(text=ids.text("image", new_id())) == []
    assert found(text="ward 7") == found(text="SÜD") == found(text="A'\"\\") == [job.id]


def test_jobs_are_found_by_time_state_and_key(
    app_db: Database, owner_db: Database, worker_db: Database, tenant: UUID, found: Finder
) -> None:
    keys = [new_id(), new_id()]
    jobs = [submit_job(app_db, tenant, 1, key_id=keys[place % 2]).id for place in range(4)]
    finish(worker_db, take(worker_db, 1))
    times = {row.id: row.created_at for row in rows(owner_db, "SELECT id, created_at FROM job")}
    assert found(created_after=times[jobs[2]]) == [jobs[3], jobs[2]]
    assert found(created_before=times[jobs[2]]) == [jobs[1], jobs[0]]
    assert found(created_after=times[jobs[1]], created_before=times[jobs[3]]) == [jobs[2], jobs[1]]
    assert found(key_id=keys[0]) == [jobs[2], jobs[0]]
    assert found(key_id=new_id()) == []
    assert found(state="completed", key_id=keys[0]) == [jobs[0]]
    assert found(state="completed", key_id=keys[1]) == []


def test_a_job_whose_body_took_hours_is_found_at_the_time_it_was_written(
    app_db: Database, owner_db: Database, tenant: UUID, found: Finder
) -> None:
    begun = job_search._earliest_id(datetime.now().astimezone() - timedelta(hours=30), timedelta())
    job = submit_job(app_db, tenant, 1, id=begun).id
    [written] = [row.created_at for row in rows(owner_db, "SELECT created_at FROM job")]
    assert found(created_after=written - timedelta(minutes=1), created_before=written + timedelta(minutes=1)) == [job]


@pytest.mark.parametrize("year", [1, 9999])
def test_the_ends_of_the_calendar_are_times_like_others(
    app_db: Database, tenant: UUID, found: Finder, year: int
) -> None:
    job = submit_job(app_db, tenant, 1).id
    moment = datetime.fromisoformat(f"{year:04}-06-01T00:00:00+00:00")
    assert found(created_after=moment) == ([job] if year == 1 else [])
    assert found(created_before=moment) == ([] if year == 1 else [job])


def test_a_model_is_found_where_it_was_asked_for_and_where_it_answered(
    app_db: Database, worker_db: Database, tenant: UUID, found: Finder
) -> None:
    asked = submit_job(app_db, tenant, 1, model="other")
    answered = submit_job(app_db, tenant, 3)
    finish(worker_db, take(worker_db, 2), **said())
    rejected = submit_job(app_db, tenant, 1)
    finish(worker_db, take(worker_db), "rejected")
    assert found(model="demo") == [answered.id, asked.id]
    assert found(model="other") == [asked.id]
    assert rejected.id not in found(model="demo")
    assert found(model="no such") == []


def test_neither_deleted_jobs_nor_those_of_others_are_found(
    app_db: Database, owner_db: Database, worker_db: Database, tenant: UUID, found: Finder
) -> None:
    submit_named(app_db, make_tenant(owner_db, "another clinic"), "a.jpg")
    gone = submit_named(app_db, tenant, "a.jpg")
    finish(worker_db, take(worker_db))
    assert found(text="a.jpg") == [gone]
    with app_db.transaction(tenant) as session:
        delete(session, tenant, gone)
    assert found(text="a.jpg") == found(state="completed") == found() == []


def test_a_search_goes_on_where_it_stopped_looking(
    monkeypatch: pytest.MonkeyPatch, app_db: Database, tenant: UUID, found: Finder
) -> None:
    monkeypatch.setattr(job_search, "LOOKED_AT", 4)
    jobs = [submit_named(app_db, tenant, "rare.jpg" if place % 5 == 0 else "common.jpg") for place in range(12)]
    assert found(text="rare") == [jobs[10], jobs[5], jobs[0]]
    assert found(text="common", limit=2) == [job for place, job in enumerate(jobs) if place % 5][::-1]
    assert found(text="nowhere") == []
    with app_db.transaction(tenant) as session:
        page = find(session, Wanted(text="nowhere"))
    assert (page.jobs, page.next) == ([], jobs[8])


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    below = plan.get("Plans", [])
    for part in below:
        yield from scans(part)
    if not below:
        yield plan


@pytest.mark.parametrize("wanted", [{"text": "nowhere"}, {"model": "demo"}, {"text": "nowhere", "model": "demo"}])
def test_a_search_in_vain_probes_an_index_for_each_job_it_looks_at_and_reads_no_photo(
    monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any], app_db: Database, owner_db: Database, tenant: UUID
) -> None:
    monkeypatch.setattr(job_search, "LOOKED_AT", 300)
    fill = """
        WITH made AS (
          INSERT INTO job (id, tenant_id, state, lane, total, remaining, classified, closed_at)
          SELECT gen_random_uuid(), :tenant, 'completed', 'bulk', 40, 0, 40, now() FROM generate_series(1, 500)
          RETURNING id)
        INSERT INTO image (id, tenant_id, job_id, ordinal, client_name, storage_key, sha256, bytes)
        SELECT gen_random_uuid(), :tenant, id, k, 'photo-' || k, 'incoming/' || id || k, sha256(k::text::bytea), 1
        FROM made, generate_series(1, 40) k
    """
    answered = """
        INSERT INTO result (image_id, tenant_id, job_id, ordinal, fence, outcome, label, reasons, attempts, has_copy,
          scheme_id, numbers)
        SELECT i.id, i.tenant_id, i.job_id, i.ordinal, 1, 'classified', 'mpox', '{}', 1, true, s.id, ''
        FROM image i, answer_scheme s WHERE model_id = 'another'
    """
    scheme = """
        INSERT INTO answer_scheme (id, model_id, model_digest, labels, thresholds, quality)
        VALUES (gen_random_uuid(), 'another', 'ab', '{}', '{}', '{}'),
          (gen_random_uuid(), 'demo', 'ab', '{}', '{}', '{}')
    """
    change(owner_db, fill, tenant=tenant)
    change(owner_db, scheme)
    change(owner_db, answered)
    change(owner_db, "ANALYZE job, image, result")
    asked: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, values: Any, *___: object) -> None:
        asked.append((statement, values))

    with app_db.transaction(tenant) as session:
        connection = session.connection()
        sa.event.listen(connection, "before_cursor_execute", note)
        page = find(session, Wanted(**wanted))
        statement, values = next(one for one in asked if "details" in one[0])
        [found] = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values).scalar_one()
    assert page.jobs == []
    assert page.next is not None
    leaves = list(scans(found["Plan"]))
    for leaf in leaves:
        if leaf.get("Relation Name") in ("image", "result"):
            assert leaf["Node Type"] in ("Index Scan", "Index Only Scan"), leaf
            assert leaf["Index Name"] in ("ix_image_client_name", "uq_image_custom_id", "ix_result_scheme"), leaf
            assert leaf["Actual Loops"] <= 300
        looked = leaf["Actual Loops"] * (leaf["Actual Rows"] + leaf.get("Rows Removed by Filter", 0))
        assert looked <= 500, leaf  # all jobs may be sorted for their ids, which a fresh table has in no order
    probed = {leaf.get("Relation Name") for leaf in leaves}
    assert probed >= {"job"} | ({"image"} if "text" in wanted else set()) | ({"result"} if "model" in wanted else set())
