"""Events and what is owed for them, on a real database and in the roles of the real processes."""

import threading
from collections.abc import Callable
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared import events, webhooks
from shared.database import Database, new_id
from shared.events import NewEvent
from shared.signing import Keyring
from shared.tables import Delivery, Event
from shared.webhooks import Recorded
from tests.conftest import make_tenant

KEYRING = Keyring(b"a secret key of the tests, long enough")
URL = "https://clinic.example/hooks"


def endpoint(app_db: Database, tenant: UUID, kinds: tuple[str, ...] = (), job_id: UUID | None = None) -> UUID:
    with app_db.transaction(tenant) as session:
        made, _ = webhooks.create_endpoint(session, KEYRING, tenant, URL, kinds, job_id=job_id)
    return made.id


def happened(tenant: UUID, kind: str = "endpoint.warning", job: UUID | None = None, in_round: int = 0) -> NewEvent:
    return NewEvent(tenant, kind, job, in_round, {"total": 3})


def record(database: Database, tenant: UUID, *rows: NewEvent) -> list[Recorded]:
    with database.transaction(tenant) as session:
        return events.record(session, rows)


def feed(app_db: Database, tenant: UUID) -> list[tuple[int, str]]:
    with app_db.transaction(tenant) as session:
        return [(event.seq, event.kind) for event in events.since(session, 0, 10_000)]


def owed(app_db: Database, tenant: UUID, endpoint_id: UUID) -> list[tuple[int, UUID | None]]:
    with app_db.transaction(tenant) as session:
        found = session.execute(
            sa.select(Delivery.event_seq, Delivery.previous_id)
            .where(Delivery.endpoint_id == endpoint_id)
            .order_by(Delivery.event_seq)
        )
        return [(row.event_seq, row.previous_id) for row in found]


def at_once(work: list[Callable[[], object]]) -> None:
    failures: list[BaseException] = []

    def guarded(one: Callable[[], object]) -> None:
        try:
            one()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("role", ["app_db", "worker_db"])
def test_numbers_count_up_from_one_in_either_role(
    role: str, app_db: Database, tenant: UUID, request: pytest.FixtureRequest
) -> None:
    database: Database = request.getfixturevalue(role)
    record(database, tenant, happened(tenant), happened(tenant))
    record(database, tenant, happened(tenant))
    record(database, tenant)
    with app_db.transaction(tenant) as session:
        assert [event.seq for event in events.since(session, 0)] == [1, 2, 3]
        assert [event.seq for event in events.since(session, 1, 1)] == [2]
        assert events.since(session, 3) == []


def test_what_is_read_is_what_was_written(app_db: Database, tenant: UUID) -> None:
    (written,) = record(app_db, tenant, happened(tenant, "job.completed", new_id(), 2))
    with app_db.transaction(tenant) as session:
        assert events.since(session, 0) == [written]


