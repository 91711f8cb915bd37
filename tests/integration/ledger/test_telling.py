"""Statements that do something and tell of it too: who is owed what they tell."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from shared import endpoints, webhooks
from shared.database import Database
from tests.integration.ledger.factories import finish, rows, submit_job, take, wait_for_waiters
from tests.integration.ledger.test_image_events import KEYRING

Way = tuple[str, Callable[[], object]]


@pytest.fixture(params=["job.accepted", "job.started", "job.completed"])
def telling(request: pytest.FixtureRequest, app_db: Database, worker_db: Database, tenant: UUID) -> Way:
    """Return what is told, and what tells it."""
    kind: str = request.param
    if kind == "job.accepted":
        return kind, lambda: submit_job(app_db, tenant, 1)
    submit_job(app_db, tenant, 1)
    if kind == "job.started":
        return kind, lambda: take(worker_db)
    units = take(worker_db)
    return kind, lambda: finish(worker_db, units)


def test_an_endpoint_that_was_made_while_a_statement_waited_is_owed_what_that_tells(
    owner_db: Database, app_db: Database, tenant: UUID, telling: Way
) -> None:
    kind, tell = telling
    with ThreadPoolExecutor(1) as pool:
        with app_db.transaction(tenant) as session:
            endpoints.check_room(session, tenant, 10)
            webhooks.create_endpoint(session, KEYRING, tenant, "https://clinic.example/hooks", [])
            told = pool.submit(tell)
            wait_for_waiters(owner_db)
        told.result()
    owed = rows(owner_db, "SELECT e.kind FROM delivery d JOIN event e ON e.seq = d.event_seq")
    assert [row.kind for row in owed] == [kind]
