"""Events are kept for their time and then go, oldest first, with what hangs on them; never one that is still owed."""

import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared import events, resending, webhooks
from shared.database import Database, new_id
from shared.events import EventsGone, NewEvent
from shared.signing import Keyring
from shared.storage import Storage
from tests.conftest import make_tenant
from tests.integration.ledger.factories import change, finish, rows, submit_job, take
from worker import retention
from worker.deliveries import claim
from worker.housekeeping import Housekeeping

KEYRING = Keyring(b"a secret key of the tests, long enough")
DAYS = 30


@pytest.fixture
def house(worker_db: Database, storage: Storage) -> Housekeeping:
    return Housekeeping(worker_db, storage, event_days=DAYS)


def hears(app_db: Database, tenant: UUID, job: UUID | None = None) -> UUID:
    with app_db.transaction(tenant) as session:
        made, _ = webhooks.create_endpoint(session, KEYRING, tenant, "https://clinic.example/hooks", (), job_id=job)
    return made.id


def happen(worker_db: Database, tenant: UUID, many: int) -> None:
    with worker_db.transaction() as session:
        events.record(session, [NewEvent(tenant, "endpoint.warning", None, 0, {}) for _ in range(many)])


def age(owner_db: Database, tenant: UUID, upto: int, days: float = DAYS + 1) -> None:
    statement = "UPDATE event SET created_at = now() - make_interval(secs => :s) WHERE tenant_id = :t AND seq <= :upto"
    change(owner_db, statement, t=tenant, upto=upto, s=days * 86_400)


def deliver(owner_db: Database, but: Sequence[int] = (), state: str = "delivered") -> None:
    statement = "UPDATE delivery SET state = :state, lease_until = now() WHERE event_seq <> ALL (:but)"
    change(owner_db, statement, but=list(but), state=state)


def numbers(owner_db: Database, tenant: UUID, table: str = "event", column: str = "seq") -> list[int]:
    found = rows(owner_db, f"SELECT {column} AS n FROM {table} WHERE tenant_id = :tenant ORDER BY 1", tenant=tenant)
    return [row.n for row in found]


