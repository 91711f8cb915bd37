"""Too much waits: clients are turned away before their body is read, and told when to come back."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from shared.database import Database
from shared.ledger import backlog
from shared.settings import Settings
from tests.integration.ledger.factories import change, finish, submit_job, take
from tests.integration.ledger.test_backlog import a_worker
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Caller, application
from web.services import Gauge, Services

RATE = 25.0
ONE = [("a.jpg", JPEG)]


@pytest.fixture
def app(settings: Settings, owner_db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """Return an application that holds a minute of a tenant's work and two of all, and takes two bodies at once."""
    monkeypatch.setattr("web.services._READ_AGAIN", 0.0)  # nobody waits a second here
    bounds = {"tenant_backlog_seconds": 60.0, "backlog_seconds": 120.0, "max_uploads": 2, "database_pool": 2}
    bounds["max_slow_uploads"] = 0
    with application(settings.model_copy(update=bounds)) as made:
        yield made


class Unread(io.RawIOBase):
    """A body that nobody may read."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        raise AssertionError(f"{size} bytes of the body were read")


def told(answer: TestResponse) -> dict[str, Any]:
    assert answer.json is not None
    return dict(answer.json)


def kind(answer: TestResponse) -> str:
    """Return the type of a problem."""
    return str(told(answer)["type"]).rpartition("/")[2]


def recount(worker_db: Database) -> None:
    with worker_db.transaction() as session:
        backlog.recount(session)


def test_a_tenant_over_its_bound_gets_429_and_nothing_is_read(
    clinic: Caller, owner_db: Database, app_db: Database, worker_db: Database, objects: Callable[[], list[Path]]
) -> None:
    a_worker(owner_db, rate=RATE)
    submit_job(app_db, clinic.tenant, 3_000)
    recount(worker_db)
    answer = clinic.stream(Unread(), 900 * 1024 * 1024, "multipart/form-data; boundary=x", Idempotency_Key="one")
    assert answer.status_code == 429
    assert told(answer)["type"].endswith("/problems/too-much-waiting")
    assert 62 <= int(answer.headers["Retry-After"]) <= 1.2 * 62 + 1
    assert objects() == []
    again = clinic.stream(Unread(), 900 * 1024 * 1024, "multipart/form-data; boundary=x", Idempotency_Key="one")
    assert again.status_code == 429  # the key was freed


def test_following_retry_after_lets_the_client_in(
    clinic: Caller, owner_db: Database, app_db: Database, worker_db: Database
) -> None:
    """The workers' clock is moved, and nobody waits: what they answer in that time is answered."""
    a_worker(owner_db, rate=RATE)
    submit_job(app_db, clinic.tenant, 3_200)
    recount(worker_db)
    refused = clinic.send(ONE, {"priority": "bulk"})
    assert refused.status_code == 429
    photos = int(refused.headers["Retry-After"]) * RATE
    finished = 0
    while finished < photos - RATE * 2:  # the figures may be two seconds old
        finished += finish(worker_db, take(worker_db, 1)).written
    recount(worker_db)
    assert clinic.send(ONE, {"priority": "bulk"}).status_code == 202


def test_a_single_photo_gets_in_while_the_tenants_own_bulk_waits(
    clinic: Caller, owner_db: Database, app_db: Database, worker_db: Database
) -> None:
    a_worker(owner_db, rate=RATE)
    submit_job(app_db, clinic.tenant, 5_000)
    recount(worker_db)
    assert clinic.send(ONE).status_code == 202
    assert clinic.post("/v1/jobs", data=JPEG, content_type="image/jpeg").status_code == 202
    small = clinic.send([(f"{n}.jpg", JPEG) for n in range(101)])  # a small body, but bulk
    assert (small.status_code, kind(small)) == (429, "too-much-waiting")


def test_photos_are_not_tried_again_while_too_much_waits(
    clinic: Caller, owner_db: Database, app_db: Database, worker_db: Database
) -> None:
    job = told(clinic.send(ONE, {"priority": "bulk"}))["id"]
    answer_all(worker_db, ("failed",))
    a_worker(owner_db, rate=RATE)
    before = submit_job(app_db, clinic.tenant, 3_000)
    recount(worker_db)
    refused = clinic.post(f"/v1/jobs/{job}/retry", Idempotency_Key="again")
    assert (refused.status_code, kind(refused)) == (429, "too-much-waiting")
    assert int(refused.headers["Retry-After"]) > 0
    assert told(clinic.get(f"/v1/jobs/{job}"))["round"] == 0
    assert clinic.post(f"/v1/jobs/job_{before.id.hex}/retry").status_code == 409  # open: waiting would not help it
    clinic.post(f"/v1/jobs/job_{before.id.hex}/cancel")
    recount(worker_db)
    assert clinic.post(f"/v1/jobs/{job}/retry", Idempotency_Key="again").status_code == 200


