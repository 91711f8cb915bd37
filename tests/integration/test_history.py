"""Reading jobs and results page by page, while they are being written."""

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import history
from shared.database import Database, new_id
from shared.errors import NotFound
from shared.history import BadCursor
from shared.job_search import Wanted, find
from shared.ledger.claim import Claimed
from shared.ledger.complete import complete
from shared.views import JobView, Page, ResultView
from tests.conftest import make_tenant
from tests.integration.ledger.factories import answers, change, finish, leases, submit_job, take
from tests.integration.ledger.said import ANSWER, said


def view(app_db: Database, tenant: UUID, job: UUID) -> JobView:
    with app_db.transaction(tenant) as session:
        return history.job(session, job)


def page(app_db: Database, tenant: UUID, job: UUID, after: str | None = None, limit: int = 200) -> Page:
    with app_db.transaction(tenant) as session:
        return history.results(session, history.job(session, job), after=after, limit=limit)


def all_pages(app_db: Database, tenant: UUID, job: UUID, limit: int, after: str | None = None) -> list[int]:
    """Follow a closed job's cursors to the end; return the ordinals."""
    seen: list[int] = []
    for _ in range(100):
        found = page(app_db, tenant, job, after, limit)
        assert len(found.rows) <= limit
        seen += [row.ordinal for row in found.rows]
        if found.next is None:
            return seen
        after = found.next
    raise AssertionError("the pages never end")


# Jobs


