"""The ledger of deliveries: leases and fences, caps and shares; nobody's dead receivers hold up another."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared import resending
from shared.database import Database, new_id
from shared.ledger.deletion import delete
from shared.settings import Settings
from shared.signing import Keyring
from tests.conftest import make_tenant
from tests.integration.delivery.clinic import Clinic, Receive, Receiver, Start, answering, claim, settle, until
from tests.integration.ledger.factories import change, finish, submit_job, take, wait_for_waiters
from worker import deliveries
from worker.endpoint_health import Verdict


@pytest.mark.parametrize("verdict", [Verdict("delivered"), Verdict("dead", disable="410"), Verdict("waiting", 5, 5)])
def test_a_completion_after_the_lease_was_lost_writes_nothing(
    verdict: Verdict, clinic: Clinic, worker_db: Database
) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens()
    (late,) = claim(worker_db, lease=-1)
    with worker_db.transaction() as session:
        assert deliveries.reap(session, 10) == 1
    before, row = clinic.log(endpoint_id), vars(clinic.row(endpoint_id)).copy()
    assert not settle(worker_db, late, verdict)
    (again,) = claim(worker_db)
    assert not settle(worker_db, late, verdict)
    assert clinic.states(endpoint_id) == ["leased"]
    assert clinic.log(endpoint_id)[0].attempts == before[0].attempts
    assert [event.kind for event in clinic.feed()] == ["job.started"]
    after = vars(clinic.row(endpoint_id))
    assert {k: v for k, v in after.items() if k[0] != "_"} == {k: v for k, v in row.items() if k[0] != "_"}
    assert again.fence > late.fence
    assert settle(worker_db, again, Verdict("delivered"))
    assert clinic.states(endpoint_id) == ["delivered"]


def test_a_redelivery_asked_for_while_an_attempt_is_under_way_takes_over(clinic: Clinic, worker_db: Database) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens()
    (owed,) = claim(worker_db)
    with clinic.db.transaction(clinic.tenant) as session:
        assert resending.redeliver(session, owed.id).state == "waiting"
    assert not settle(worker_db, owed, Verdict("dead"))
    assert clinic.states(endpoint_id) == ["waiting"]


def test_a_lease_that_ran_out_on_the_last_attempt_ends_the_delivery(clinic: Clinic, worker_db: Database) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens()
    for expected in ("waiting", "dead"):
        claim(worker_db, lease=-1)
        with worker_db.transaction() as session:
            assert deliveries.reap(session, 2) == 1
        assert clinic.states(endpoint_id) == [expected]


def test_attempts_are_numbered_on_though_the_schedule_begins_anew(clinic: Clinic, worker_db: Database) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens()
    for place in (1, 2, 1, 2):
        if clinic.states(endpoint_id) == ["dead"]:
            with clinic.db.transaction(clinic.tenant) as session:
                resending.redeliver(session, clinic.log(endpoint_id)[0].id)
        (owed,) = claim(worker_db, lease=-1)
        assert owed.attempt == place
        if place == 1:
            with worker_db.transaction() as session:
                assert deliveries.reap(session, 2) == 1
        else:
            assert settle(worker_db, owed, Verdict("dead"))
    assert [attempt.number for attempt in clinic.log(endpoint_id)[0].attempts] == [1, 2, 3, 4]


def test_a_long_queue_of_one_endpoint_does_not_hold_up_the_others(clinic: Clinic, worker_db: Database) -> None:
    busy, _ = clinic.endpoint("https://busy.example/")
    clinic.happens(times=200)
    others = [clinic.endpoint("https://quiet.example/", ("job.completed",))[0] for _ in range(10)]
    clinic.happens("job.completed")
    claimed = claim(worker_db, limit=100)
    assert sorted(owed.endpoint_id for owed in claimed) == sorted([busy] * 4 + others)
    assert claim(worker_db, limit=100) == []


def test_a_tenant_with_many_dead_receivers_holds_up_no_other(
    clinic: Clinic, worker_db: Database, owner_db: Database, settings: Settings
) -> None:
    other = Clinic(clinic.db, make_tenant(owner_db, "another clinic"), Keyring.from_settings(settings))
    for number in range(150):
        clinic.endpoint(f"https://dead-{number}.example/")
    clinic.happens()
    theirs, _ = other.endpoint("https://quick.example/")
    other.happens()
    claimed = claim(worker_db, limit=128)
    assert theirs in {owed.endpoint_id for owed in claimed}
    assert len(claimed) == 64 + 1
    assert claim(worker_db, limit=128) == []


def test_slow_receivers_of_a_tenant_hold_up_none_of_its_own(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    for number in range(100):
        clinic.endpoint(f"https://slow-{number}.example/", ("job.started",))
    clinic.happens()
    for _ in range(2):
        taken = len(claim(worker_db, limit=128))
        assert taken in (64, 36)
        # A second has passed for them.
        change(owner_db, "UPDATE delivery SET lease_until = lease_until - interval '2 s' WHERE state = 'leased'")
    well, _ = clinic.endpoint("https://well.example/", ("job.completed",))
    clinic.happens("job.completed")
    assert {owed.endpoint_id for owed in claim(worker_db, limit=128)} == {well}


def test_a_hundred_receivers_that_hang_delay_no_other_of_their_tenant(
    clinic: Clinic, receive: Receive, deliverer: Start
) -> None:
    """While the one hundred hold on, and before any of them has been given up, the others get event after event."""
    released = threading.Event()

    def hang(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        released.wait(60)
        answering(200)(receiver, request)

    hanging, well = receive(hang), receive(answering(200))
    for number in range(100):
        clinic.endpoint(f"{hanging.url}&n={number}")
    ours = [clinic.endpoint(f"{well.url}&n={number}")[0] for number in range(20)]
    deliverer(hanging, well, POXVISIO_WEBHOOK_TIMEOUT="60")
    try:
        for number in (1, 2, 3):
            clinic.happens()
            until(lambda number=number: len(well.requests) == 20 * number, f"event {number} at all that are well")  # type: ignore[misc]
        assert hanging.open_now >= 100
    finally:
        released.set()
    until(lambda: [clinic.states(endpoint) for endpoint in ours] == [["delivered"] * 3] * 20, "all settled")


def test_endpoints_that_fail_or_are_slow_get_one_at_a_time_and_a_share_of_their_own(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    failing = [clinic.endpoint(f"https://failing-{number}.example/")[0] for number in range(40)]
    change(owner_db, "UPDATE endpoint SET failing_since = now()")
    slow, _ = clinic.endpoint("https://slow.example/")
    wells = [clinic.endpoint(f"https://well-{number}.example/")[0] for number in range(10)]
    clinic.happens(times=4)
    with worker_db.transaction() as session:
        claimed = deliveries.claim(session, 128, 45.0, [slow])
    found = [owed.endpoint_id for owed in claimed]
    suspects = [each for each in found if each in {*failing, slow}]
    assert len(suspects) == len(set(suspects)) == 32
    assert all(found.count(well) == 4 for well in wells)


def test_two_replays_at_once_owe_each_event_once(clinic: Clinic) -> None:
    clinic.happens(times=5)
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    both_there = threading.Barrier(2)

    def replay() -> int:
        with clinic.db.transaction(clinic.tenant) as session:
            both_there.wait(20)
            return resending.replay(session, endpoint_id, datetime(2026, 1, 1, tzinfo=UTC), preview=False)

    with ThreadPoolExecutor(2) as pool:
        owed = [future.result() for future in [pool.submit(replay), pool.submit(replay)]]
    assert sum(owed) == 5
    assert len(clinic.log(endpoint_id)) == 5


def test_four_claimers_at_once_stay_below_the_cap(clinic: Clinic, worker_db: Database) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens(times=50)
    threads = [threading.Thread(target=claim, args=(worker_db,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clinic.states(endpoint_id).count("leased") == 4


@pytest.mark.parametrize("meanwhile", ["nothing", "taken back", "given up"])
def test_what_was_never_sent_is_given_back_without_an_attempt(
    meanwhile: str, clinic: Clinic, worker_db: Database
) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens()
    (owed,) = claim(worker_db, lease=45 if meanwhile == "nothing" else -1)
    with worker_db.transaction() as session:
        assert deliveries.reap(session, 1 if meanwhile == "given up" else 10) == (meanwhile != "nothing")
        assert deliveries.give_back(session, [owed]) == 1
    assert clinic.states(endpoint_id) == ["waiting"]
    (again,) = claim(worker_db)
    assert (again.id, again.attempt) == (owed.id, 1)


@pytest.mark.parametrize("meanwhile", ["claimed", "delivered", "sent again"])
def test_what_somebody_else_has_taken_meanwhile_is_not_given_back(
    meanwhile: str, clinic: Clinic, worker_db: Database
) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens()
    (owed,) = claim(worker_db, lease=-1)
    if meanwhile == "claimed":
        with worker_db.transaction() as session:
            deliveries.reap(session, 10)
        claim(worker_db)
    elif meanwhile == "delivered":
        assert settle(worker_db, owed, Verdict("delivered"))
    else:
        with clinic.db.transaction(clinic.tenant) as session:
            resending.redeliver(session, owed.id)
    before = clinic.states(endpoint_id)
    with worker_db.transaction() as session:
        assert deliveries.give_back(session, [owed]) == 0
    assert clinic.states(endpoint_id) == before


@pytest.mark.parametrize("act", ["delete the job", "recover"])
def test_whoever_changes_several_deliveries_locks_them_in_order_of_their_ids(
    act: str, clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/", ("image.completed",))
    job = submit_job(clinic.db, clinic.tenant, 2)
    finish(worker_db, take(worker_db))
    # By their events, and in the table, they stand the other way round.
    ids_by_event = [owed.id for owed in clinic.log(endpoint_id)]
    second, first = new_id(), UUID(int=1)
    for was, delivery in zip(ids_by_event, (second, first), strict=True):
        becomes = "UPDATE delivery SET id = :becomes, state = 'dead', body = 'kept' WHERE id = :was"
        change(owner_db, becomes, was=was, becomes=delivery)

    def work() -> None:
        with clinic.db.transaction(clinic.tenant) as session:
            if act == "recover":
                resending.recover(session, endpoint_id, datetime(2026, 1, 1, tzinfo=UTC), preview=False)
            else:
                delete(session, clinic.tenant, job.id)

    lock = sa.text("SELECT id FROM delivery WHERE id = :id FOR UPDATE SKIP LOCKED")
    with ThreadPoolExecutor(1) as pool:
        with owner_db.transaction() as session:
            assert session.execute(lock, {"id": first}).all()
            working = pool.submit(work)
            wait_for_waiters(owner_db)
            assert session.execute(lock, {"id": second}).all()
        working.result(30)