def test_a_transaction_that_fails_burns_no_number(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    record(worker_db, tenant, happened(tenant))

    def fail() -> None:
        with worker_db.transaction() as session:
            events.record(session, [happened(tenant)])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    record(worker_db, tenant, happened(tenant))
    assert [seq for seq, _ in feed(app_db, tenant)] == [1, 2]


def test_what_a_job_does_once_is_recorded_once_a_round_and_burns_no_number(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    job, hears = new_id(), endpoint(app_db, tenant)
    once, many = happened(tenant, "job.completed", job), happened(tenant, "endpoint.warning", job)
    assert len(record(worker_db, tenant, once, many, once)) == 2
    assert record(worker_db, tenant, once) == []
    record(worker_db, tenant, once, many, happened(tenant, "job.completed", job, 1))
    assert feed(app_db, tenant) == [
        (1, "job.completed"),
        (2, "endpoint.warning"),
        (3, "endpoint.warning"),
        (4, "job.completed"),
    ]
    assert [seq for seq, _ in owed(app_db, tenant, hears)] == [1, 2, 3, 4]


def test_what_a_job_does_once_is_recorded_once_by_many_at_once(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    jobs = [new_id() for _ in range(10)]
    at_once([lambda: [record(worker_db, tenant, happened(tenant, "job.stopped", job)) for job in jobs]] * 4)
    assert [seq for seq, _ in feed(app_db, tenant)] == list(range(1, 11))


def test_nobody_sees_a_number_before_the_smaller_ones(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    done, gaps = threading.Event(), []

    def watch() -> None:
        while not done.is_set():
            seen = [seq for seq, _ in feed(app_db, tenant)]
            if seen != list(range(1, len(seen) + 1)):
                gaps.append(seen)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        at_once([lambda: [record(worker_db, tenant, happened(tenant), happened(tenant)) for _ in range(10)]] * 6)
    finally:
        done.set()
        watcher.join()
    assert gaps == []
    assert [seq for seq, _ in feed(app_db, tenant)] == list(range(1, 121))


def test_two_tenants_in_one_transaction_never_wait_in_a_circle(
    owner_db: Database, app_db: Database, worker_db: Database
) -> None:
    first, second = make_tenant(owner_db, "first"), make_tenant(owner_db, "second")
    for tenant in (first, second):
        endpoint(app_db, tenant)
        endpoint(app_db, tenant)

    def write(order: list[UUID]) -> Callable[[], object]:
        def both() -> None:
            for _ in range(15):
                with worker_db.transaction() as session:
                    events.record(session, [happened(tenant) for tenant in order])

        return both

    at_once([write([first, second]), write([second, first])] * 2)
    for tenant in (first, second):
        assert [seq for seq, _ in feed(app_db, tenant)] == list(range(1, 61))


def test_endpoints_hear_the_kinds_they_want_in_a_chain_of_their_own(app_db: Database, tenant: UUID) -> None:
    every, some = endpoint(app_db, tenant), endpoint(app_db, tenant, ("job.completed", "job.stopped"))
    one, two, three, _ = record(
        app_db,
        tenant,
        happened(tenant, "job.accepted", new_id()),
        happened(tenant, "job.completed", new_id()),
        happened(tenant, "endpoint.warning"),
        happened(tenant, "job.stopped", new_id()),
    )
    assert owed(app_db, tenant, every) == [(1, None), (2, one.id), (3, two.id), (4, three.id)]
    assert owed(app_db, tenant, some) == [(2, None), (4, two.id)]
    record(app_db, tenant, happened(tenant), happened(tenant, "job.completed", new_id()))
    assert [seq for seq, _ in owed(app_db, tenant, some)] == [2, 4, 6]


def test_who_asks_for_no_kind_in_particular_does_not_get_what_must_be_named(app_db: Database, tenant: UUID) -> None:
    every, named = endpoint(app_db, tenant), endpoint(app_db, tenant, ("image.completed",))
    record(app_db, tenant, happened(tenant, "image.completed", new_id()), happened(tenant))
    assert [seq for seq, _ in owed(app_db, tenant, every)] == [2]
    assert [seq for seq, _ in owed(app_db, tenant, named)] == [1]


def test_the_chain_of_an_endpoint_stays_straight_under_concurrency(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    hears = endpoint(app_db, tenant, ("endpoint.warning",))

    def write() -> None:
        for _ in range(10):
            record(worker_db, tenant, happened(tenant), happened(tenant, "endpoint.disabled"), happened(tenant))

    at_once([write] * 4)
    with app_db.transaction(tenant) as session:
        ids = {event.seq: event.id for event in session.scalars(sa.select(Event))}
    chain = owed(app_db, tenant, hears)
    assert len(chain) == 80
    assert [previous for _, previous in chain] == [None] + [ids[seq] for seq, _ in chain[:-1]]


def test_a_one_off_endpoint_hears_of_its_job_alone(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    job = new_id()
    hears = endpoint(app_db, tenant, (), job)
    record(
        worker_db,
        tenant,
        happened(tenant, "job.accepted", new_id()),
        happened(tenant, "job.accepted", job),
        happened(tenant, "endpoint.disabled"),
        happened(tenant, "job.completed", job),
    )
    assert [seq for seq, _ in owed(app_db, tenant, hears)] == [2, 4]


def test_a_disabled_endpoint_is_owed_its_events_all_the_same(app_db: Database, tenant: UUID) -> None:
    hears = endpoint(app_db, tenant)
    with app_db.transaction(tenant) as session:
        session.execute(sa.text("UPDATE endpoint SET state = 'disabled'"))
    record(app_db, tenant, happened(tenant))
    assert [seq for seq, _ in owed(app_db, tenant, hears)] == [1]


def test_an_event_with_an_addressee_reaches_nobody_else(app_db: Database, tenant: UUID) -> None:
    one, other = endpoint(app_db, tenant, ("job.completed",)), endpoint(app_db, tenant)
    record(app_db, tenant, NewEvent(tenant, "ping", None, 0, {}, addressee=one))
    assert [seq for seq, _ in owed(app_db, tenant, one)] == [1]
    assert owed(app_db, tenant, other) == []


def test_endpoints_of_another_tenant_hear_nothing(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    stranger = make_tenant(owner_db, "stranger")
    strange = endpoint(app_db, stranger)
    record(worker_db, tenant, happened(tenant))
    assert owed(app_db, stranger, strange) == []
    assert feed(app_db, stranger) == []


def test_an_endpoint_deleted_while_an_event_is_recorded_hinders_nothing(
    app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    hears = endpoint(app_db, tenant)
    started, go_on = threading.Event(), threading.Event()

    def delete() -> None:
        with app_db.transaction(tenant) as session:
            session.execute(sa.text("DELETE FROM endpoint WHERE id = :id"), {"id": hears})
            started.set()
            assert go_on.wait(30)

    def write() -> None:
        assert started.wait(30)
        threading.Timer(0.2, go_on.set).start()
        record(worker_db, tenant, happened(tenant))

    at_once([delete, write])
    assert [seq for seq, _ in feed(app_db, tenant)] == [1]
    assert owed(app_db, tenant, hears) == []
