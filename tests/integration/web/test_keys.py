"""A tenant's API keys: made, read, and never dead from the start."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Self

import pytest
import sqlalchemy as sa

from shared.database import Database
from tests.integration.web.conftest import Caller, make_key
from web import auth
from web.api import keys


def test_a_new_key_is_read_where_its_location_says(clinic: Caller) -> None:
    made = clinic.post("/v1/keys", {"name": "ward 7", "scopes": ["jobs:read"]})
    assert made.status_code == 201
    assert made.json is not None
    read = clinic.get(made.headers["Location"].removeprefix("http://127.0.0.1:8000"))
    assert (read.status_code, read.json) == (200, {name: made.json[name] for name in made.json if name != "token"})


def test_the_last_use_of_a_key_is_noted_now_and_then_however_often_it_is_used(
    clinic: Caller, owner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(made_older: str = "0") -> datetime | None:
        with owner_db.transaction() as session:
            changed = "UPDATE api_key SET last_used_at = last_used_at - CAST(:older AS interval) RETURNING last_used_at"
            found: datetime | None = session.scalar(sa.text(changed), {"older": made_older})
        return found

    assert used() is None
    clinic.get("/v1/limits")
    clinic.get("/v1/jobs")
    long_ago = used("2 minutes")
    clinic.get("/v1/jobs")
    assert long_ago is not None
    assert used() == long_ago
    monkeypatch.setattr(auth, "_NOTE_SECONDS", 0.0)
    clinic.get("/v1/jobs")
    now_used = used()
    assert now_used is not None
    assert now_used > long_ago


def test_a_scope_given_twice_is_kept_once(clinic: Caller) -> None:
    made = clinic.post("/v1/keys", {"name": "k", "scopes": ["webhooks", "jobs:read", "webhooks"]}).json
    assert made is not None
    assert made["scopes"] == ["webhooks", "jobs:read"]


def test_a_key_that_would_be_dead_is_not_made(clinic: Caller) -> None:
    before = clinic.get("/v1/keys").json
    for wrong in ("2020-01-01T00:00:00Z", 1999999999, "1999999999", "2099-01-01"):
        answer = clinic.post("/v1/keys", {"name": "k", "scopes": ["admin"], "expires_at": wrong}, Idempotency_Key="k")
        assert answer.status_code == 422, wrong
        assert answer.json is not None
        assert [error["pointer"] for error in answer.json["errors"]] == ["#/expires_at"]
    assert clinic.get("/v1/keys").json == before
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    wanted = {"name": "k", "scopes": ["admin"], "expires_at": later}
    assert clinic.post("/v1/keys", wanted, Idempotency_Key="k").status_code == 201


def _with(clinic: Caller, token: str) -> Caller:
    return Caller(clinic.client, token, clinic.tenant)


def test_a_rotated_key_has_a_new_token_and_the_old_one_for_as_long_as_was_asked(clinic: Caller) -> None:
    made = clinic.post("/v1/keys", {"name": "ward 7", "scopes": ["jobs:read"]}).json
    assert made is not None
    first = clinic.post(f"/v1/keys/{made['id']}/rotate", {"grace_seconds": 3600}, Idempotency_Key="r")
    assert first.json is not None
    assert {name for name in made if made[name] != first.json[name]} == {"token", "previous_until"}
    left = datetime.fromisoformat(first.json["previous_until"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    for token in (made["token"], first.json["token"]):
        assert _with(clinic, token).get("/v1/jobs").status_code == 200
    # Shown once, and again only to who sends the very same request.
    again = clinic.post(f"/v1/keys/{made['id']}/rotate", {"grace_seconds": 3600}, Idempotency_Key="r")
    assert again.data == first.data
    assert "token" not in clinic.get(f"/v1/keys/{made['id']}").text
    at_once = clinic.post(f"/v1/keys/{made['id']}/rotate", {"grace_seconds": 0}).json
    assert at_once is not None
    assert at_once["previous_until"] is None
    answers = [_with(clinic, token).get("/v1/jobs") for token in (first.json["token"], at_once["token"])]
    assert [answer.status_code for answer in answers] == [401, 200]


def test_a_key_can_rotate_itself_without_a_body(clinic: Caller) -> None:
    mine = next(key for key in (clinic.get("/v1/keys").json or {})["keys"])
    rotated = clinic.post(f"/v1/keys/{mine['id']}/rotate").json
    assert rotated is not None
    assert [_with(clinic, token).get("/v1/keys").status_code for token in (clinic.key, rotated["token"])] == [200, 200]


def test_nobody_gives_more_than_they_have(clinic: Caller, owner_db: Database) -> None:
    wide = clinic.post("/v1/keys", {"name": "wide", "scopes": ["admin", "jobs:read"]}).json
    assert wide is not None
    narrow = _with(clinic, make_key(owner_db, clinic.tenant, ["admin", "webhooks"]))
    assert clinic.post(f"/v1/keys/{wide['id']}/rotate", Idempotency_Key="r").status_code == 200
    for answer in (
        narrow.post("/v1/keys", {"name": "k", "scopes": ["webhooks", "jobs:read"]}),
        narrow.post(f"/v1/keys/{wide['id']}/rotate"),
        narrow.post(f"/v1/keys/{wide['id']}/rotate", Idempotency_Key="r"),
    ):
        assert answer.status_code == 403
        assert "the scope 'jobs:read'" in answer.text
    assert narrow.post("/v1/keys", {"name": "k", "scopes": ["webhooks", "admin"]}).status_code == 201
    assert _with(clinic, wide["token"]).get("/v1/jobs").status_code == 200


def test_a_key_that_ended_cannot_be_rotated(clinic: Caller) -> None:
    made = clinic.post("/v1/keys", {"name": "k", "scopes": ["jobs:read"]}).json
    assert made is not None
    for wrong in ({"grace_seconds": -1}, {"grace_seconds": 10**9}, {"expires_at": "2020-01-01T00:00:00Z"}, {"to": 1}):
        assert clinic.post(f"/v1/keys/{made['id']}/rotate", wrong).status_code == 422
    clinic.open(f"/v1/keys/{made['id']}", "DELETE")
    refused = clinic.post(f"/v1/keys/{made['id']}/rotate")
    assert (refused.status_code, (refused.json or {})["detail"]) == (
        409,
        "The key is revoked or expired; make a new one.",
    )


class _Later(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(hours=2)


def test_a_replay_is_answered_though_its_key_has_expired_meanwhile(
    clinic: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    wanted = {"name": "k", "scopes": ["admin"], "expires_at": soon.isoformat()}
    first = clinic.post("/v1/keys", wanted, Idempotency_Key="k")
    assert first.status_code == 201
    monkeypatch.setattr(keys, "datetime", _Later)
    assert clinic.post("/v1/keys", wanted).status_code == 422
    again = clinic.post("/v1/keys", wanted, Idempotency_Key="k")
    assert (again.status_code, again.data) == (201, first.data)


def test_words_about_a_name_are_about_characters(clinic: Caller) -> None:
    told = clinic.post("/v1/keys", {"name": "", "scopes": ["admin"], "colour": "red"}).json
    assert told is not None
    assert [(error["pointer"], error["detail"]) for error in told["errors"]] == [
        ("#/name", "String should have at least 1 character"),
        ("#/colour", "is not known here"),
    ]
