"""The same POST sent twice has one effect, whatever became of the first one."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from flask import Flask

from shared.database import Database
from shared.ledger import idempotency
from shared.settings import Settings
from tests.integration.web.conftest import JPEG, Caller
from web.services import Services

PHOTOS = [("a.jpg", JPEG), ("b.jpg", b"x")]


def test_the_same_request_replays_its_answer(
    clinic: Caller, rows: Callable[[str], int], objects: Callable[[], list[Path]]
) -> None:
    first = clinic.send(PHOTOS, {"metadata": {"z": "1", "a": "2"}}, Idempotency_Key="k-1")
    second = clinic.send(PHOTOS, {"metadata": {"a": "2", "z": "1"}}, Idempotency_Key='"k-1"')
    assert (first.status_code, second.status_code) == (202, 202)
    assert second.data == first.data
    assert second.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert (rows("job"), rows("image"), len(objects())) == (1, 2, 2)


def test_the_envelope_may_differ(clinic: Caller, rows: Callable[[str], int]) -> None:
    clinic.post("/v1/jobs?file_name=a.jpg", data=JPEG, content_type="image/jpeg", Idempotency_Key="k-1")
    again = clinic.send([("a.jpg", JPEG)], Idempotency_Key="k-1")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert rows("job") == 1


def test_another_request_under_the_same_key_is_refused(clinic: Caller, rows: Callable[[str], int]) -> None:
    clinic.send(PHOTOS, Idempotency_Key="k-1")
    others = (
        clinic.send([("a.jpg", JPEG), ("b.jpg", b"y")], Idempotency_Key="k-1"),
        clinic.send([("b.jpg", b"x"), ("a.jpg", JPEG)], Idempotency_Key="k-1"),
        clinic.send([("other.jpg", JPEG), ("b.jpg", b"x")], Idempotency_Key="k-1"),
        clinic.send(PHOTOS, {"priority": "bulk"}, Idempotency_Key="k-1"),
        clinic.post("/v1/keys", {"name": "n", "scopes": ["admin"]}, Idempotency_Key="k-1"),
    )
    for answer in others:
        assert answer.status_code == 422
        assert answer.json is not None
        assert answer.json["type"].endswith("/problems/idempotency-key-reused")
    assert rows("job") == 1


def test_a_key_still_in_flight_is_a_conflict(app_db: Database, clinic: Caller, rows: Callable[[str], int]) -> None:
    with app_db.transaction(clinic.tenant) as session:
        idempotency.begin(session, clinic.tenant, "k-1", 300)
    answer = clinic.send(PHOTOS, Idempotency_Key="k-1")
    assert answer.status_code == 409
    assert 0 < int(answer.headers["Retry-After"]) <= 300
    assert rows("job") == 0


def test_a_dead_request_is_taken_over(
    app_db: Database, owner_db: Database, clinic: Caller, rows: Callable[[str], int]
) -> None:
    with app_db.transaction(clinic.tenant) as session:
        idempotency.begin(session, clinic.tenant, "k-1", 300)
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE idempotency_key SET lease_until = now() - interval '1 second'"))
    assert clinic.send(PHOTOS, Idempotency_Key="k-1").status_code == 202
    assert rows("job") == 1


def test_a_request_that_outlived_its_lease_writes_nothing(
    owner_db: Database, app_db: Database, clinic: Caller, rows: Callable[[str], int], objects: Callable[[], list[Path]]
) -> None:
    class TakenOverWhileReading:
        """A slow body: before its end, a retry takes the key over."""

        def __init__(self) -> None:
            self.pieces = [JPEG, b"and more"]

        def read(self, _: int) -> bytes:
            if len(self.pieces) == 1:
                with owner_db.transaction() as session:
                    session.execute(sa.text("UPDATE idempotency_key SET lease_until = now() - interval '1 second'"))
                with app_db.transaction(clinic.tenant) as session:
                    idempotency.begin(session, clinic.tenant, "k-1", 300)
            return self.pieces.pop(0) if self.pieces else b""

    answer = clinic.stream(TakenOverWhileReading(), len(JPEG) + 8, Idempotency_Key="k-1")
    assert answer.status_code == 409
    assert (rows("job"), rows("image"), rows("event"), objects()) == (0, 0, 0, [])
    assert rows("idempotency_key") == 1  # the retry's


def test_a_malformed_key_is_refused(clinic: Caller, nothing_half_done: Callable[[], None]) -> None:
    for key in ("", '""', "x" * 256, "a\tb", "ä"):
        assert clinic.send(PHOTOS, Idempotency_Key=key).status_code == 400, key
    nothing_half_done()


def test_keys_belong_to_their_tenant(clinic: Caller, stranger: Caller, rows: Callable[[str], int]) -> None:
    clinic.send(PHOTOS, Idempotency_Key="k-1")
    assert "Idempotency-Replayed" not in stranger.send(PHOTOS, Idempotency_Key="k-1").headers
    assert rows("job") == 2


def test_cancelling_replays(clinic: Caller) -> None:
    job = clinic.send(PHOTOS).json
    assert job is not None
    first = clinic.post(f"/v1/jobs/{job['id']}/cancel", Idempotency_Key="c-1")
    second = clinic.post(f"/v1/jobs/{job['id']}/cancel", Idempotency_Key="c-1")
    assert first.json is not None
    assert (first.json["state"], first.json["counts"]["cancelled"]) == ("cancelled", 2)
    assert second.data == first.data
    assert second.headers["Idempotency-Replayed"] == "true"


def test_a_stored_secret_is_sealed(clinic: Caller, owner_db: Database) -> None:
    made = clinic.post("/v1/keys", {"name": "second", "scopes": ["jobs:read"]}, Idempotency_Key="key").json
    assert made is not None
    with owner_db.transaction() as session:
        stored = session.execute(sa.text("SELECT body::text FROM idempotency_key")).scalar_one()
    assert made["token"].split("_")[2] not in stored
    assert clinic.post("/v1/keys", {"name": "second", "scopes": ["jobs:read"]}, Idempotency_Key="key").json == made


class Slow:
    """A body that comes in three pieces; before the last one the lease of the first would be long over."""

    def __init__(self, body: bytes, before_last: Callable[[], None]) -> None:
        third = len(body) // 3
        self._pieces = [body[:third], body[third : 2 * third], body[2 * third :]]
        self._before_last = before_last

    def read(self, _size: int = -1) -> bytes:
        if len(self._pieces) == 1:
            self._before_last()
        time.sleep(0.3)
        return self._pieces.pop(0) if self._pieces else b""


def test_a_long_upload_keeps_its_key(settings: Settings, owner_db: Database, clinic: Caller, app: Flask) -> None:
    services: Services = app.extensions["poxvisio"]
    short = settings.model_copy(update={"idempotency_lease": 0.6})
    app.extensions["poxvisio"] = dataclasses.replace(services, settings=short)
    alive = []

    def look() -> None:
        with owner_db.transaction() as session:
            left = session.execute(sa.text("SELECT lease_until > clock_timestamp() FROM idempotency_key")).scalar_one()
        alive.append(left)

    answer = clinic.stream(Slow(JPEG, look), len(JPEG), Idempotency_Key="k-slow")
    assert answer.status_code == 202
    assert alive == [True]
