"""Endpoints that fail are warned and disabled, and are managed by their owner alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import delivery_log, endpoints, ids, resending, webhooks
from shared.database import Database
from shared.errors import Conflict, NotFound
from shared.tables import Delivery
from tests.conftest import make_tenant
from tests.integration.delivery.clinic import Clinic, claim, settle
from tests.integration.ledger.factories import change, rows, wait_for_waiters
from worker.endpoint_health import Verdict


def test_an_endpoint_with_nothing_but_failures_is_warned_once_and_then_disabled(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/", ("job.started",))
    clinic.happens(times=6)

    def fail(verdict: Verdict, *, hours: float) -> None:
        with owner_db.transaction() as session:
            session.execute(
                sa.text(
                    "UPDATE endpoint SET failing_since = now() - make_interval(secs => :s) WHERE failing_since < now()"
                ),
                {"s": hours * 3600},
            )
        (owed,) = claim(worker_db, limit=1)
        assert settle(worker_db, owed, verdict)

    def told() -> list[str]:
        return [event.kind for event in clinic.feed() if event.kind.startswith("endpoint.")]

    fail(Verdict("dead"), hours=0)
    assert clinic.row(endpoint_id).failing_since is not None
    fail(Verdict("dead"), hours=59)
    assert told() == []
    fail(Verdict("dead"), hours=61)
    fail(Verdict("dead"), hours=62)
    assert told() == ["endpoint.warning"]
    assert "will be disabled in 59 hours" in str(clinic.row(endpoint_id).state_reason)
    fail(Verdict("delivered"), hours=63)
    assert clinic.row(endpoint_id).failing_since is None
    assert clinic.row(endpoint_id).state_reason is None
    fail(Verdict("dead"), hours=0)
    clinic.happens()
    fail(Verdict("dead"), hours=121)
    assert told() == ["endpoint.warning", "endpoint.disabled"]
    assert clinic.row(endpoint_id).state == "disabled"
    assert clinic.row(endpoint_id).state_reason == "nothing but failures for 121 hours"


def test_endpoints_are_managed_by_their_owner_alone(clinic: Clinic, owner_db: Database) -> None:
    endpoint_id, secret = clinic.endpoint("https://clinic.example/", ("job.completed",))
    (event,) = clinic.happens("job.completed")
    with clinic.db.transaction(clinic.tenant) as session:
        changed = endpoints.update(
            session, endpoint_id, url="https://other.example/", kinds=("ping",), description="ward 3", state="disabled"
        )
        assert (changed.url, changed.kinds, changed.description) == ("https://other.example/", ["ping"], "ward 3")
        assert [row.id for row in endpoints.all_of(session)] == [endpoint_id]
        with pytest.raises(Conflict):
            resending.send_test(session, endpoint_id)
        with pytest.raises(webhooks.KindUnknown):
            endpoints.update(session, endpoint_id, kinds=("job.exploded",))
        (owed,) = delivery_log.deliveries(session, endpoint_id, state="waiting")
        assert ids.text("event", owed.event_id) == event
        assert delivery_log.deliveries(session, endpoint_id, after=owed.id) == []
        assert delivery_log.deliveries(session, endpoint_id, state="dead") == []
        assert secret.encode() not in changed.secret
        assert clinic.keyring.unseal(changed.secret).decode() == secret
    stranger = make_tenant(owner_db, "stranger")
    refusals: list[Callable[[Any], object]] = [
        lambda session: endpoints.get(session, endpoint_id),
        lambda session: endpoints.update(session, endpoint_id, description="mine"),
        lambda session: endpoints.update(session, endpoint_id),
        lambda session: endpoints.delete(session, endpoint_id),
        lambda session: endpoints.rotate_secret(session, clinic.keyring, endpoint_id),
        lambda session: resending.send_test(session, endpoint_id),
        lambda session: delivery_log.deliveries(session, endpoint_id),
        lambda session: delivery_log.delivery(session, owed.id),
        lambda session: resending.redeliver(session, owed.id),
        lambda session: resending.recover(session, endpoint_id, datetime.now(UTC), preview=True),
        lambda session: resending.replay(session, endpoint_id, datetime.now(UTC), preview=False),
    ]
    for refused in refusals:
        with clinic.db.transaction(stranger) as session, pytest.raises(NotFound):
            refused(session)
    with clinic.db.transaction(clinic.tenant) as session:
        endpoints.delete(session, endpoint_id)
        assert endpoints.all_of(session) == []
        with pytest.raises(NotFound):
            endpoints.delete(session, endpoint_id)
        assert session.scalar(sa.select(sa.func.count()).select_from(Delivery)) == 0
    assert len(clinic.feed()) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda session, endpoint: resending.replay(session, endpoint, datetime(2020, 1, 1, tzinfo=UTC), preview=False),
        lambda session, endpoint: resending.recover(session, endpoint, datetime(2020, 1, 1, tzinfo=UTC), preview=False),
        resending.send_test,
    ],
    ids=["replay", "recover", "send_test"],
)
def test_who_asks_to_send_to_an_endpoint_that_is_deleted_meanwhile_hears_that_there_is_none(
    ask: Callable[[Session, UUID], object], clinic: Clinic, owner_db: Database
) -> None:
    clinic.happens()
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")

    def asked() -> None:
        with clinic.db.transaction(clinic.tenant) as session:
            ask(session, endpoint_id)

    with ThreadPoolExecutor(1) as pool:
        with clinic.db.transaction(clinic.tenant) as session:
            endpoints.delete(session, endpoint_id)
            asking = pool.submit(asked)
            wait_for_waiters(owner_db)
        with pytest.raises(NotFound):
            asking.result()


def test_one_request_sends_so_many_again_and_the_next_one_the_next(
    clinic: Clinic, owner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resending, "AT_ONCE", 3)
    clinic.happens(times=8)
    endpoint_id, _ = clinic.endpoint("https://clinic.example/", ("job.started",))
    since = datetime(2026, 1, 1, tzinfo=UTC)

    def asked(send: Callable[..., int]) -> list[int]:
        counts: list[int] = []
        while not counts or counts[-1]:
            with clinic.db.transaction(clinic.tenant) as session:
                counts += [send(session, endpoint_id, since, preview=preview) for preview in (True, False)]
        return counts

    assert asked(resending.replay) == [8, 3, 5, 3, 2, 2, 0, 0]
    change(owner_db, "UPDATE delivery SET state = 'dead', finished_at = now()")
    with clinic.db.transaction(clinic.tenant) as session:
        assert resending.recover(session, endpoint_id, since, preview=False) == 3
    assert [row[0] for row in rows(owner_db, "SELECT event_seq FROM delivery WHERE state = 'waiting' ORDER BY 1")] == [
        1,
        2,
        3,
    ]
    assert asked(resending.recover) == [5, 3, 2, 2, 0, 0]