def test_a_job_shows_its_counts_and_progress(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    job = submit_job(app_db, tenant, 40, details={"metadata": {"ward": "7"}}, max_failure_rate=0.25, model="demo")
    fresh = view(app_db, tenant, job.id)
    assert (fresh.state, fresh.lane, fresh.total, fresh.progress, fresh.is_closed) == ("queued", "normal", 40, 0, False)
    assert (fresh.details, fresh.max_failure_rate, fresh.model) == ({"metadata": {"ward": "7"}}, 0.25, "demo")

    first, last = take(worker_db, 2)
    finish(worker_db, [first])
    running = view(app_db, tenant, job.id)
    assert (running.state, running.progress, running.is_closed) == ("running", 0.8, False)
    assert running.started_at is not None
    assert sum(running.counts.values()) == 40
    assert (running.counts["classified"], running.counts["waiting"]) == (32, 8)

    finish(worker_db, [last], "failed")
    closed = view(app_db, tenant, job.id)
    assert (closed.state, closed.progress, closed.is_closed) == ("completed", 1, True)
    assert {name: n for name, n in closed.counts.items() if n} == {"classified": 32, "failed": 8}


def test_jobs_page_newest_first_by_keyset(app_db: Database, tenant: UUID) -> None:
    jobs = [submit_job(app_db, tenant, 1).id for _ in range(7)][::-1]
    seen: list[UUID] = []
    after = None
    while True:
        with app_db.transaction(tenant) as session:
            found = find(session, Wanted(), after=after, limit=3).jobs
        if not found:
            break
        seen += [job.id for job in found]
        after = seen[-1]
        submit_job(app_db, tenant, 1)  # what comes in meanwhile shifts nothing
    assert seen == jobs


def test_jobs_filter_by_state(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    done = submit_job(app_db, tenant, 1)
    finish(worker_db, take(worker_db))
    waiting = submit_job(app_db, tenant, 1)
    with app_db.transaction(tenant) as session:
        assert [job.id for job in find(session, Wanted(state="completed")).jobs] == [done.id]
        assert [job.id for job in find(session, Wanted(state="queued")).jobs] == [waiting.id]


def test_foreign_and_unknown_ids_are_not_found(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    other = make_tenant(owner_db, "other clinic")
    foreign = submit_job(app_db, other, 1)
    with app_db.transaction(tenant) as session:
        for job in (foreign.id, new_id()):
            with pytest.raises(NotFound):
                history.job(session, job)
        for image in (foreign.images[0].id, new_id()):
            with pytest.raises(NotFound):
                history.image(session, image)
        assert find(session, Wanted()).jobs == []
        assert list(history.manifest(session, foreign.id)) == []


# One image


def test_an_image_has_no_outcome_until_it_is_answered(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    job = submit_job(app_db, tenant, 1)

    def image() -> ResultView:
        with app_db.transaction(tenant) as session:
            return history.image(session, job.images[0].id)

    waiting = image()
    assert (waiting.outcome, waiting.attempts, waiting.reasons, waiting.has_copy) == (None, 0, (), False)
    assert (waiting.sha256, waiting.bytes) == (job.images[0].sha256.hex(), 1000)
    times: dict[str, Any] = {"decode_ms": 41.23, "network_ms": 0.01}
    finish(worker_db, take(worker_db), label="mpox", reasons=("a", "b"), **times, **said())
    found = image()
    assert (found.outcome, found.label, found.answer, found.reasons) == ("classified", "mpox", ANSWER, ("a", "b"))
    assert (found.model_id, found.model_digest, found.timings) == ("demo", "ab" * 32, times)
    assert (found.image_id, found.job_id, found.ordinal, found.attempts) == (job.images[0].id, job.id, 0, 1)
    assert found.finished_at is not None


# Results


def test_results_of_a_closed_job_come_by_ordinal(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    job = submit_job(app_db, tenant, 70)
    for unit in reversed(take(worker_db, 3)):
        finish(worker_db, [unit])
    for limit in (1, 7, 35, 69, 70, 71):
        assert all_pages(app_db, tenant, job.id, limit) == list(range(70)), limit


def test_results_of_an_open_job_come_in_order_of_completion(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 96)
    nothing = page(app_db, tenant, job.id)
    assert nothing.rows == []
    first, second, third = take(worker_db, 3)
    seen: list[int] = []
    after = nothing.next
    for unit in (second, third):
        finish(worker_db, [unit])
        for _ in range(3):
            found = page(app_db, tenant, job.id, after, 20)
            assert found.next is not None
            seen += [row.ordinal for row in found.rows]
            after = found.next
    assert sorted(seen[:32]) == list(range(32, 64))
    assert sorted(seen[32:]) == list(range(64, 96))
    # The cursor survives the closing of the job: what it has not shown yet follows.
    finish(worker_db, [first])
    assert sorted(all_pages(app_db, tenant, job.id, 20, after)) == list(range(32))


def test_a_cursor_given_before_the_first_result_reads_everything(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 40)
    after = page(app_db, tenant, job.id).next
    assert after is not None
    finish(worker_db, take(worker_db))
    assert sorted(all_pages(app_db, tenant, job.id, 15, after)) == list(range(40))


def test_a_reader_in_the_middle_of_a_page_sees_the_rest_after_the_closing(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 64)
    first, second = take(worker_db, 2)
    finish(worker_db, [first])
    begun = page(app_db, tenant, job.id, limit=10)
    finish(worker_db, [second])
    rest = all_pages(app_db, tenant, job.id, 10, begun.next)
    assert sorted([row.ordinal for row in begun.rows] + rest) == list(range(64))


def test_no_result_appears_behind_a_cursor_however_late_it_commits(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    """A transaction that began first commits last; its rows must not be jumped."""
    job = submit_job(app_db, tenant, 96)
    early, late, last = take(worker_db, 3)
    seen: list[int] = []
    after: str | None = None

    def read() -> None:
        nonlocal after
        found = page(app_db, tenant, job.id, after)
        seen.extend(row.ordinal for row in found.rows)
        after = found.next

    with worker_db.transaction() as slow:
        # It takes its number now, and writes before the other does; only its count of the job would wait.
        slow.execute(sa.text("SELECT pg_current_xact_id()"))
        finish(worker_db, [late])
        read()
        assert seen == []  # answered, and kept back while an older transaction could still write
        complete(slow, leases([early]), answers([early]))
        read()
    read()
    assert sorted(seen) == list(range(64))
    finish(worker_db, [last])
    read()
    assert sorted(seen) == list(range(96))
    assert after is None


def unrestricted_reader(app_db: Database, tenant: UUID, job: UUID) -> list[int]:
    with app_db.transaction(tenant) as session:
        return list(session.scalars(sa.text("SELECT ordinal FROM result WHERE job_id = :job"), {"job": job}))


def test_the_late_row_would_be_seen_out_of_order_without_the_restriction(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    """The test above is worth something only if the later number really is visible first."""
    job = submit_job(app_db, tenant, 64)
    early, late = take(worker_db, 2)
    with worker_db.transaction() as slow:
        slow.execute(sa.text("SELECT pg_current_xact_id()"))
        finish(worker_db, [late])
        assert sorted(unrestricted_reader(app_db, tenant, job.id)) == list(range(32, 64))
        complete(slow, leases([early]), answers([early]))
    with app_db.transaction(tenant) as session:
        in_order = session.scalars(sa.text("SELECT ordinal FROM result ORDER BY written_in, ordinal"))
        assert list(in_order) == list(range(64))


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "o",
        "w",
        "nonsense",
        "o1.5",
        "o-1",
        "o 1",
        "o1_0",
        "o\u0663",
        "o99999999999999999999999",
        "w1",
        "w1-",
        "w1-xyz",
        "w-1-" + "0" * 32,
        "w99999999999999999999999-" + "0" * 32,
        "w1-{" + "0" * 32 + "}",
        "x1-" + "0" * 32,
        "1-" + "0" * 32,
        "o" + "9" * 5000,
        "o1\x00",
    ],
)
def test_a_cursor_this_list_did_not_give_out_is_refused(
    app_db: Database, worker_db: Database, tenant: UUID, cursor: str
) -> None:
    job = submit_job(app_db, tenant, 1)
    with pytest.raises(BadCursor):
        page(app_db, tenant, job.id, cursor)
    finish(worker_db, take(worker_db))
    with pytest.raises(BadCursor):
        page(app_db, tenant, job.id, cursor)


def test_the_stream_has_every_result_by_ordinal(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    job = submit_job(app_db, tenant, 1200)
    units: list[Claimed] = []
    while more := take(worker_db, 50):
        units += more
    finish(worker_db, units[5:])

    def stream() -> list[Any]:
        with app_db.transaction(tenant) as session:
            return list(history.stream_results(session, history.job(session, job.id)))

    assert [row.ordinal for row in stream()] == list(range(160, 1200))
    finish(worker_db, units[:5], "rejected")
    assert [row.outcome for row in stream()] == ["rejected"] * 160 + ["classified"] * 1040


def test_the_manifest_names_every_photo_with_its_outcome(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    job = submit_job(app_db, tenant, 40)
    finish(worker_db, take(worker_db, 1), "abstained")
    with app_db.transaction(tenant) as session:
        found = list(history.manifest(session, job.id))
    assert [(row.ordinal, row.name, row.sha256, row.image_id) for row in found] == [
        (image.ordinal, image.client_name, image.sha256.hex(), image.id) for image in job.images
    ]
    assert [row.outcome for row in found] == ["abstained"] * 32 + [None] * 8


# The rest


def test_workers_are_those_seen_lately(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    for name, age in (("b", 5), ("a", 1), ("gone", 40)):
        seen = (
            "INSERT INTO worker_node (name, state, last_seen) "
            "VALUES (:name, 'ready', now() - make_interval(secs => :age))"
        )
        change(owner_db, seen, name=name, age=age)
    with app_db.transaction(tenant) as session:
        assert [node.name for node in history.workers(session)] == ["a", "b"]


# What a page costs


def touched(plan: dict[str, Any]) -> float:
    """Return how many rows the scans of a plan looked at."""
    own = plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0))
    below = plan.get("Plans", [])
    return sum(touched(part) for part in below) if below else float(own)


def test_a_deep_page_looks_at_no_more_rows_than_the_first(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 4_000)
    finish(worker_db, take(worker_db, 1_000))
    earlier = """
        INSERT INTO job (id, tenant_id, state, lane, total, remaining, classified, closed_at)
        SELECT gen_random_uuid(), :tenant, 'completed', 'bulk', 1, 0, 1, now() FROM generate_series(1, 4000)
    """
    change(owner_db, earlier, tenant=tenant)
    change(owner_db, "ANALYZE job, image, result")
    asked: list[tuple[str, Any]] = []

    def costs(read: Callable[[Session], object], table: str) -> float:
        with app_db.transaction(tenant) as session:
            connection = session.connection()
            asked.clear()
            sa.event.listen(connection, "before_cursor_execute", note)
            read(session)
            [(statement, values)] = [one for one in asked if f"FROM {table}" in one[0] and "LIMIT" in one[0]]
            found = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values).scalar_one()
        return touched(found[0]["Plan"])

    def note(_: object, __: object, statement: str, values: Any, *___: object) -> None:
        asked.append((statement, values))

    large = view(app_db, tenant, job.id)
    for after in (None, "o1999", "o3899"):
        assert costs(partial(history.results, view=large, after=after, limit=50), "image") <= 2 * 51, after
    with app_db.transaction(tenant) as session:
        newest = find(session, Wanted(), limit=3_500).jobs
    for place in (None, newest[1_000].id, newest[-1].id):
        assert costs(partial(find, wanted=Wanted(), after=place, limit=10), "job") <= 11, place
