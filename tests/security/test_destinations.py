"""Hostile destinations from one end to the other: none of them is dialled, whoever wrote them where."""

import asyncio
import socket
import time
from typing import Any
from uuid import UUID

import pytest

from shared import endpoints, events, webhooks
from shared.database import Database, new_id
from shared.events import NewEvent
from shared.settings import Settings
from shared.signing import Keyring
from tests.integration.ledger.factories import change, rows
from tests.integration.web.conftest import Caller
from tests.integration.worker.conftest import Receive
from tests.security.destinations import VECTORS
from worker.delivery import Deliverer
from worker.egress import Egress
from worker.endpoint_health import Patience

PUBLIC = "https://clinic.example/"


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return every address that any socket of Python's is told to connect to; nothing is really dialled."""
    seen: list[Any] = []

    def connect(_: socket.socket, address: Any) -> None:
        seen.append(address)
        raise ConnectionRefusedError(111, "not dialled in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    return seen


def test_there_are_at_least_sixty_of_them() -> None:
    assert len(set(VECTORS)) >= 60


def test_the_api_takes_none_that_it_can_see_and_breaks_at_none(clinic: Caller) -> None:
    """Public names may yet mean this machine, and are looked at when they are dialled."""
    hook = clinic.post("/v1/webhooks", {"url": PUBLIC}).json
    assert hook is not None
    for url in VECTORS:
        answers = (
            clinic.post("/v1/webhooks", {"url": url}),
            clinic.open(f"/v1/webhooks/{hook['id']}", "PATCH", json={"url": url}),
            clinic.post("/v1/jobs", {"images": [{"url": url}]}),
            clinic.post("/v1/jobs", {"images": [{"url": f"{PUBLIC}a.jpg"}], "webhook": {"url": url}}),
        )
        assert [answer.status_code for answer in answers] == [422] * 4, url


def test_no_webhook_is_sent_to_one(
    app_db: Database, owner_db: Database, worker_db: Database, tenant: UUID, settings: Settings, dialled: list[Any]
) -> None:
    """They stand in the database all the same, as if a check before had failed or a name had changed its meaning."""
    keyring = Keyring.from_settings(settings)
    with app_db.transaction(tenant) as session:
        made = [webhooks.create_endpoint(session, keyring, tenant, PUBLIC, (), "")[0].id for _ in VECTORS]
    for endpoint, url in zip(made, VECTORS, strict=True):
        change(owner_db, "UPDATE endpoint SET url = :url WHERE id = :id", url=url, id=endpoint)
    with app_db.transaction(tenant) as session:
        events.record(session, [NewEvent(tenant, "job.started", new_id(), 0, {})])

    def left() -> int:
        return int(rows(owner_db, "SELECT count(*) FROM delivery WHERE state <> 'dead'")[0][0])

    async def deliver() -> None:
        async with Egress(seconds=5) as out:
            deliverer = Deliverer(settings.model_copy(update={"webhook_schedule": ()}), worker_db, out, Patience())
            running = asyncio.create_task(deliverer.run())
            end = time.monotonic() + 60
            while await asyncio.to_thread(left):
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            deliverer.stop()
            await running

    asyncio.run(deliver())
    assert dialled == []
    with app_db.transaction(tenant) as session:
        tried = [delivery.attempts for one in made for delivery in endpoints.deliveries(session, one)]
    assert [(attempt.status, attempt.error) for (attempt,) in tried] == [(None, "address not allowed")] * len(VECTORS)


def test_no_photo_is_fetched_from_one(
    clinic: Caller, make_receiver: Receive, owner_db: Database, dialled: list[Any]
) -> None:
    listed = {"images": [{"url": f"{PUBLIC}{number}.jpg"} for number in range(len(VECTORS))]}
    job = clinic.post("/v1/jobs", listed).json
    assert job is not None
    dialled.clear()  # the broker was asked for by the web side
    for number, url in enumerate(VECTORS):
        change(owner_db, "UPDATE intake_url SET url = :url WHERE ordinal = :ordinal", url=url, ordinal=number)
    receiver = make_receiver()
    while receiver.work_once():
        pass
    assert dialled == []
    answers = clinic.get(f"/v1/jobs/{job['id']}/results?limit=1000").json
    assert answers is not None
    assert [row["reasons"] for row in answers["results"]] == [["url_not_allowed"]] * len(VECTORS)
