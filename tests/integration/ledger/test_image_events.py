"""``image.completed``: one event a photo and round where an endpoint names it, on whichever way its result came."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared import events, ids, image_events, resending, webhooks
from shared.database import Database
from shared.errors import Conflict
from shared.ledger import intake as taking_in
from shared.ledger.cancel import cancel, expire, stop
from shared.ledger.complete import Deferred, Outcome, complete
from shared.ledger.deletion import delete
from shared.ledger.fairness import UNIT_IMAGES
from shared.ledger.intake import Taken, append
from shared.ledger.reap import CRASHES, reap
from shared.ledger.receiving import Address, Archive, receive
from shared.ledger.retry import failed_photos, retry
from shared.ledger.submit import NewJob, submit
from shared.ledger.sweep import sweep
from shared.signing import Keyring
from shared.webhooks import Recorded
from tests.conftest import make_tenant
from tests.integration.ledger.factories import (
    answers,
    change,
    check_invariants,
    finish,
    kinds,
    leases,
    let_leases_expire,
    new_image,
    new_job,
    rows,
    submit_job,
    take,
)
from tests.integration.ledger.statements import statements

KEYRING = Keyring(b"a secret key of the tests, long enough")
NAMED = ("image.completed",)


def endpoint(app_db: Database, tenant: UUID, named: tuple[str, ...] = NAMED, job: UUID | None = None) -> UUID:
    with app_db.transaction(tenant) as session:
        made, _ = webhooks.create_endpoint(session, KEYRING, tenant, "https://clinic.example/hooks", named, job_id=job)
    return made.id


def feed(app_db: Database, tenant: UUID) -> list[Recorded]:
    with app_db.transaction(tenant) as session:
        found = events.since(session, 0, 10_000)
    assert [event.seq for event in found] == list(range(1, len(found) + 1))
    return found


def of_photos(app_db: Database, tenant: UUID) -> list[Recorded]:
    return [event for event in feed(app_db, tenant) if event.kind == image_events.KIND]


def owed(owner_db: Database, endpoint_id: UUID) -> list[Any]:
    """Return what an endpoint is owed, in the order in which it is sent."""
    return rows(
        owner_db,
        """
        SELECT d.event_seq AS seq, e.id, e.kind, d.previous_id FROM delivery d
        JOIN event e ON e.tenant_id = d.tenant_id AND e.seq = d.event_seq
        WHERE d.endpoint_id = :endpoint ORDER BY d.next_at, d.id
        """,
        endpoint=endpoint_id,
    )


def check_each_was_told(owner_db: Database, app_db: Database, tenant: UUID, job: UUID) -> dict[str, int]:
    """Hold the events of a job's photos against its results, and return how many there are of each outcome."""
    check_invariants(owner_db)
    told = {
        event.body["ordinal"]: (event.body["image"], event.body["outcome"], event.round)
        for event in of_photos(app_db, tenant)
        if event.job_id == job
    }
    found = rows(
        owner_db,
        "SELECT r.ordinal, r.image_id, r.outcome, j.round FROM result r JOIN job j ON j.id = r.job_id "
        "WHERE r.job_id = :job",
        job=job,
    )
    assert told == {row.ordinal: (ids.text("image", row.image_id), row.outcome, row.round) for row in found}
    assert len(told) == sum(event.job_id == job for event in of_photos(app_db, tenant))
    outcomes = [outcome for _, outcome, _ in told.values()]
    return {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}


