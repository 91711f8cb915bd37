"""Lists hold one's own things, and keys end. What each caller hears of each route is in ``tests/security``."""

import pytest
import sqlalchemy as sa
from flask import Flask

from shared import history, ids
from shared.database import Database
from shared.errors import NotFound
from shared.tables import ApiKey, Endpoint, Event, Image, Job, Result
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Caller

HOOK = {"url": "https://example.org/hook"}


@pytest.fixture
def foreign(stranger: Caller, worker_db: Database) -> dict[str, str]:
    """Return ids of everything another tenant has, by the name that routes give them."""
    job = stranger.send([("a.jpg", JPEG)]).json
    answer_all(worker_db)
    webhook = stranger.post("/v1/webhooks", HOOK).json
    assert job is not None
    assert webhook is not None
    sent = stranger.post(f"/v1/webhooks/{webhook['id']}/test").json
    page = stranger.get(f"/v1/jobs/{job['id']}/results").json
    keys = stranger.get("/v1/keys").json
    assert sent is not None
    assert page is not None
    assert keys is not None
    return {
        "job": job["id"],
        "image": page["results"][0]["image"],
        "webhook": webhook["id"],
        "delivery": sent["id"],
        "key": keys["keys"][0]["id"],
    }


def test_lists_hold_ones_own_things_only(clinic: Caller, foreign: dict[str, str]) -> None:
    for path, name in (("/v1/jobs", "jobs"), ("/v1/webhooks", "webhooks")):
        page = clinic.get(path).json
        assert page is not None
        assert page[name] == []
    assert clinic.get("/v1/events").json == {"events": [], "next": 0}


def test_row_level_security_alone_keeps_tenants_apart(
    app_db: Database, clinic: Caller, foreign: dict[str, str]
) -> None:
    with app_db.transaction(clinic.tenant) as session:
        with pytest.raises(NotFound):
            history.job(session, ids.parse("job", foreign["job"]))
        with pytest.raises(NotFound):
            history.image(session, ids.parse("image", foreign["image"]))
        assert list(history.manifest(session, ids.parse("job", foreign["job"]))) == []
        for table in (Job, Image, Result, Event, Endpoint):
            assert session.scalar(sa.select(sa.func.count()).select_from(table)) == 0, table
        assert session.scalar(sa.select(sa.func.count()).select_from(ApiKey)) == 1


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer pxv_",
        "Bearer pxv_zz_zz",
        "Basic dXNlcjpwYXNz",
        "Bearer pxv_" + "0" * 32 + "_" + "0" * 48,
        "Bearer pxv_{0}_" + "0" * 100_000,
    ],
)
def test_a_key_that_is_none_is_401(app: Flask, clinic: Caller, header: str) -> None:
    answer = app.test_client().get("/v1/jobs", headers={"Authorization": header})
    assert answer.status_code == 401


def test_a_revoked_key_ends_at_once(clinic: Caller, app: Flask) -> None:
    made = clinic.post("/v1/keys", {"name": "second", "scopes": ["jobs:read"]}).json
    assert made is not None
    second = Caller(app.test_client(), made["token"], clinic.tenant)
    assert second.get("/v1/jobs").status_code == 200
    assert second.get("/v1/keys").status_code == 403
    assert clinic.open(f"/v1/keys/{made['id']}", "DELETE").status_code == 204
    assert second.get("/v1/jobs").status_code == 401
