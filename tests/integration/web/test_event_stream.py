"""The feed as server-sent events: complete, resumable, bounded, and without a hold on anything while it is idle."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from shared import accounts, ids
from shared.database import Database
from shared.settings import Settings
from shared.tables import ApiKey
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Caller, Server, application, make_key
from tests.integration.web.sse import EventSource
from web.api import event_stream
from web.services import Services

STREAM = "text/event-stream"


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def key_of(token: str) -> UUID:
    return UUID(hex=token.split("_")[1])


def test_a_stream_tells_every_event_and_goes_on_where_it_broke_off(own_server: Server, worker_db: Database) -> None:
    for n in range(3):
        assert own_server.ask("POST", "/v1/jobs", JPEG + b"%d" % n, Content_Type="image/jpeg")[0] == 202
    source = EventSource(own_server.port, own_server.key)
    assert source.answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert source.answer.headers["Cache-Control"] == "private, no-store"
    told = iter(source)
    before = [next(told) for _ in range(3)]
    answer_all(worker_db)  # told while the stream waits
    before += [next(told) for _ in range(3)]
    source.close()
    resumed = EventSource(own_server.port, own_server.key, last="2")
    told = iter(resumed)
    after = [next(told) for _ in range(4)]
    resumed.close()
    assert (source.retry, source.comments) == (2000, 1)
    assert [message.id for message in before] == ["1", "2", "3", "4", "5", "6"]
    assert after == before[2:]
    feed = json.loads(own_server.ask("GET", "/v1/events")[2])["events"][:6]
    assert [(message.event, json.loads(message.data)) for message in before] == [
        (event["type"], event) for event in feed
    ]


def test_a_last_event_id_outdoes_the_address_and_must_be_a_number(own_server: Server) -> None:
    for n in range(3):
        own_server.ask("POST", "/v1/jobs", JPEG + b"%d" % n, Content_Type="image/jpeg")
    for last, first in (("2", "3"), ("", "2"), ("0", "1")):
        source = EventSource(own_server.port, own_server.key, last=last, path="/v1/events?after=1")
        assert next(iter(source)).id == first
        source.close()
    # Whoever falls back to pages goes on at the same place.
    page = json.loads(own_server.ask("GET", "/v1/events?after=1", Last_Event_ID="2")[2])
    assert [event["data"]["sequence"] for event in page["events"]] == [3]
    for wrong in ("evt_1", "-1", "1.5", "9" * 30, "9" * 19):
        assert own_server.ask("GET", "/v1/events", Last_Event_ID=wrong)[0] == 400
        refused = EventSource(own_server.port, own_server.key, last=wrong)
        assert refused.answer.status == 400
        assert json.loads(refused.answer.read())["type"].endswith("/problems/bad-request")
        refused.close()


def test_a_server_that_is_to_end_ends_its_streams_and_answers_whoever_waits(
    own_server: Server, owner_db: Database, tenant: UUID
) -> None:
    """A stream goes on for an hour and a poll for a minute: the server would wait for both."""

    def is_asking() -> bool:
        with owner_db.transaction() as session:
            used = session.scalar(sa.text("SELECT last_used_at FROM api_key WHERE id = :id"), {"id": key_of(key)})
            return used is not None

    key = make_key(owner_db, tenant)
    source = EventSource(own_server.port, own_server.key)
    poller = replace(own_server, key=key)
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(poller.ask, "GET", "/v1/events", Prefer="wait=60")
        until(is_asking, "the poll has come")
        own_server.process.send_signal(signal.SIGTERM)
        own_server.process.wait(30)
        assert poll.result(30)[0] == 200
    assert list(source) == []
    assert source.is_whole
    source.close()


def test_a_client_that_hangs_up_gives_its_place_back(own_server: Server) -> None:
    """With four threads in all: were those of the gone not free again, nobody would be answered."""
    for _ in range(3):
        source = EventSource(own_server.port, own_server.key)
        assert source.answer.status == 200
        source.close()
    own_server.ask("POST", "/v1/jobs", JPEG, Content_Type="image/jpeg")  # news is what a gone client is noticed by
    own_server.ask("POST", "/v1/jobs", JPEG + b"2", Content_Type="image/jpeg")
    for _ in range(3):
        source = EventSource(own_server.port, own_server.key)
        assert next(iter(source)).id == "1"
        source.close()


@pytest.fixture
def brief(environment: dict[str, str]) -> Iterator[Callable[..., Flask]]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(application(Settings.load({**environment, **settings})))


def streaming(app: Flask, key: str, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = {"Authorization": f"Bearer {key}", "Accept": STREAM, **named}
    return app.test_client().get("/v1/events", headers=asked, buffered=False)


def held(here: Services) -> int:
    return here.event_streams.taken


def test_an_idle_stream_holds_no_connection_beats_and_ends_by_itself(
    brief: Callable[..., Flask], clinic: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.2)
    app = brief(POXVISIO_EVENT_STREAM_SECONDS="5", POXVISIO_DATABASE_POOL="1")
    here: Services = app.extensions["poxvisio"]
    caller = Caller(app.test_client(), clinic.key, clinic.tenant)
    answer = streaming(app, clinic.key)
    pieces = answer.iter_encoded()
    assert next(pieces) == b": research use only\nretry: 2000\n\n"
    assert next(pieces).startswith(b":")
    assert held(here) == 1
    # The one connection there is must be free: with it this job is taken in, and its event is told.
    assert caller.send([("a.jpg", b"1")]).status_code == 202
    rest = b"".join(pieces)
    answer.close()
    assert b"id: 1\nevent: job.accepted\ndata: {" in rest
    assert held(here) == 0


def test_a_stream_tells_more_than_a_page_at_once_and_in_order(
    brief: Callable[..., Flask], clinic: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.news.PAGE", 2)
    monkeypatch.setattr(event_stream, "PAGE", 2)
    for n in range(5):
        clinic.send([("a.jpg", b"%d" % n)])
    app = brief(POXVISIO_EVENT_STREAM_SECONDS="0.5")
    body = b"".join(streaming(app, clinic.key).iter_encoded())
    assert [line for line in body.split(b"\n") if line.startswith(b"id: ")] == [b"id: %d" % n for n in range(1, 6)]


@pytest.mark.parametrize("how", ["revoked", "expired", "rotated"])
def test_a_key_that_ends_ends_its_streams_and_no_other(
    how: str, brief: Callable[..., Flask], clinic: Caller, owner_db: Database
) -> None:
    app, ending = brief(), make_key(owner_db, clinic.tenant, ["jobs:read"])
    told, lasting = (iter(streaming(app, key).iter_encoded()) for key in (ending, clinic.key))
    next(told), next(lasting)
    with owner_db.transaction(clinic.tenant) as session:  # a secret that is good for a while longer ends nothing
        accounts.rotate_key(session, clinic.tenant, key_of(clinic.key), timedelta(hours=1))
    if how == "revoked":
        assert clinic.open(f"/v1/keys/{ids.text('key', key_of(ending))}", "DELETE").status_code == 204
    elif how == "rotated":
        with owner_db.transaction(clinic.tenant) as session:
            accounts.rotate_key(session, clinic.tenant, key_of(ending), timedelta(0))
    else:
        with owner_db.transaction() as session:
            session.execute(sa.text("UPDATE api_key SET expires_at = now() WHERE id = :id"), {"id": key_of(ending)})
    assert list(told) == [b": the key is expired or revoked\n\n"]
    clinic.send([("a.jpg", b"1")])
    assert b"id: 1\n" in next(lasting)
    assert streaming(app, ending).status_code == 401


@pytest.mark.parametrize("end", ["revoked", "expired"])
@pytest.mark.parametrize("path", ["/v1/events?after=2", "/v1/jobs/{job}"])
def test_a_poll_whose_key_ends_meanwhile_is_refused(path: str, end: str, clinic: Caller, owner_db: Database) -> None:
    job = clinic.send([("a.jpg", b"1")]).json
    assert job is not None
    key = make_key(owner_db, clinic.tenant, ["jobs:read"])
    here: Services = clinic.client.application.extensions["poxvisio"]
    mine = Caller(clinic.client, key, clinic.tenant)
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(mine.get, path.format(job=job["id"]), Prefer="wait=60")
        until(lambda: here.waiting.taken, "the poll waits")
        with owner_db.transaction(clinic.tenant) as session:
            if end == "revoked":
                accounts.revoke_key(session, clinic.tenant, key_of(key))
            else:
                session.execute(sa.update(ApiKey).where(ApiKey.id == key_of(key)).values(expires_at=sa.func.now()))
        refused = poll.result(30)
    assert (refused.status_code, refused.content_type) == (401, "application/problem+json")
    assert refused.headers["WWW-Authenticate"] == mine.get("/v1/events").headers["WWW-Authenticate"]


def test_whoever_sent_a_photo_and_whose_key_is_revoked_meanwhile_hears_that_it_was_taken_in_and_no_answer(
    clinic: Caller, owner_db: Database
) -> None:
    key = make_key(owner_db, clinic.tenant, ["jobs:read", "jobs:write"])
    here: Services = clinic.client.application.extensions["poxvisio"]
    mine = Caller(clinic.client, key, clinic.tenant)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(mine.post, "/v1/jobs", data=b"1", content_type="image/jpeg", Prefer="wait=60")
        until(lambda: here.waiting.taken, "it waits")
        with owner_db.transaction(clinic.tenant) as session:
            accounts.revoke_key(session, clinic.tenant, key_of(key))
        answer = sending.result(30)
    assert answer.status_code == 202
    assert answer.json is not None
    assert answer.json["counts"]["waiting"] == 1


def test_further_streams_are_told_to_come_back_and_another_tenant_still_gets_in(
    brief: Callable[..., Flask], clinic: Caller, stranger: Caller
) -> None:
    app = brief(POXVISIO_MAX_EVENT_STREAMS="4")
    open_ones = [streaming(app, clinic.key) for _ in range(2)]
    refused = Caller(app.test_client(), clinic.key, clinic.tenant).get("/v1/events", Accept=STREAM)
    assert refused.status_code == 503
    assert 10 <= int(refused.headers["Retry-After"]) <= 30
    assert refused.json is not None
    assert refused.json["type"].endswith("/problems/too-many-event-streams")
    assert streaming(app, stranger.key).status_code == 200
    for answer in open_ones:
        answer.close()
    assert streaming(app, clinic.key).status_code == 200


def test_a_question_for_the_headers_alone_takes_no_place(clinic: Caller) -> None:
    here: Services = clinic.client.application.extensions["poxvisio"]
    for _ in range(2):
        headers = {"Authorization": f"Bearer {clinic.key}", "Accept": STREAM}
        answer = clinic.client.head("/v1/events", headers=headers)
        assert (answer.status_code, answer.mimetype) == (200, STREAM)
        answer.close()
    assert held(here) == 0


def test_a_stream_outlives_a_database_that_comes_back(
    brief: Callable[..., Flask], clinic: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_AWAY_SECONDS", 0.05)
    app = brief(POXVISIO_DATABASE_POOL="1", POXVISIO_EVENT_STREAM_SECONDS="60")
    here: Services = app.extensions["poxvisio"]
    pieces = streaming(app, clinic.key).iter_encoded()
    next(pieces)
    monkeypatch.setattr(here.database._engine.pool, "_timeout", 0.05)
    with here.database.transaction() as session:  # the only connection
        session.execute(sa.text("SELECT 1"))
        assert next(pieces) == b": the database is out of reach\n\n"
    clinic.send([("a.jpg", b"1")])
    assert any(b"id: 1\n" in piece for piece in pieces if b"out of reach" not in piece)


def test_the_example_of_the_document_is_a_stream_as_it_is_sent(clinic: Caller) -> None:
    described = clinic.get("/openapi.json").json
    assert described is not None
    [example] = described["paths"]["/v1/events"]["get"]["responses"]["200"]["content"][STREAM]["schema"]["examples"]
    clinic.send([("a.jpg", b"1")])
    pieces = streaming(clinic.client.application, clinic.key).iter_encoded()
    sent = next(pieces) + next(pieces)
    assert shape(example)[: len(shape(sent.decode()))] == shape(sent.decode())
    assert json.loads(example.partition("data: ")[2].partition("\n")[0]).keys() == {"type", "timestamp", "data"}


def shape(text: str) -> list[str]:
    """Return the names of the fields of a stream, line by line."""
    return [line.partition(":")[0] for line in text.split("\n")]