def test_each_photo_is_told_before_the_end_of_its_job_and_delivered_in_a_straight_chain(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    hears = endpoint(app_db, tenant, ("image.completed", "job.completed"))
    every = endpoint(app_db, tenant, ())
    job = new_job(tenant, 0, "normal", images=[new_image(at, custom_id=f"patient {at}") for at in range(40)])
    with app_db.transaction(tenant) as session:
        submit(session, job)
    one, other = take(worker_db)
    finish(worker_db, [one])
    finish(worker_db, [other], "abstained")
    assert check_each_was_told(owner_db, app_db, tenant, job.id) == {"abstained": 8, "classified": 32}
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started", *[image_events.KIND] * 40, "job.completed"]
    first = of_photos(app_db, tenant)[0]
    assert first.body == {
        "image": ids.text("image", job.images[0].id),
        "ordinal": 0,
        "custom_id": "patient 0",
        "outcome": "classified",
    }
    chain = owed(owner_db, hears)
    assert [row.kind for row in chain] == [image_events.KIND] * 40 + ["job.completed"]
    assert [row.seq for row in chain] == sorted(row.seq for row in chain)
    assert [row.previous_id for row in chain] == [None, *(row.id for row in chain[:-1])]
    # Who asked for no kind in particular does not get one for every photo.
    assert [row.kind for row in owed(owner_db, every)] == ["job.accepted", "job.started", "job.completed"]


@pytest.mark.parametrize("named", [(), ("job.completed",), None])
def test_where_nobody_names_it_there_is_none(
    named: tuple[str, ...] | None, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    if named is not None:
        endpoint(app_db, tenant, named)
    endpoint(app_db, make_tenant(owner_db, "elsewhere"))
    job = submit_job(app_db, tenant, 3)
    finish(worker_db, take(worker_db))
    assert kinds(owner_db, job.id) == ["job.accepted", "job.started", "job.completed"]


def test_a_one_off_endpoint_hears_of_the_photos_of_its_job_alone(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    mine, other = submit_job(app_db, tenant, 3), submit_job(app_db, tenant, 4)
    hears = endpoint(app_db, tenant, job=mine.id)
    finish(worker_db, take(worker_db))
    assert check_each_was_told(owner_db, app_db, tenant, mine.id) == {"classified": 3}
    assert kinds(owner_db, other.id) == ["job.accepted", "job.started", "job.completed"]
    assert len(owed(owner_db, hears)) == 3


def test_a_disabled_endpoint_is_owed_its_photos_all_the_same(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    hears = endpoint(app_db, tenant)
    change(owner_db, "UPDATE endpoint SET state = 'disabled'")
    submit_job(app_db, tenant, 3)
    finish(worker_db, take(worker_db))
    assert len(owed(owner_db, hears)) == 3


def test_jobs_of_several_tenants_in_one_transaction_each_keep_their_own_numbers(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    others = [make_tenant(owner_db, name) for name in ("second", "third")]
    hears = {whose: endpoint(app_db, whose) for whose in (tenant, others[1])}
    jobs = {whose: [submit_job(app_db, whose, 2) for _ in range(2)] for whose in (tenant, *others)}
    finish(worker_db, take(worker_db))
    for whose, endpoint_id in hears.items():
        for job in jobs[whose]:
            assert check_each_was_told(owner_db, app_db, whose, job.id) == {"classified": 2}
        assert len(owed(owner_db, endpoint_id)) == 4
    assert of_photos(app_db, others[0]) == []
    assert [event.kind for event in feed(app_db, others[0])].count("job.completed") == 2


Way = Callable[[Database, Database, Database, UUID], tuple[UUID, dict[str, int]]]


def _mixed(owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID) -> tuple[UUID, dict[str, int]]:
    job = submit_job(app_db, tenant, 4)
    (unit,) = take(worker_db)
    said = [
        Outcome(image.id, unit.id, image.ordinal, outcome)
        for image, outcome in zip(unit.images, ("classified", "abstained", "rejected"), strict=False)
    ]
    with worker_db.transaction() as session:
        complete(session, leases([unit]), said, [Deferred(unit.id, 3, 0.0)])
    change(owner_db, "UPDATE unit SET state = 'ready' WHERE state = 'waiting'")
    finish(worker_db, take(worker_db), "failed")
    return job.id, {"abstained": 1, "classified": 1, "failed": 1, "rejected": 1}


def _quarantined(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> tuple[UUID, dict[str, int]]:
    job = submit_job(app_db, tenant, 1)
    for _ in range(CRASHES):
        take(worker_db)
        let_leases_expire(owner_db)
        with worker_db.transaction() as session:
            reap(session)
    return job.id, {"failed": 1}


def _ended(how: str) -> Way:
    def end(_: Database, app_db: Database, worker_db: Database, tenant: UUID) -> tuple[UUID, dict[str, int]]:
        job = submit_job(app_db, tenant, UNIT_IMAGES + 5)
        finish(worker_db, take(worker_db, 1))
        if how == "cancelled":
            with app_db.transaction(tenant) as session:
                cancel(session, tenant, job.id)
        else:
            with worker_db.transaction() as session:
                (expire if how == "expired" else stop)(session, job.id)
        return job.id, {"classified": UNIT_IMAGES, "expired" if how == "expired" else "cancelled": 5}

    return end


def _being_expanded(app_db: Database, worker_db: Database, tenant: UUID) -> tuple[NewJob, taking_in.Intake]:
    """Return a job of an archive, and the unit that an expander holds of it."""
    job = new_job(tenant, 0, "bulk")
    with app_db.transaction(tenant) as session:
        receive(session, job, Archive("photos.zip", f"incoming/{job.id.hex}/archive", b"z" * 32, 4096))
    with worker_db.transaction() as session:
        held = taking_in.claim(session, "host/expander", lease_seconds=60.0, kinds=("archive",))
    assert held is not None
    return job, held


def _archive(_: Database, app_db: Database, worker_db: Database, tenant: UUID) -> tuple[UUID, dict[str, int]]:
    job, held = _being_expanded(app_db, worker_db, tenant)
    for place, done in ((0, False), (2, True)):
        entries = [
            Taken(new_image(place, job=job.id), outcome="rejected", reason="encrypted"),
            Taken(new_image(place + 1, job=job.id)),
        ]
        with worker_db.transaction() as session:
            assert append(session, held, entries, done=done)
    finish(worker_db, take(worker_db))
    return job.id, {"classified": 2, "rejected": 2}


def _refused_whole(_: Database, app_db: Database, worker_db: Database, tenant: UUID) -> tuple[UUID, dict[str, int]]:
    job, held = _being_expanded(app_db, worker_db, tenant)
    with worker_db.transaction() as session:
        taking_in.give_up(session, held, "archive_damaged")
    return job.id, {"failed": 1}


def _listed(_: Database, app_db: Database, worker_db: Database, tenant: UUID) -> tuple[UUID, dict[str, int]]:
    job = new_job(tenant, 2, "normal")
    addresses = [Address(2 + at, f"https://photos.example/{at}", None, f"patient-{at}") for at in range(3)]
    with app_db.transaction(tenant) as session:
        receive(session, job, addresses)
    finish(worker_db, take(worker_db))
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job.id)
    return job.id, {"cancelled": 3, "classified": 2}


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(_mixed, id="completed, deferred and failed"),
        pytest.param(_quarantined, id="quarantined"),
        pytest.param(_ended("cancelled"), id="cancelled"),
        pytest.param(_ended("expired"), id="expired"),
        pytest.param(_ended("stopped"), id="stopped"),
        pytest.param(_archive, id="refused in an archive"),
        pytest.param(_refused_whole, id="the rest of an archive"),
        pytest.param(_listed, id="the rest of a list"),
    ],
)
def test_whatever_became_of_a_photo_is_told_once(
    way: Way, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    hears = endpoint(app_db, tenant)
    job, expected = way(owner_db, app_db, worker_db, tenant)
    assert check_each_was_told(owner_db, app_db, tenant, job) == expected
    chain = owed(owner_db, hears)
    assert [row.seq for row in chain] == [event.seq for event in of_photos(app_db, tenant)]
    assert [row.previous_id for row in chain] == [None, *(row.id for row in chain[:-1])]


def test_a_photo_that_is_tried_again_is_told_again_in_its_new_round_and_the_others_are_not(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint(app_db, tenant)
    job = submit_job(app_db, tenant, 4)
    (unit,) = take(worker_db)
    said = [
        Outcome(image.id, unit.id, image.ordinal, "failed" if image.ordinal == 2 else "classified")
        for image in unit.images
    ]
    with worker_db.transaction() as session:
        complete(session, leases([unit]), said)
    with app_db.transaction(tenant) as session:
        retry(session, tenant, job.id, [photo.ordinal for photo in failed_photos(session, job.id)])
    finish(worker_db, take(worker_db))
    told = [(event.body["ordinal"], event.round, event.body["outcome"]) for event in of_photos(app_db, tenant)]
    assert told == [
        (0, 0, "classified"),
        (1, 0, "classified"),
        (2, 0, "failed"),
        (3, 0, "classified"),
        (2, 1, "classified"),
    ]


def test_a_completion_that_comes_too_late_tells_nothing(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint(app_db, tenant)
    job = submit_job(app_db, tenant, 3)
    (unit,) = take(worker_db)
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job.id)
    with worker_db.transaction() as session:
        complete(session, leases([unit]), answers([unit]))
    assert check_each_was_told(owner_db, app_db, tenant, job.id) == {"cancelled": 3}


def test_a_transaction_that_fails_tells_nothing_and_burns_no_number(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint(app_db, tenant)
    submit_job(app_db, tenant, 3)
    units = take(worker_db)

    def fail() -> None:
        with worker_db.transaction() as session:
            complete(session, leases(units), answers(units))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert of_photos(app_db, tenant) == []
    finish(worker_db, units)
    assert len(of_photos(app_db, tenant)) == 3


def test_the_number_of_statements_does_not_grow_with_the_photos_and_endpoints(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    def asked(photos: int) -> int:
        submit_job(app_db, tenant, photos)
        units = take(worker_db)
        with worker_db.transaction() as session, statements(session) as sent:
            complete(session, leases(units), answers(units))
        return len(sent)

    without = asked(90)
    for _ in range(3):
        endpoint(app_db, tenant)
    few, many, more = asked(2), asked(90), asked(180)
    assert few == many - 1  # units and results of few are one statement
    assert more == many
    # One of them is who hears, which is not asked where nobody does; two tell of the job's end, after its photos.
    assert many == without + 7


def test_only_who_names_the_kind_can_have_events_of_photos_replayed(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint(app_db, tenant)
    submit_job(app_db, tenant, 3)
    finish(worker_db, take(worker_db))
    every, named = endpoint(app_db, tenant, ()), endpoint(app_db, tenant)
    since = datetime(2026, 1, 1, tzinfo=UTC)
    with app_db.transaction(tenant) as session:
        assert resending.replay(session, every, since, preview=True) == 3
        assert resending.replay(session, every, since, preview=False) == 3
        assert resending.replay(session, named, since, preview=True) == 3


def test_what_a_client_called_a_photo_goes_from_its_event_when_the_job_is_deleted(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint(app_db, tenant)
    kept = []
    for name in ("deleted", "kept"):
        job = new_job(tenant, 0, "normal", images=[new_image(0, custom_id=f"patient {name}"), new_image(1)])
        with app_db.transaction(tenant) as session:
            submit(session, job)
        kept.append(job.id)
    finish(worker_db, take(worker_db))
    with app_db.transaction(tenant) as session:
        delete(session, tenant, kept[0])
    told = {(event.job_id, event.body["custom_id"]) for event in of_photos(app_db, tenant)}
    assert told == {(kept[0], None), (kept[1], "patient kept"), (kept[1], None)}


def test_a_deletion_reads_the_events_of_its_own_job_alone(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    hears = endpoint(app_db, tenant)
    others = """
        WITH told AS (
          INSERT INTO event (tenant_id, seq, id, kind, job_id, round, body)
          SELECT :tenant, 1000 + n, gen_random_uuid(), 'image.completed', md5((n / 100)::text)::uuid, 0, '{}'
          FROM generate_series(1, 3000) AS n RETURNING seq)
        INSERT INTO delivery (id, tenant_id, endpoint_id, event_seq, body, state)
        SELECT gen_random_uuid(), :tenant, :endpoint, seq, 'kept', 'delivered' FROM told
    """
    change(owner_db, others, tenant=tenant, endpoint=hears)
    change(owner_db, "ANALYZE event, delivery")
    job = submit_job(app_db, tenant, 3)
    finish(worker_db, take(worker_db))
    plans: list[dict[str, Any]] = []

    def explain(connection: sa.Connection, _: object, statement: str, values: Any, *__: object) -> None:
        if "event" in statement and not statement.startswith("EXPLAIN"):
            found = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values).scalar_one()
            plans.append(found[0]["Plan"])

    with app_db.transaction(tenant) as session:
        connection = session.connection()
        sa.event.listen(connection, "before_cursor_execute", explain)
        delete(session, tenant, job.id)
    assert len(plans) == 2
    for plan in plans:
        assert _read(plan, {"event", "delivery"}) <= 12, plan


def _read(plan: dict[str, Any], tables: set[str]) -> float:
    """Return how many rows the scans of these tables looked at."""
    own = 0.0
    if plan.get("Relation Name") in tables and plan["Node Type"] != "ModifyTable":
        own = plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0))
    return own + sum(_read(part, tables) for part in plan.get("Plans", []))


# Jobs of many photos that end at once


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ten photos be many, and six deliveries a piece."""
    monkeypatch.setattr(image_events, "AT_ONCE", 10)
    monkeypatch.setattr(image_events, "_DELIVERIES", 6)


def tell(worker_db: Database) -> int:
    with worker_db.transaction() as session:
        return image_events.tell_more(session)


def _many_ended(how: str, app_db: Database, worker_db: Database, tenant: UUID) -> UUID:
    if how == "listed":
        job = new_job(tenant, 0, "normal")
        addresses = [Address(at, f"https://photos.example/{at}", None, None) for at in range(11)]
        with app_db.transaction(tenant) as session:
            receive(session, job, addresses)
    else:
        job = submit_job(app_db, tenant, UNIT_IMAGES + 11)
        finish(worker_db, take(worker_db, 1))
    if how in ("cancelled", "listed"):
        with app_db.transaction(tenant) as session:
            cancel(session, tenant, job.id)
    else:
        with worker_db.transaction() as session:
            (expire if how == "expired" else stop)(session, job.id)
    return job.id


@pytest.mark.parametrize("how", ["cancelled", "expired", "stopped", "listed"])
def test_of_many_that_end_at_once_each_is_told_once_in_order_and_before_the_end_of_the_job(
    how: str, few: None, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    end = "job.cancelled" if how == "listed" else f"job.{how}"
    hears = [endpoint(app_db, tenant, (*NAMED, end)) for _ in range(2)]
    before = 0 if how == "listed" else UNIT_IMAGES
    job = _many_ended(how, app_db, worker_db, tenant)
    assert end not in kinds(owner_db, job)
    assert len(of_photos(app_db, tenant)) == before
    told = []
    while n := tell(worker_db):
        told.append(n)
        with worker_db.transaction() as session:  # the feed goes on meanwhile
            events.record(session, [events.NewEvent(tenant, "model.drift", None, 0, {})])
    assert told == [3, 3, 3, 2]
    outcome = "expired" if how == "expired" else "cancelled"
    every = check_each_was_told(owner_db, app_db, tenant, job)
    assert every == ({"classified": before} if before else {}) | {outcome: 11}
    of_job = [event for event in feed(app_db, tenant) if event.job_id == job]
    assert [event.body["ordinal"] for event in of_job[-12:-1]] == list(range(before, before + 11))
    assert (of_job[-1].kind, of_job[-1].body["counts"][outcome]) == (end, 11)
    for each in hears:
        chain = owed(owner_db, each)
        assert [row.id for row in chain[-12:]] == [event.id for event in of_job[-12:]]
        assert [row.previous_id for row in chain] == [None, *(row.id for row in chain[:-1])]
    assert rows(owner_db, "SELECT 1 FROM untold") == []


def test_what_is_still_to_be_told_holds_up_deleting_and_trying_again_and_no_other_job(
    few: None, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint(app_db, tenant)
    other = submit_job(app_db, tenant, 1)
    finish(worker_db, take(worker_db))
    job = _many_ended("cancelled", app_db, worker_db, tenant)
    for act in (delete, partial(retry, ordinals=[1])):
        with pytest.raises(Conflict, match="still being written"), app_db.transaction(tenant) as session:
            act(session, tenant, job)
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job)  # once more, which is no error
        delete(session, tenant, other.id)
    assert sweep(worker_db) is not None
    with app_db.transaction(tenant) as session:
        delete(session, tenant, job)
    assert kinds(owner_db, job)[-2:] == [image_events.KIND, "job.cancelled"]


def test_a_piece_that_fails_is_told_again_from_its_beginning(
    few: None, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint(app_db, tenant)
    job = _many_ended("cancelled", app_db, worker_db, tenant)
    assert tell(worker_db) == 6

    def fail() -> None:
        with worker_db.transaction() as session:
            image_events.tell_more(session)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with ThreadPoolExecutor(4) as pool:  # and only one of several tells of a job
        list(pool.map(lambda _: tell(worker_db), range(8)))
    while tell(worker_db):
        pass
    assert check_each_was_told(owner_db, app_db, tenant, job) == {"classified": UNIT_IMAGES, "cancelled": 11}
    assert kinds(owner_db, job).count("job.cancelled") == 1


def test_what_cannot_be_told_now_holds_up_no_sweep_and_is_told_later(
    few: None, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint(app_db, tenant)
    job = _many_ended("cancelled", app_db, worker_db, tenant)
    submit_job(app_db, make_tenant(owner_db, "second"), 1)
    last = rows(owner_db, "SELECT last FROM event_counter WHERE tenant_id = :tenant", tenant=tenant)[0].last
    change(owner_db, "UPDATE event_counter SET last = 0 WHERE tenant_id = :tenant", tenant=tenant)
    found = sweep(worker_db)
    assert found is not None
    assert found.ready == {"interactive": 1}
    change(owner_db, "UPDATE event_counter SET last = :last WHERE tenant_id = :tenant", tenant=tenant, last=last)
    sweep(worker_db)
    assert kinds(owner_db, job)[-1] == "job.cancelled"


def test_what_is_still_to_be_told_is_told_also_after_a_restore_into_another_cluster(
    few: None, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint(app_db, tenant)
    job = _many_ended("cancelled", app_db, worker_db, tenant)
    assert tell(worker_db) == 6
    guide = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    said = guide.partition("transactions are counted anew")[2].partition("    BEGIN;")[2].partition("    COMMIT;")[0]
    change(owner_db, said)
    while tell(worker_db):
        pass
    assert check_each_was_told(owner_db, app_db, tenant, job) == {"classified": UNIT_IMAGES, "cancelled": 11}


@pytest.mark.parametrize("many", [10, 11])
def test_where_nobody_names_it_or_photos_are_few_the_end_is_told_at_once(
    many: int, few: None, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    if many == 10:
        endpoint(app_db, tenant)
    job = submit_job(app_db, tenant, many)
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job.id)
    assert kinds(owner_db, job.id)[-1] == "job.cancelled"
    assert tell(worker_db) == 0
