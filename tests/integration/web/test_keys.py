"""A tenant's API keys: made, read, and never dead from the start."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Self

import pytest

from tests.integration.web.conftest import Caller
from web.api import keys


def test_a_new_key_is_read_where_its_location_says(clinic: Caller) -> None:
    made = clinic.post("/v1/keys", {"name": "ward 7", "scopes": ["jobs:read"]})
    assert made.status_code == 201
    assert made.json is not None
    read = clinic.get(made.headers["Location"].removeprefix("http://127.0.0.1:8000"))
    assert (read.status_code, read.json) == (200, {name: made.json[name] for name in made.json if name != "token"})


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
