"""Every route, every kind of caller: what each hears is in a table, and nobody hears of another tenant."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.engine import Engine
from werkzeug.test import TestResponse

from shared.database import Database
from shared.settings import Settings
from tests.integration.web.conftest import Caller
from tests.security import matrix
from tests.security.matrix import Route
from web.api import event_stream
from web.app import create_app
from web.services import Services

_FILTER = re.compile(r"\b(?:(?P<table>\w+)\.)?tenant_id = %\(\w+\)s(?:::UUID)?")


def everything(_: Route) -> bool:
    return True


def test_every_route_answers_every_caller_as_the_table_says(
    app: Flask, owner_db: Database, worker_db: Database, tenant: UUID
) -> None:
    faults = matrix.run(app, owner_db, worker_db, tenant, everything)
    assert not faults, "\n".join(faults)


def test_the_feed_as_a_stream_answers_every_caller_as_its_row_says(
    app: Flask, owner_db: Database, worker_db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.1)
    who, row = matrix.credentials(app, owner_db, tenant), matrix.table()[Route("/v1/events", "GET")]
    world = matrix.World(app, owner_db, worker_db, tenant)
    world.fill(is_open=False)
    found, told = {}, {}
    for name in matrix.CALLERS:
        headers = {"Accept": "text/event-stream"} | ({"Authorization": token} if (token := who[name]) else {})
        answer = app.test_client().get("/v1/events", headers=headers, buffered=False)
        found[name] = answer.status_code
        if answer.status_code == 200:
            pieces = answer.iter_encoded()
            told[name] = next(pieces) + next(pieces)
        answer.close()
    assert found == row
    assert told.pop("stranger") == b": research use only\nretry: 2000\n\n: still here\n\n"
    assert told == dict.fromkeys(("jobs:read", "all"), told["all"])
    assert b"\nevent: job.accepted\n" in told["all"]


@pytest.fixture
def unfiltered() -> Iterator[set[str]]:
    """Take the filter by tenant out of every statement that is sent; return the tables it was taken from."""
    taken: set[str] = set()

    def without(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: bool) -> tuple[str, Any]:
        if _FILTER.search(statement):
            taken.update(re.findall(r"\b(?:FROM|UPDATE) (\w+)", statement))
        return _FILTER.sub("true", statement), parameters

    sa.event.listen(Engine, "before_cursor_execute", without, retval=True)
    yield taken
    sa.event.remove(Engine, "before_cursor_execute", without)


def test_row_level_security_alone_answers_every_caller_as_the_table_says(
    unfiltered: set[str], app: Flask, owner_db: Database, worker_db: Database, tenant: UUID
) -> None:
    faults = matrix.run(app, owner_db, worker_db, tenant, everything)
    assert not faults, "\n".join(faults)
    assert unfiltered >= {"api_key", "job"}


def test_the_table_would_show_a_service_that_keeps_nobody_apart(
    unfiltered: set[str], settings: Settings, owner_url: str, owner_db: Database, worker_db: Database, tenant: UUID
) -> None:
    """The same run in front of a database role that sees every tenant must find what it is there to find."""
    open_to_all = {"database_url": settings.database_url.__class__(owner_url), "database_role": "poxvisio_owner"}
    application = create_app(settings.model_copy(update=open_to_all))
    try:
        faults = matrix.run(application, owner_db, worker_db, tenant, lambda route: route.method == "GET")
    finally:
        here: Services = application.extensions["poxvisio"]
        here.close()
    with_ids = {route for route in matrix.table() if route.method == "GET" and "{" in route.path}
    scoped = {route for route in with_ids if matrix.table()[route]["stranger"] == 404}
    assert len(scoped) >= 8
    for route in scoped:
        assert any(fault.startswith(f"{route} to stranger: tells") for fault in faults), route
        assert any(fault.startswith(f"{route} answered otherwise") for fault in faults), route


def told(answer: TestResponse) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Return all that an answer says but when it was given and what is left of the caller's rate."""
    headers = [(name, value) for name, value in answer.headers if name not in ("Date", "X-Request-Id", "RateLimit")]
    return answer.status_code, answer.data, headers


def test_what_is_anothers_and_what_is_not_there_are_answered_with_the_same_bytes(
    app: Flask, clinic: Caller, stranger: Caller, owner_db: Database, worker_db: Database
) -> None:
    """Headers too, but for the date and the request's id; and whatever was tried has done nothing."""
    world = matrix.World(app, owner_db, worker_db, stranger.tenant)
    world.fill()
    before = [told(stranger.get(path)) for path in ("/v1/jobs", "/v1/webhooks", "/v1/keys", "/v1/events")]
    tried = 0
    for route, names in matrix.routes(app):
        if not names or names & matrix.COMMON:
            continue
        answers = [
            told(matrix.ask(app, route, route.path.format(**given), f"Bearer {clinic.key}"))
            for given in ({name: world.ids[name] for name in names}, *matrix.unlike_ids(names))
        ]
        assert answers[0][0] == 404, route
        assert all(answer == answers[0] for answer in answers), route
        tried += 1
    assert tried >= 17
    assert [told(stranger.get(path)) for path in ("/v1/jobs", "/v1/webhooks", "/v1/keys", "/v1/events")] == before
