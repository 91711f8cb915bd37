"""Completing under a fence: results, counters and the closing event in one transaction, and nothing for a zombie."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.database import Database
from shared.ledger import complete as module
from shared.ledger.claim import Lease
from shared.ledger.complete import Completion, Deferred, Outcome, complete
from shared.ledger.reap import give_back, reap
from shared.ledger.sweep import sweep
from shared.prepared import Prepared
from shared.vocabulary import OUTCOMES
from tests.conftest import make_tenant
from tests.integration.ledger.factories import (
    answers,
    change,
    check_invariants,
    finish,
    follow_the_given_order,
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
from tests.integration.ledger.said import ANSWER, said
from tests.integration.ledger.statements import statements

FENCE = "AND u.fence = h.fence"
STATE = "AND u.state = 'leased'"


def test_answers_are_written_and_counted(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 33)
    first, second = take(worker_db, 2)
    packed = said()
    outcomes = answers(
        [first],
        label="mpox",
        reasons=("blurred", "not_certain"),
        has_copy=True,
        decode_ms=1.5,
        **packed,
    )
    with worker_db.transaction() as session:
        done = complete(session, leases([first]), outcomes)
    assert done == Completion(frozenset({first.id}), 32, ())

    row = result_rows(owner_db, job.id)[5]
    assert (row.image_id, row.tenant_id, row.ordinal, row.fence) == (job.images[5].id, tenant, 5, first.fence)
    assert (row.outcome, row.label, row.reasons) == ("classified", "mpox", ["blurred", "not_certain"])
    assert (row.scheme_id, packed["scheme"].unpack(bytes(row.numbers))) == (packed["scheme"].id, ANSWER)
    assert (row.attempts, row.has_copy, row.decode_ms, row.network_ms) == (1, True, 1.5, None)
    [scheme] = rows(owner_db, "SELECT model_id, model_digest, labels, thresholds, quality FROM answer_scheme")
    assert scheme == ("demo", "ab" * 32, ["mpox", "other"], [0.4, 0.4], ["blur", "exposure", "size", "flat"])
    assert [unit.state for unit in unit_rows(owner_db, job.id)] == ["done", "leased"]
    assert job_row(owner_db, job.id).state == "running"
    check_invariants(owner_db)

    assert finish(worker_db, [second], "rejected") == Completion(frozenset({second.id}), 1, (job.id,))
    closed = job_row(owner_db, job.id)
    assert (closed.state, closed.remaining, closed.classified, closed.rejected) == ("completed", 0, 32, 1)
    assert result_rows(owner_db, job.id)[32].reasons == []
    check_invariants(owner_db)


def test_the_last_unit_closes_the_job_with_one_event_in_the_same_transaction(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 40)
    first, last = take(worker_db, 2)
    finish(worker_db, [first])
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started"]
    with worker_db.transaction() as session:
        assert complete(session, leases([last]), answers([last], "abstained")).closed == (job.id,)
        assert kinds(owner_db, job.id) == ["job.accepted", "job.started"]
        assert job_row(owner_db, job.id).remaining == 8
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started", "job.completed"]
    [event] = rows(owner_db, "SELECT round, body FROM event WHERE kind = 'job.completed'")
    counts = dict.fromkeys(OUTCOMES, 0) | {"classified": 32, "abstained": 8}
    assert event == (0, {"total": 40, "counts": counts})
    check_invariants(owner_db)


def test_a_completion_that_rolls_back_leaves_no_trace(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 1)
    units = take(worker_db)
    with worker_db.transaction() as session:
        assert complete(session, leases(units), answers(units)).closed == (job.id,)
        session.rollback()
    assert result_rows(owner_db, job.id) == []
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started"]
    assert finish(worker_db, units).written == 1
    check_invariants(owner_db)


def test_counts_sum_to_the_total_after_every_completion(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    other = make_tenant(owner_db, "other clinic")
    for photos in (1, 31, 64, 100):
        submit_job(app_db, tenant, photos)
        submit_job(app_db, other, photos)
    while units := take(worker_db, 3):
        outcomes = [
            Outcome(image.id, unit.id, image.ordinal, chance.choice(OUTCOMES[:4]))
            for unit in units
            for image in unit.images
        ]
        with worker_db.transaction() as session:
            complete(session, leases(units), outcomes)
        check_invariants(owner_db, f"seed {seed}")
    assert len(rows(owner_db, "SELECT 1 FROM event WHERE kind = 'job.completed'")) == 8


def test_one_completion_may_close_jobs_of_several_tenants(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    jobs = [submit_job(app_db, owner, 1) for owner in (tenant, make_tenant(owner_db, "other clinic"))]
    done = finish(worker_db, take(worker_db))
    assert set(done.closed) == {job.id for job in jobs}
    check_invariants(owner_db)
    numbers = rows(owner_db, "SELECT tenant_id, array_agg(seq ORDER BY seq) AS seqs FROM event GROUP BY tenant_id")
    assert [row.seqs for row in numbers] == [[1, 2, 3], [1, 2, 3]]


def test_a_unit_is_completed_with_all_its_photos_or_not_at_all(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    """A unit closed with a photo left out would leave its job open for ever."""
    job = submit_job(app_db, tenant, 3)
    units = take(worker_db)
    with pytest.raises(ValueError, match="3 photos"), worker_db.transaction() as session:
        complete(session, leases(units), answers(units)[:2])
    with pytest.raises(ValueError, match="3 photos"), worker_db.transaction() as session:
        complete(session, leases(units), answers(units), [Deferred(units[0].id, 1, 5)])
    assert result_rows(owner_db, job.id) == []
    assert finish(worker_db, units).written == 3


def test_a_completion_twice_writes_once(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 10)
    units = take(worker_db)
    assert finish(worker_db, units).written == 10
    assert finish(worker_db, units, "failed") == Completion(frozenset(), 0, ())
    assert {row.outcome for row in result_rows(owner_db, job.id)} == {"classified"}
    check_invariants(owner_db)


def test_an_expired_lease_nobody_took_yet_still_completes(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 10)
    units = take(worker_db)
    let_leases_expire(owner_db)
    assert finish(worker_db, units).written == 10
    check_invariants(owner_db)


def test_a_completion_locks_units_in_the_order_of_their_ids(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    """A cancel locks them in that order too; two orders would be a deadlock."""
    submit_job(app_db, tenant, 64)
    units = sorted(take(worker_db, 2), key=lambda unit: unit.id)
    change(owner_db, "UPDATE unit SET lease_until = now() + interval '20 seconds' WHERE id = :id", id=units[1].id)

    def act(how: Callable[[Session, list[Lease]], object]) -> None:
        with worker_db.transaction() as session:
            follow_the_given_order(session)
            how(session, leases(units)[::-1])
            session.rollback()

    for how in (lambda session, held: complete(session, held, answers(units)), give_back):
        with ThreadPoolExecutor(1) as pool:
            with owner_db.transaction() as session:
                session.execute(sa.text("SELECT 1 FROM unit WHERE id = :id FOR UPDATE"), {"id": units[0].id})
                acting = pool.submit(act, how)
                wait_for_waiters(owner_db)
                free = rows(owner_db, "SELECT id FROM unit WHERE id = :id FOR UPDATE SKIP LOCKED", id=units[1].id)
            acting.result(20)
        assert len(free) == 1, "it took the second lock before the first"


def test_two_completions_of_one_job_at_once_do_not_wait_in_a_circle(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    """Both have inserted results, which hold the job by its foreign key, before either of them counts."""
    job = submit_job(app_db, tenant, 64)
    units = take(worker_db, 2)
    with ThreadPoolExecutor(2) as pool:
        with owner_db.transaction() as session:
            session.execute(sa.text("SELECT 1 FROM job FOR NO KEY UPDATE"))
            running = [pool.submit(finish, worker_db, [unit]) for unit in units]
            wait_for_waiters(owner_db, 2)
        assert sorted(done.result(20).closed for done in running) == [(), (job.id,)]
    check_invariants(owner_db)


# The zombie: a worker that slept past its lease and wakes up when another has the unit


def weaken(monkeypatch: pytest.MonkeyPatch, *conditions: str) -> None:
    for name in ("_DONE", "_DONE_WITH_RESULTS"):
        prepared = getattr(module, name)
        statement = prepared.text
        for condition in conditions:
            assert condition in statement
            statement = statement.replace(condition, "")
        monkeypatch.setattr(module, name, Prepared(statement, prepared.types))


def outlive_a_lease(owner_db: Database, worker_db: Database, photos: int) -> list[str]:
    """Let A sleep past its lease and complete while B holds the same photos; return what went wrong.

    A answers ``rejected`` and puts the last photo of a larger unit off; B answers ``classified``.
    """
    a = take(worker_db, worker="host/a")
    let_leases_expire(owner_db)
    with worker_db.transaction() as session:
        assert reap(session).total == len(a)
    b = take(worker_db, worker="host/b")
    outcomes, deferred = answers(a, "rejected"), []
    if photos > 1:
        late = outcomes.pop()
        deferred = [Deferred(late.unit_id, late.ordinal, 0)]
    wrong = []
    with worker_db.transaction() as session:
        if complete(session, leases(a), outcomes, deferred) != Completion(frozenset(), 0, ()):
            wrong.append("the zombie wrote")
    while b:
        if finish(worker_db, b).written != len(b):
            wrong.append("the holder's answers were lost")
        b = take(worker_db, worker="host/b")
    found = rows(owner_db, "SELECT outcome FROM result")
    wrong += [f"a result is {row.outcome}" for row in found if row.outcome != "classified"]
    try:
        check_invariants(owner_db)
    except AssertionError as error:
        wrong.append(f"the counters disagree: {error}")
    return wrong


@pytest.mark.parametrize("photos", [1, 3])
def test_a_zombie_writes_nothing(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID, photos: int
) -> None:
    job = submit_job(app_db, tenant, photos)
    assert outlive_a_lease(owner_db, worker_db, photos) == []
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started", "job.completed"]


@pytest.mark.parametrize(
    ("photos", "taken_out", "fault"),
    [
        # Without the fence the zombie completes what B holds, and B's answer is lost.
        (1, (FENCE,), "the holder's answers were lost"),
        # A split unit is no longer leased, so there the state must go too: its photos are answered by the zombie,
        # and the one it puts off gets a second unit.
        (3, (FENCE, STATE), "the zombie wrote"),
        (3, (FENCE, STATE), "the counters disagree"),
    ],
)
def test_without_the_fence_a_zombie_would_do_harm(
    *,
    owner_db: Database,
    app_db: Database,
    worker_db: Database,
    tenant: UUID,
    monkeypatch: pytest.MonkeyPatch,
    photos: int,
    taken_out: tuple[str, ...],
    fault: str,
) -> None:
    """The test above must be able to fail: this one takes the fence out and sees it fail."""
    submit_job(app_db, tenant, photos)
    weaken(monkeypatch, *taken_out)
    assert any(said.startswith(fault) for said in outlive_a_lease(owner_db, worker_db, photos))


def test_a_zombie_among_the_living_harms_only_itself(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    submit_job(app_db, tenant, 64)
    slow, good = take(worker_db, 2)
    change(owner_db, "UPDATE unit SET lease_until = now() - interval '1 second' WHERE id = :id", id=slow.id)
    with worker_db.transaction() as session:
        assert reap(session).split == 1
    assert finish(worker_db, [slow, good]) == Completion(frozenset({good.id}), 32, ())
    check_invariants(owner_db)


# Photos that cannot be fetched now


def test_a_deferred_photo_waits_alone_until_its_time_has_come(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 4)
    [unit] = take(worker_db)
    kept = [item for item in answers([unit]) if item.ordinal != 2]
    with worker_db.transaction() as session:
        done = complete(session, leases([unit]), kept, [Deferred(unit.id, 2, 3600)])
    assert done == Completion(frozenset({unit.id}), 3, ())
    parent, child = unit_rows(owner_db, job.id)
    assert parent.state == "split"
    assert (child.first, child.n, child.state, child.attempt, child.crashes) == (2, 1, "waiting", 1, 0)
    assert (child.vft, child.lane, child.tenant_id) == (parent.vft, parent.lane, tenant)
    check_invariants(owner_db)

    swept = sweep(worker_db)
    assert swept is not None
    assert (swept.promoted, swept.ready) == (0, {})
    assert take(worker_db) == []

    change(owner_db, "UPDATE unit SET available_at = now() - interval '1 second' WHERE state = 'waiting'")
    swept = sweep(worker_db)
    assert swept is not None
    assert (swept.promoted, swept.ready) == (1, {"normal": 1})
    [again] = take(worker_db)
    assert ([image.id for image in again.images], again.attempt) == ([job.images[2].id], 2)
    assert finish(worker_db, [again]).closed == (job.id,)
    check_invariants(owner_db)


def test_a_unit_with_every_photo_deferred_writes_no_result(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 2)
    [unit] = take(worker_db)
    with worker_db.transaction() as session:
        done = complete(session, leases([unit]), [], [Deferred(unit.id, place, 0) for place in (0, 1)])
    assert done == Completion(frozenset({unit.id}), 0, ())
    assert [row.state for row in unit_rows(owner_db, job.id)] == ["split", "waiting", "waiting"]
    check_invariants(owner_db)


def test_giving_back_counts_neither_an_attempt_nor_a_crash(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 64)
    first, second = take(worker_db, 2)
    with worker_db.transaction() as session:
        assert give_back(session, [*leases([first]), Lease(second.id, second.fence - 1)]) == 1
    back, held = unit_rows(owner_db, job.id)
    assert (back.state, back.attempt, back.crashes, back.leased_by, back.lease_until) == ("ready", 0, 0, None, None)
    assert (held.state, held.attempt) == ("leased", 1)
    # What was given back is another's now: the fence of before completes nothing.
    assert finish(worker_db, [first]).written == 0
    [again] = take(worker_db)
    assert (again.id, again.attempt, again.n) == (first.id, 1, 32)
    assert again.fence > first.fence
    assert finish(worker_db, [first]).written == 0
    assert finish(worker_db, [again, second]).closed == (job.id,)
    check_invariants(owner_db)


def test_a_large_job_tells_each_quarter_once(
    app_db: Database, worker_db: Database, owner_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 128)
    while units := take(worker_db, 1):
        finish(worker_db, units)
    told = rows(
        owner_db, "SELECT body FROM event WHERE job_id = :job AND kind = 'job.progress' ORDER BY seq", job=job.id
    )
    progress = [row.body["progress"] for row in told]
    assert [int(4 * share) for share in progress] == [1, 2, 3]
    assert [sum(row.body["counts"].values()) for row in told] == [round(128 * share) for share in progress]


def test_a_small_job_tells_its_end_alone(
    app_db: Database, worker_db: Database, owner_db: Database, tenant: UUID
) -> None:
    job = submit_job(app_db, tenant, 99)
    while units := take(worker_db, 1):
        finish(worker_db, units)
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started", "job.completed"]


def test_few_photos_are_completed_with_one_statement_and_counted_and_told_of_with_another(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    for _ in range(2):
        submit_job(app_db, tenant, 1)
    units = take(worker_db)
    with worker_db.transaction() as session, statements(session) as sent:
        done = complete(session, leases(units), answers(units))
    assert len(sent) == 2
    assert set(done.closed) == {unit.job_id for unit in units}
    told = rows(owner_db, "SELECT seq, job_id, body FROM event WHERE kind = 'job.completed' ORDER BY seq")
    assert [event.job_id for event in told] == sorted(unit.job_id for unit in units)
    assert told[0].body == {"total": 1, "counts": {**dict.fromkeys(OUTCOMES, 0), "classified": 1}}
    check_invariants(owner_db)