def test_another_tenant_gets_in_until_the_whole_is_over_its_bound(
    clinic: Caller, stranger: Caller, owner_db: Database, app_db: Database, worker_db: Database
) -> None:
    a_worker(owner_db, rate=RATE)
    submit_job(app_db, clinic.tenant, 2_900)
    recount(worker_db)
    assert stranger.send(ONE, {"priority": "bulk"}).status_code == 202
    submit_job(app_db, clinic.tenant, 200)
    recount(worker_db)
    full = stranger.send(ONE, {"priority": "bulk"})
    assert (full.status_code, kind(full)) == (503, "service-full")
    assert int(full.headers["Retry-After"]) > 0
    assert stranger.send(ONE).status_code == 202


def test_without_workers_jobs_wait_and_are_not_turned_away(
    clinic: Caller, app_db: Database, worker_db: Database
) -> None:
    submit_job(app_db, clinic.tenant, 5_000)
    recount(worker_db)
    assert clinic.send(ONE, {"priority": "bulk"}).status_code == 202


def test_a_replay_is_answered_however_much_waits(
    clinic: Caller, owner_db: Database, app_db: Database, worker_db: Database
) -> None:
    key = str(uuid4())
    first = clinic.send(ONE, {"priority": "bulk"}, Idempotency_Key=key)
    a_worker(owner_db, rate=RATE)
    submit_job(app_db, clinic.tenant, 5_000)
    recount(worker_db)
    again = clinic.send(ONE, {"priority": "bulk"}, Idempotency_Key=key)
    assert (again.status_code, again.json) == (202, first.json)
    assert clinic.send(ONE, {"priority": "bulk"}).status_code == 429


class Slow(io.RawIOBase):
    """A body that comes when it is told to."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()
        self._left = JPEG

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.asked.set()
        assert self.go.wait(60)
        data, self._left = self._left[:size], self._left[size:]
        return data


def test_too_many_uploads_at_once_are_refused_and_do_not_hang(
    clinic: Caller, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.intake.pressure._PATIENCE_SECONDS", 0.2)
    bodies = [Slow(), Slow()]
    callers = [Caller(app.test_client(), clinic.key, clinic.tenant) for _ in bodies]
    with ThreadPoolExecutor(2) as pool:
        sending = [pool.submit(caller.stream, body, len(JPEG)) for caller, body in zip(callers, bodies, strict=True)]
        try:
            assert all(body.asked.wait(30) for body in bodies)
            refused = clinic.stream(Unread(), 100)
            reading = clinic.get("/v1/jobs")
        finally:
            for body in bodies:
                body.go.set()
        assert [answer.result(60).status_code for answer in sending] == [202, 202]
    assert (refused.status_code, kind(refused)) == (503, "too-many-uploads")
    assert int(refused.headers["Retry-After"]) > 0
    assert reading.status_code == 200
    assert clinic.send(ONE).status_code == 202  # the places were given back


def test_with_every_connection_taken_the_answer_is_503(
    clinic: Caller, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    services: Services = app.extensions["poxvisio"]
    monkeypatch.setattr(services.database._engine.pool, "_timeout", 0.2)
    with services.database.transaction() as one, services.database.transaction() as other:
        for session in (one, other):
            session.connection()
        answer = clinic.send(ONE)
    assert (answer.status_code, kind(answer)) == (503, "database-away")
    assert int(answer.headers["Retry-After"]) > 0
    assert clinic.send(ONE).status_code == 202


def test_the_eta_tells_of_everybody_who_is_served_meanwhile(
    clinic: Caller, stranger: Caller, owner_db: Database, app_db: Database, worker_db: Database
) -> None:
    a_worker(owner_db, rate=RATE)
    job = told(clinic.send([(f"{n}.jpg", JPEG) for n in range(64)], {"priority": "bulk"}))["id"]
    submit_job(app_db, stranger.tenant, 5_000)
    recount(worker_db)
    change(owner_db, "UPDATE backlog_count SET counted_at = now() + interval '1 second'")  # no time passes meanwhile
    body = told(clinic.get(f"/v1/jobs/{job}"))
    left = seconds_between(body["created_at"], body["eta"])
    # Both tenants in turn: its 64 photos are done when 128 are, less the moments that passed since the count.
    assert 110 / RATE <= left <= 170 / RATE + 5


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def test_what_waits_in_all_is_asked_for_once_a_second(app_db: Database, worker_db: Database, tenant: UUID) -> None:
    now = [0.0]
    gauge = Gauge(app_db, clock=lambda: now[0])
    submit_job(app_db, tenant, 40)
    recount(worker_db)
    first = gauge.read()
    assert first is not None
    assert first.lanes["normal"] == 40
    submit_job(app_db, tenant, 40)
    recount(worker_db)
    now[0] = 0.9
    told_again = gauge.read()
    assert told_again is not None
    assert told_again.lanes == first.lanes
    assert told_again.age == pytest.approx(first.age + 0.9)
    now[0] = 1.1
    later = gauge.read()
    assert later is not None
    assert later.lanes["normal"] == 80
