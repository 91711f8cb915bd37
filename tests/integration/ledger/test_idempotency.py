"""A POST that may be sent again: one key, one effect."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from shared.database import Database
from shared.errors import Conflict
from shared.ledger import idempotency
from shared.ledger.idempotency import InFlight, Replay, Started, TakenOver
from shared.ledger.submit import submit
from tests.conftest import make_tenant
from tests.integration.ledger.factories import change, new_job, rows, wait_for_waiters

KEY = "7f8b0f5e-key"
ANSWER = {"id": "job_1", "state": "queued"}


def begin(app_db: Database, tenant: UUID, seconds: float = 60) -> Started | Replay:
    with app_db.transaction(tenant) as session:
        return idempotency.begin(session, tenant, KEY, seconds)


def started(app_db: Database, tenant: UUID, seconds: float = 60) -> int:
    found = begin(app_db, tenant, seconds)
    assert isinstance(found, Started)
    return found.fence


def settle(app_db: Database, tenant: UUID, fence: int, *, with_job: bool = False) -> None:
    with app_db.transaction(tenant) as session:
        if with_job:
            submit(session, new_job(tenant, 3))
        idempotency.settle(
            session, tenant, KEY, fence, fingerprint=b"f", status=202, body=ANSWER, location="/v1/jobs/job_1"
        )


def let_it_die(owner_db: Database) -> None:
    change(owner_db, "UPDATE idempotency_key SET lease_until = now() - interval '1 second'")


def test_a_settled_key_replays_its_answer(app_db: Database, tenant: UUID) -> None:
    settle(app_db, tenant, started(app_db, tenant))
    for _ in range(2):
        assert begin(app_db, tenant) == Replay(b"f", 202, ANSWER, "/v1/jobs/job_1")


def test_a_key_in_flight_says_when_to_come_back(app_db: Database, tenant: UUID) -> None:
    started(app_db, tenant, 90)
    with pytest.raises(InFlight) as refused:
        begin(app_db, tenant)
    assert 80 <= refused.value.retry_after <= 90
    assert isinstance(refused.value, Conflict)


def test_a_key_belongs_to_its_tenant(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    other = make_tenant(owner_db, "other clinic")
    settle(app_db, tenant, started(app_db, tenant))
    assert isinstance(begin(app_db, other), Started)


def test_a_dead_request_is_taken_over_and_then_writes_nothing(
    owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    old = started(app_db, tenant)
    let_it_die(owner_db)
    new = started(app_db, tenant)
    assert new > old
    with pytest.raises(TakenOver):
        settle(app_db, tenant, old, with_job=True)
    assert rows(owner_db, "SELECT 1 FROM job") == []
    settle(app_db, tenant, new, with_job=True)
    with pytest.raises(TakenOver):
        settle(app_db, tenant, old, with_job=True)
    assert len(rows(owner_db, "SELECT 1 FROM job")) == 1
    assert isinstance(begin(app_db, tenant), Replay)


def test_a_slow_request_nobody_took_over_still_settles(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    fence = started(app_db, tenant)
    let_it_die(owner_db)
    settle(app_db, tenant, fence, with_job=True)
    assert isinstance(begin(app_db, tenant), Replay)


def test_a_key_is_settled_once(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    fence = started(app_db, tenant)
    settle(app_db, tenant, fence, with_job=True)
    with pytest.raises(TakenOver):
        settle(app_db, tenant, fence, with_job=True)
    assert len(rows(owner_db, "SELECT 1 FROM job")) == 1


def test_a_takeover_that_meets_the_settling_gets_the_answer(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    fence = started(app_db, tenant)
    let_it_die(owner_db)
    with ThreadPoolExecutor(1) as pool:
        with app_db.transaction(tenant) as session:
            idempotency.settle(session, tenant, KEY, fence, fingerprint=b"f", status=202, body=ANSWER, location=None)
            second = pool.submit(begin, app_db, tenant)
            wait_for_waiters(owner_db)
        assert isinstance(second.result(20), Replay)


def test_of_two_requests_at_once_one_begins(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    with ThreadPoolExecutor(1) as pool:
        with app_db.transaction(tenant) as session:
            assert isinstance(idempotency.begin(session, tenant, KEY, 60), Started)
            second = pool.submit(begin, app_db, tenant)
            wait_for_waiters(owner_db)
        with pytest.raises(InFlight):
            second.result(20)


def renew(app_db: Database, tenant: UUID, fence: int) -> None:
    with app_db.transaction(tenant) as session:
        idempotency.renew(session, tenant, KEY, fence, 600)


def test_a_renewed_key_is_not_taken_over(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    fence = started(app_db, tenant, 5)
    renew(app_db, tenant, fence)
    with pytest.raises(InFlight) as refused:
        begin(app_db, tenant)
    assert refused.value.retry_after > 500
    let_it_die(owner_db)
    renew(app_db, tenant, fence)  # late, but nobody came in between
    with pytest.raises(InFlight):
        begin(app_db, tenant)
    settle(app_db, tenant, fence)


def test_a_request_that_was_taken_over_renews_nothing(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    old = started(app_db, tenant)
    let_it_die(owner_db)
    started(app_db, tenant, 5)
    renew(app_db, tenant, old)
    with pytest.raises(InFlight) as refused:
        begin(app_db, tenant)
    assert refused.value.retry_after <= 5


def test_a_forgotten_key_is_free(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    fence = started(app_db, tenant)
    with app_db.transaction(tenant) as session:
        idempotency.forget(session, tenant, KEY, fence)
    assert rows(owner_db, "SELECT 1 FROM idempotency_key") == []
    assert started(app_db, tenant) > fence


def test_forgetting_leaves_a_settled_key_and_anothers_key_alone(
    owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    old = started(app_db, tenant)
    let_it_die(owner_db)
    new = started(app_db, tenant)
    with app_db.transaction(tenant) as session:
        idempotency.forget(session, tenant, KEY, old)
    settle(app_db, tenant, new)
    with app_db.transaction(tenant) as session:
        idempotency.forget(session, tenant, KEY, new)
    assert isinstance(begin(app_db, tenant), Replay)


def test_an_answer_is_kept_for_a_day(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    settle(app_db, tenant, started(app_db, tenant))
    kept = rows(owner_db, "SELECT extract(epoch FROM expires_at - now()) / 3600 FROM idempotency_key")
    assert 23.9 < kept[0][0] <= 24
    change(owner_db, "UPDATE idempotency_key SET expires_at = now() - interval '1 second'")
    fence = started(app_db, tenant)
    [row] = rows(owner_db, "SELECT * FROM idempotency_key")
    assert (row.fence, row.status, row.body, row.fingerprint, row.location) == (fence, None, None, None, None)
    settle(app_db, tenant, fence)


def test_a_request_that_is_still_being_read_keeps_its_key(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    fence = started(app_db, tenant)
    let_it_die(owner_db)
    with app_db.transaction(tenant) as session:
        idempotency.renew(session, tenant, KEY, fence, 60)
    with pytest.raises(InFlight):
        begin(app_db, tenant)


def test_a_lease_that_was_taken_over_is_not_renewed_by_its_old_holder(
    owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    old = started(app_db, tenant)
    let_it_die(owner_db)
    started(app_db, tenant)
    let_it_die(owner_db)
    with app_db.transaction(tenant) as session:
        idempotency.renew(session, tenant, KEY, old, 60)
    assert isinstance(begin(app_db, tenant), Started)