def test_old_events_go_with_their_deliveries_and_attempts_and_young_ones_stay(
    house: Housekeeping, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    for _ in range(2):
        hears(app_db, tenant)
    happen(worker_db, tenant, 9)
    deliver(owner_db)
    tried = """
        INSERT INTO attempt (id, tenant_id, delivery_id, number, duration_ms)
        SELECT :id, tenant_id, id, 1, 5 FROM delivery WHERE event_seq = :seq LIMIT 1
    """
    for seq in (1, 8):
        change(owner_db, tried, id=new_id(), seq=seq)
    age(owner_db, tenant, 9, DAYS - 1)
    age(owner_db, tenant, 4)
    house.forget_old_events()
    assert numbers(owner_db, tenant) == [5, 6, 7, 8, 9]
    assert numbers(owner_db, tenant, "delivery", "event_seq") == [n for n in range(5, 10) for _ in range(2)]
    kept = "SELECT d.event_seq FROM attempt a LEFT JOIN delivery d ON d.id = a.delivery_id"
    assert [row[0] for row in rows(owner_db, kept)] == [8]


def test_the_newest_stays_however_old_it_is_and_numbers_go_on_behind_it(
    house: Housekeeping, owner_db: Database, worker_db: Database, tenant: UUID
) -> None:
    quiet = make_tenant(owner_db, "no event yet")
    happen(worker_db, tenant, 5)
    age(owner_db, tenant, 5)
    house.forget_old_events()
    assert (numbers(owner_db, tenant), numbers(owner_db, quiet)) == ([5], [])
    with worker_db.transaction() as session:
        assert retention.tenants(session, DAYS) == []
    happen(worker_db, tenant, 2)
    house.forget_old_events()
    assert numbers(owner_db, tenant) == [6, 7]


@pytest.mark.parametrize(
    ("state", "endpoint", "left"),
    [
        ("waiting", "enabled", [4, 5, 6, 7, 8, 9]),
        ("leased", "enabled", [4, 5, 6, 7, 8, 9]),
        ("leased", "disabled", [4, 5, 6, 7, 8, 9]),
        ("waiting", "disabled", [9]),
        ("dead", "enabled", [9]),
    ],
)
def test_one_that_is_still_to_be_delivered_keeps_all_that_came_after_it(
    state: str,
    endpoint: str,
    left: list[int],
    house: Housekeeping,
    owner_db: Database,
    app_db: Database,
    worker_db: Database,
    tenant: UUID,
) -> None:
    hears(app_db, tenant)
    happen(worker_db, tenant, 9)
    deliver(owner_db, but=[4])
    change(owner_db, "UPDATE delivery SET state = :state WHERE event_seq = 4", state=state)
    change(owner_db, "UPDATE endpoint SET state = :state", state=endpoint)
    age(owner_db, tenant, 9)
    house.forget_old_events()
    assert numbers(owner_db, tenant) == left
    deliver(owner_db)
    house.forget_old_events()
    assert numbers(owner_db, tenant) == [9]


def test_what_another_transaction_holds_is_left_alone_and_not_waited_for(
    house: Housekeeping, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint = hears(app_db, tenant)
    happen(worker_db, tenant, 9)
    deliver(owner_db)
    age(owner_db, tenant, 9)
    asked = "SELECT id FROM delivery WHERE event_seq = 6"
    ((sixth,),) = rows(owner_db, asked)
    with app_db.transaction(tenant) as session:
        resending.redeliver(session, sixth)
        house.forget_old_events()
        assert numbers(owner_db, tenant) == [6, 7, 8, 9]
    house.forget_old_events()
    assert numbers(owner_db, tenant) == [6, 7, 8, 9]
    with worker_db.transaction() as session:
        assert [(owed.id, owed.endpoint_id) for owed in claim(session, 10, 60.0)] == [(sixth, endpoint)]


def test_pieces_are_bounded_by_events_and_by_deliveries_and_everything_old_goes_in_the_end(
    house: Housekeeping,
    owner_db: Database,
    app_db: Database,
    worker_db: Database,
    tenant: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "_EVENTS", 7)
    monkeypatch.setattr(retention, "_DELIVERIES", 10)
    other = make_tenant(owner_db, "second")
    for _ in range(3):
        hears(app_db, tenant)
    for whose in (tenant, other):
        happen(worker_db, whose, 30)
        age(owner_db, whose, 29)
    deliver(owner_db)
    with worker_db.transaction() as session:
        assert retention.forget(session, tenant, DAYS) == 3  # of three deliveries each
        assert retention.forget(session, other, DAYS) == 7
    monkeypatch.setattr(retention, "_DELIVERIES", 1)
    with worker_db.transaction() as session:
        assert retention.forget(session, tenant, DAYS) == 1
    house.forget_old_events()
    assert numbers(owner_db, tenant) == numbers(owner_db, other) == [30]


def test_the_endpoint_of_one_job_goes_when_the_job_has_closed_and_its_deliveries_are_gone(
    house: Housekeeping, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    closed, still_open = submit_job(app_db, tenant, 1), submit_job(app_db, tenant, 2)
    first, second, lasting = (
        hears(app_db, tenant, closed.id),
        hears(app_db, tenant, still_open.id),
        hears(app_db, tenant),
    )
    (unit,) = [unit for unit in take(worker_db) if unit.n == 1]
    finish(worker_db, [unit])
    happen(worker_db, tenant, 1)
    age(owner_db, tenant, 100)

    def left() -> set[UUID]:
        house.forget_old_events()
        return {row.id for row in rows(owner_db, "SELECT id FROM endpoint")}

    change(owner_db, "UPDATE endpoint SET created_at = now() - interval '40 days'")
    deliver(owner_db)
    assert left() == {first, second, lasting}  # closed just now
    change(owner_db, "UPDATE job SET closed_at = now() - interval '31 days' WHERE id = :job", job=closed.id)
    assert left() == {second, lasting}


def test_a_reader_hears_of_what_is_gone_and_of_everything_else_without_a_gap(
    house: Housekeeping, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    happen(worker_db, tenant, 40)
    gone = 0
    for _ in range(6):
        gone = max(gone, chance.randrange(40))
        age(owner_db, tenant, gone)
        house.forget_old_events()
        for after in range(41):
            with app_db.transaction(tenant) as session:
                if after < gone:
                    with pytest.raises(EventsGone, match=f"{after + 1} to {gone} are deleted") as told:
                        events.since(session, after)
                    assert told.value.oldest == gone + 1, seed
                else:
                    assert [event.seq for event in events.since(session, after)] == list(range(after + 1, 41)), seed
        with app_db.transaction(tenant) as session:
            assert [event.seq for event in events.since(session, None)] == list(range(gone + 1, 41)), seed


def test_the_look_for_old_events_reads_one_of_each_tenant(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    endpoint = hears(app_db, tenant)
    many = """
        WITH told AS (
          INSERT INTO event (tenant_id, seq, id, kind, round, body)
          SELECT :tenant, n, gen_random_uuid(), 'model.drift', 0, '{}' FROM generate_series(1, 3000) AS n RETURNING seq)
        INSERT INTO delivery (id, tenant_id, endpoint_id, event_seq, state)
        SELECT gen_random_uuid(), :tenant, :endpoint, seq, 'delivered' FROM told
    """
    change(owner_db, many, tenant=tenant, endpoint=endpoint)
    change(owner_db, "INSERT INTO event_counter (tenant_id, last) VALUES (:tenant, 3000)", tenant=tenant)
    age(owner_db, tenant, 10)
    change(owner_db, "ANALYZE event, delivery, event_counter")
    read = 0.0

    def explain(connection: sa.Connection, _: object, statement: str, values: Any, *__: object) -> None:
        nonlocal read
        if not statement.startswith("EXPLAIN"):
            found = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values).scalar_one()
            read += _rows_read(found[0]["Plan"])

    def _rows_read(plan: dict[str, Any]) -> float:
        own = 0.0
        if plan.get("Relation Name") in {"event", "delivery"} and plan["Node Type"] != "ModifyTable":
            own = plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0))
        return own + sum(_rows_read(part) for part in plan.get("Plans", []))

    with worker_db.transaction() as session:
        sa.event.listen(session.connection(), "before_cursor_execute", explain)
        assert retention.tenants(session, DAYS) == [tenant]
    assert read == 1
