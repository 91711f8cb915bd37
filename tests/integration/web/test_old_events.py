"""The feed behind a number whose next event is deleted: said clearly, to who asks for a page, waits or streams."""

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from flask import Flask

from shared import events
from shared.accounts import Proof
from shared.database import Database
from shared.events import NewEvent
from tests.integration.ledger.factories import change, rows, wait_until
from tests.integration.web.conftest import Caller, Server
from tests.integration.web.sse import EventSource
from web import news
from web.news import News, Reader
from web.services import Services


@pytest.fixture
def feed(owner_db: Database, worker_db: Database, tenant: UUID) -> None:
    """Seven events, of which the first four are deleted."""
    with worker_db.transaction() as session:
        events.record(session, [NewEvent(tenant, "endpoint.warning", None, 0, {}) for _ in range(7)])
    change(owner_db, "DELETE FROM event WHERE seq <= 4")


@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}])
@pytest.mark.parametrize("after", [0, 3])
def test_who_asks_behind_a_deleted_number_is_told_which_is_the_oldest(
    after: int, headers: dict[str, str], clinic: Caller, feed: None
) -> None:
    for given in ({"path": f"/v1/events?after={after}"}, {"path": "/v1/events", "Last_Event_ID": str(after)}):
        answer = clinic.get(**given, **headers)
        assert (answer.status_code, answer.mimetype) == (410, "application/problem+json")
        told = answer.json or {}
        assert told["type"].endswith("/problems/events-gone")
        assert (told["oldest"], f"Events {after + 1} to 4 are deleted" in told["detail"]) == (5, True)
    assert clinic.get(f"/problems/{told['type'].rpartition('/')[2]}").status_code == 200


@pytest.mark.parametrize(("query", "numbers"), [("", [5, 6, 7]), ("?after=4", [5, 6, 7]), ("?after=7", [])])
def test_what_is_there_comes_without_a_gap(query: str, numbers: list[int], clinic: Caller, feed: None) -> None:
    page = clinic.get(f"/v1/events{query}").json or {}
    assert [event["data"]["sequence"] for event in page["events"]] == numbers
    assert page["next"] == 7


def test_a_feed_in_which_nothing_ever_happened_begins_at_nothing(clinic: Caller) -> None:
    assert clinic.get("/v1/events").json == {"events": [], "next": 0}
    assert clinic.get("/v1/events?after=0").json == {"events": [], "next": 0}


def test_a_stream_begins_with_the_oldest_there_is_or_is_refused_with_the_oldest(own_server: Server, feed: None) -> None:
    source = EventSource(own_server.port, own_server.key)
    assert next(iter(source)).id == "5"
    source.close()
    late = EventSource(own_server.port, own_server.key, last="2")
    assert (late.answer.status, json.loads(late.answer.read())["oldest"]) == (410, 5)
    late.close()


def test_one_of_a_crowd_that_is_too_late_hears_so_and_the_others_hear_the_news(
    clinic: Caller, app_db: Database, owner_db: Database, tenant: UUID, feed: None
) -> None:
    ((key, secret_hash),) = rows(owner_db, "SELECT id, secret_hash FROM api_key")
    proof = Proof(key, bytes(secret_hash))
    late, last = Reader(2, proof), Reader(6, proof)
    told = news.for_readers(app_db, tenant, {late, last, Reader(7, proof)})
    assert told[late] == News(oldest=5)
    assert [event.seq for event in told[last].events] == [7]
    assert len(told) == 2


def test_who_waits_while_events_come_and_go_is_not_led_past_them(
    app: Flask, clinic: Caller, owner_db: Database, worker_db: Database, tenant: UUID
) -> None:
    here: Services = app.extensions["poxvisio"]
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(clinic.client.get, "/v1/events?after=0", headers={
            "Authorization": f"Bearer {clinic.key}", "Prefer": "wait=30"})  # fmt: skip
        wait_until(lambda: bool(here.feed._crowds))
        with owner_db.transaction() as session:  # both at once, for whoever looks
            session.connection().exec_driver_sql(
                "INSERT INTO event_counter (tenant_id, last) VALUES (%s, 5)", (str(tenant),)
            )
            session.connection().exec_driver_sql(
                "INSERT INTO event (tenant_id, seq, id, kind, round, body)"
                " VALUES (%s, 5, gen_random_uuid(), 'model.drift', 0, '{}')",
                (str(tenant),),
            )
        answer = poll.result(30)
    assert (answer.status_code, (answer.json or {}).get("oldest")) == (410, 5)
