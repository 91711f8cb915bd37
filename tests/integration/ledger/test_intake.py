"""Jobs that are taken in piece by piece: nothing twice, nothing lost, whoever dies over it and whenever."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.database import Database
from shared.errors import Conflict
from shared.ledger import intake as ledger
from shared.ledger.cancel import cancel
from shared.ledger.claim import heartbeat
from shared.ledger.deletion import delete
from shared.ledger.intake import Intake, Taken, append, pass_on, postpone
from shared.ledger.reap import reap, release
from shared.ledger.receiving import Address, Archive, receive
from shared.ledger.retry import retry
from shared.ledger.sweep import sweep
from tests.integration.ledger.factories import (
    answers,
    change,
    check_invariants,
    finish,
    job_row,
    kinds,
    leases,
    let_leases_expire,
    new_image,
    new_job,
    result_rows,
    rows,
    take,
    unit_rows,
    wait_for_waiters,
)

NOTHING = hashlib.sha256(b"").digest()
BATCH = 8


def archive_job(app_db: Database, tenant: UUID, lane: str = "bulk", **fields: Any) -> UUID:
    """Accept an archive."""
    job = new_job(tenant, 0, lane, **fields)
    source = Archive("photos.zip", f"incoming/{job.id.hex}/archive", hashlib.sha256(b"zip").digest(), 4096)
    with app_db.transaction(tenant) as session:
        receive(session, job, source)
    return job.id


def url_job(app_db: Database, tenant: UUID, addresses: int, photos: int = 0) -> UUID:
    """Accept a list of addresses that begins with photos which have come already."""
    job = new_job(tenant, photos, "normal")
    listed = [
        Address(photos + place, f"https://photos.example/{place}", f"{place}.jpg", f"patient-{place}")
        for place in range(addresses)
    ]
    with app_db.transaction(tenant) as session:
        receive(session, job, listed)
    return job.id


def claim(worker_db: Database, worker: str = "host/expander", **fields: Any) -> Intake | None:
    """Claim an intake in a transaction of its own."""
    asked: dict[str, Any] = {"lease_seconds": 60.0, "kinds": ("archive", "urls")} | fields
    with worker_db.transaction() as session:
        return ledger.claim(session, worker, **asked)


def held(worker_db: Database, **fields: Any) -> Intake:
    found = claim(worker_db, **fields)
    assert found is not None
    return found


def entries(job: UUID, places: Sequence[int], refused: Sequence[int] = ()) -> list[Taken]:
    """Return what became of the entries at these places."""
    found = []
    for place in places:
        if place in refused:
            image = new_image(place, job=job, sha256=NOTHING, bytes=0)
            found.append(Taken(image, outcome="rejected", reason="encrypted"))
        else:
            found.append(Taken(new_image(place, job=job)))
    return found


def add(worker_db: Database, intake: Intake, taken: Sequence[Taken], *, done: bool = False) -> bool:
    with worker_db.transaction() as session:
        return append(session, intake, taken, done=done)


def reap_now(owner_db: Database, worker_db: Database) -> None:
    let_leases_expire(owner_db)
    with worker_db.transaction() as session:
        reap(session)


def drain(worker_db: Database) -> None:
    while units := take(worker_db):
        finish(worker_db, units)


def test_an_archive_is_expanded_in_pieces_that_are_answered_at_once(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.remaining) == ("receiving", 0, 0)
    intake = held(worker_db)
    assert intake.archive is not None
    assert intake.archive.name == "photos.zip"
    assert intake.total == 0
    assert add(worker_db, intake, entries(job, range(40), refused=[3, 4]))
    check_invariants(owner_db)
    drain(worker_db)
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.remaining, row.rejected) == ("receiving", 40, 0, 2)
    assert row.closed_at is None
    assert kinds(owner_db, job) == ["job.accepted", "job.started"]
    check_invariants(owner_db)
    assert add(worker_db, intake, entries(job, range(40, 50)), done=True)
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.remaining) == ("running", 50, 10)
    drain(worker_db)
    row = job_row(owner_db, job)
    assert (row.state, row.classified, row.rejected) == ("completed", 48, 2)
    assert kinds(owner_db, job) == ["job.accepted", "job.started", "job.completed"]
    check_invariants(owner_db)


def test_units_hold_neighbours_alone_and_pass_over_what_was_refused(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    add(worker_db, held(worker_db), entries(job, range(70), refused=[10, 50]), done=True)
    units = [row for row in unit_rows(owner_db, job) if row.kind == "images"]
    assert [(unit.first, unit.n) for unit in units] == [(0, 10), (11, 32), (43, 7), (51, 19)]
    assert [unit.vft for unit in units] == sorted(unit.vft for unit in units)
    assert {(row.ordinal, tuple(row.reasons)) for row in result_rows(owner_db, job)} == {
        (10, ("encrypted",)),
        (50, ("encrypted",)),
    }


def test_an_archive_of_which_nothing_is_left_to_answer_closes_at_once(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    add(worker_db, held(worker_db), entries(job, range(2), refused=[0, 1]), done=True)
    assert job_row(owner_db, job).state == "completed"
    assert kinds(owner_db, job) == ["job.accepted", "job.completed"]
    check_invariants(owner_db)


def test_a_job_closes_with_its_last_entry_also_where_all_answers_came_before(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    intake = held(worker_db)
    add(worker_db, intake, entries(job, range(4)))
    drain(worker_db)
    assert job_row(owner_db, job).state == "receiving"
    add(worker_db, intake, entries(job, [4], refused=[4]), done=True)
    assert job_row(owner_db, job).state == "completed"
    assert kinds(owner_db, job) == ["job.accepted", "job.started", "job.completed"]
    with pytest.raises(ValueError, match="together with the end"):
        add(worker_db, intake, [], done=True)


def test_who_claims_photos_never_gets_an_intake_and_the_other_way_round(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    archive_job(app_db, tenant, "interactive")
    assert take(worker_db) == []
    assert claim(worker_db, kinds=("urls",)) is None
    assert claim(worker_db, suspect=True) is None
    assert held(worker_db).lane == "interactive"
    assert claim(worker_db) is None


def test_the_sweep_tells_of_lanes_in_which_an_intake_is_ready(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    archive_job(app_db, tenant, "normal")
    found = sweep(worker_db)
    assert found is not None
    assert found.ready == {"normal": 1}


def test_a_zombie_expander_writes_nothing(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    zombie = held(worker_db)
    assert add(worker_db, zombie, entries(job, range(5)))
    reap_now(owner_db, worker_db)
    successor = held(worker_db, suspect=True)
    assert successor.total == 5
    assert successor.fence > zombie.fence
    before = rows(owner_db, "SELECT count(*) FROM image")[0][0]
    assert not add(worker_db, zombie, entries(job, range(5, 9)))
    assert not add(worker_db, zombie, entries(job, range(5, 9)), done=True)
    with worker_db.transaction() as session:
        assert not pass_on(session, zombie)
        assert not postpone(session, zombie, 5.0)
        assert heartbeat(session, leases([zombie]), 60.0) == set()  # type: ignore[list-item]  # an id and a fence
    assert rows(owner_db, "SELECT count(*) FROM image")[0][0] == before
    assert add(worker_db, successor, entries(job, range(5, 9)), done=True)
    drain(worker_db)
    assert job_row(owner_db, job).classified == 9
    check_invariants(owner_db)


def test_an_entry_that_is_there_already_stays_as_it_is(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    intake = held(worker_db)
    add(worker_db, intake, entries(job, range(4)))
    first = rows(owner_db, "SELECT id FROM image ORDER BY ordinal")
    assert add(worker_db, intake, entries(job, range(2, 6), refused=[3]), done=True)
    assert rows(owner_db, "SELECT id FROM image ORDER BY ordinal")[:4] == first
    assert job_row(owner_db, job).total == 6
    check_invariants(owner_db)


class Killed(Exception):
    """The expander dies here: what its transaction has written is gone."""


def expand(worker_db: Database, intake: Intake, size: int, refused: set[int], dies: int | None) -> None:
    """Expand an archive of ``size`` entries from where it stands, and die in the transaction of the dies-th batch."""
    for number, start in enumerate(range(intake.total, size, BATCH)):
        end = min(start + BATCH, size)
        taken = entries(intake.job_id, range(start, end), sorted(refused))
        with worker_db.transaction() as session:
            assert append(session, intake, taken, done=end == size)
            if number == dies:
                raise Killed


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 60),
    places=st.sets(st.integers(0, 59), max_size=6),
    # An expander that got nowhere three times in a row would be the end of the archive.
    deaths=st.lists(st.integers(0, 7), max_size=2),
    drained=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_an_expander_killed_at_any_batch_has_a_successor_that_goes_on_where_it_was(
    owner_db: Database,
    app_db: Database,
    worker_db: Database,
    tenant: UUID,
    size: int,
    places: set[int],
    deaths: list[int],
    drained: tuple[bool, ...],
) -> None:
    change(owner_db, "DELETE FROM job")  # a failed example must not hand its archive to the next
    refused = {place for place in places if place < size}
    job = archive_job(app_db, tenant)
    for dies, drains in zip([*deaths, None], drained, strict=False):
        intake = claim(worker_db) or claim(worker_db, suspect=True)
        if intake is None:  # it had nothing left to die over
            break
        try:
            expand(worker_db, intake, size, refused, dies)
        except Killed:
            check_invariants(owner_db)
            reap_now(owner_db, worker_db)
        if drains:
            drain(worker_db)
        check_invariants(owner_db)
    drain(worker_db)
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.rejected) == ("completed", size, len(refused))
    assert [found.ordinal for found in result_rows(owner_db, job)] == list(range(size))
    assert kinds(owner_db, job).count("job.completed") == 1


def test_three_crashes_without_getting_on_end_it_and_what_was_expanded_keeps_its_answers(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    add(worker_db, held(worker_db), entries(job, range(3)))
    for _ in range(2):
        reap_now(owner_db, worker_db)
        assert held(worker_db, suspect=True).total == 3
    reap_now(owner_db, worker_db)
    assert claim(worker_db, suspect=True) is None
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.failed, row.remaining) == ("queued", 4, 1, 3)
    [rest] = [found for found in result_rows(owner_db, job) if found.outcome == "failed"]
    assert (rest.ordinal, rest.reasons) == (3, ["quarantined"])
    [image] = rows(owner_db, "SELECT * FROM image WHERE ordinal = 3")
    assert (image.client_name, bytes(image.sha256), image.bytes) == (
        "photos.zip",
        hashlib.sha256(b"zip").digest(),
        4096,
    )
    check_invariants(owner_db)
    drain(worker_db)
    row = job_row(owner_db, job)
    assert (row.state, row.classified, row.failed) == ("completed", 3, 1)
    check_invariants(owner_db)


def test_an_expander_that_got_on_is_no_suspect(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    held(worker_db)
    for place in range(4):
        reap_now(owner_db, worker_db)
        intake = held(worker_db, suspect=True)
        assert add(worker_db, intake, entries(job, [place]))
    assert job_row(owner_db, job).total == 4
    check_invariants(owner_db)


def test_a_quarantined_archive_of_which_nothing_was_expanded_has_one_visible_answer(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    held(worker_db)
    for _ in range(2):
        with worker_db.transaction() as session:
            release(session, "host/expander")
        held(worker_db, suspect=True)
    with worker_db.transaction() as session:
        assert release(session, "host/expander").quarantined == 1
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.failed) == ("completed", 1, 1)
    assert kinds(owner_db, job) == ["job.accepted", "job.completed"]
    check_invariants(owner_db)


@pytest.mark.parametrize("early", ["cancel", "deadline", "failures"])
def test_a_job_that_ends_early_accounts_for_what_was_not_expanded(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID, early: str
) -> None:
    job = archive_job(app_db, tenant, max_failure_rate=0.5 if early == "failures" else None)
    intake = held(worker_db)
    add(worker_db, intake, entries(job, range(80), refused=range(60)))
    if early == "cancel":
        with app_db.transaction(tenant) as session:
            cancel(session, tenant, job)
    elif early == "deadline":
        change(owner_db, "UPDATE job SET deadline = now()")
        sweep(worker_db)
    else:
        sweep(worker_db)
    row = job_row(owner_db, job)
    state, outcome = {
        "cancel": ("cancelled", "cancelled"),
        "deadline": ("expired", "expired"),
        "failures": ("stopped", "cancelled"),
    }[early]
    assert (row.state, row.total, row.rejected, getattr(row, outcome)) == (state, 81, 60, 21)
    assert result_rows(owner_db, job)[-1].reasons == []
    assert kinds(owner_db, job) == ["job.accepted", f"job.{state}"]
    assert not add(worker_db, intake, entries(job, range(80, 90)))
    check_invariants(owner_db)


def test_a_cancel_before_anything_was_expanded_closes_the_job(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job)
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.cancelled) == ("cancelled", 1, 1)
    assert claim(worker_db) is None
    check_invariants(owner_db)


def test_a_cancel_that_meets_an_append_ends_what_it_added_too(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    intake = held(worker_db)

    def end() -> None:
        with app_db.transaction(tenant) as session:
            cancel(session, tenant, job)

    with ThreadPoolExecutor(1) as pool:
        with worker_db.transaction() as session:
            assert append(session, intake, entries(job, range(5)), done=False)
            cancelling = pool.submit(end)
            wait_for_waiters(owner_db)
        cancelling.result(20)
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.cancelled) == ("cancelled", 6, 6)
    check_invariants(owner_db)


def test_an_append_that_meets_a_cancel_writes_nothing(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    intake = held(worker_db)
    with ThreadPoolExecutor(1) as pool:
        with app_db.transaction(tenant) as session:
            cancel(session, tenant, job)
            appending = pool.submit(add, worker_db, intake, entries(job, range(5)))
            wait_for_waiters(owner_db)
        assert appending.result(20) is False
    assert job_row(owner_db, job).total == 1
    check_invariants(owner_db)


def test_a_list_knows_its_total_and_answers_every_address_by_its_custom_id_when_cancelled(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = url_job(app_db, tenant, addresses=5, photos=2)
    assert (job_row(owner_db, job).total, job_row(owner_db, job).remaining) == (7, 7)
    check_invariants(owner_db)
    [unit] = take(worker_db)
    assert [image.ordinal for image in unit.images] == [0, 1]
    finish(worker_db, [unit])
    intake = held(worker_db)
    taken = [Taken(new_image(3, job=job, custom_id="patient-1"))]
    assert add(worker_db, intake, taken)
    check_invariants(owner_db)
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job)
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.classified, row.cancelled) == ("cancelled", 7, 2, 5)
    found = rows(owner_db, "SELECT ordinal, custom_id, bytes FROM image WHERE ordinal > 1 ORDER BY ordinal")
    assert [(image.ordinal, image.custom_id) for image in found] == [(n + 2, f"patient-{n}") for n in range(5)]
    check_invariants(owner_db)


def test_a_list_whose_addresses_have_all_come_closes_when_they_are_answered(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = url_job(app_db, tenant, addresses=3)
    intake = held(worker_db)
    add(worker_db, intake, [Taken(new_image(n, job=job, custom_id=f"patient-{n}")) for n in (0, 2)])
    image = new_image(1, job=job, sha256=NOTHING, bytes=0, custom_id="patient-1")
    add(worker_db, intake, [Taken(image, outcome="failed", reason="url_unreachable")], done=True)
    drain(worker_db)
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.classified, row.failed) == ("completed", 3, 2, 1)
    check_invariants(owner_db)


def test_an_intake_that_had_its_turn_comes_behind_what_its_tenant_has_queued(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    archive_job(app_db, tenant)
    first = held(worker_db)
    add(worker_db, first, entries(first.job_id, range(64)))
    second = archive_job(app_db, tenant)
    with worker_db.transaction() as session:
        assert pass_on(session, first)
    assert held(worker_db).job_id == second
    again = held(worker_db)
    assert (again.id, again.total, again.attempt) == (first.id, 64, 1)


def test_a_postponed_intake_comes_back_by_the_sweep(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    url_job(app_db, tenant, addresses=1)
    intake = held(worker_db)
    with worker_db.transaction() as session:
        assert postpone(session, intake, 0.0)
    assert claim(worker_db) is None
    found = sweep(worker_db)
    assert found is not None
    assert found.promoted == 1
    assert held(worker_db).id == intake.id


def test_retry_and_delete_take_a_job_that_came_as_an_archive_as_any_other(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    intake = held(worker_db)
    with pytest.raises(Conflict, match="receiving"), app_db.transaction(tenant) as session:
        delete(session, tenant, job)
    add(worker_db, intake, entries(job, range(2)), done=True)
    finish(worker_db, take(worker_db), "failed")
    with app_db.transaction(tenant) as session:
        retry(session, tenant, job, [0, 1])
    [*units] = take(worker_db)
    assert {answer.ordinal for answer in answers(units)} == {0, 1}
    finish(worker_db, units)
    check_invariants(owner_db)
    with app_db.transaction(tenant) as session:
        delete(session, tenant, job)
    assert rows(owner_db, "SELECT count(*) FROM intake")[0][0] == 0


def test_the_same_bytes_again_are_known(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = archive_job(app_db, tenant)
    intake = held(worker_db)
    first = Taken(new_image(0, job=job))
    add(worker_db, intake, [first, Taken(new_image(1, job=job, bytes=0, sha256=NOTHING))])
    with worker_db.transaction() as session:
        assert ledger.known_digests(session, job) == {first.image.sha256: first.image.id}
