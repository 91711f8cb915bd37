"""Nobody learns anything of another tenant: not from bytes, not from statuses, and not where a filter is forgotten."""

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from shared import history, ids
from shared.database import Database, new_id
from shared.errors import NotFound
from shared.tables import ApiKey, Endpoint, Event, Image, Job, Result
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Caller, make_key
from web.openapi import described_rules, template

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


PREFIXES = {"job": "job", "image": "image", "webhook": "endpoint", "delivery": "delivery", "key": "key"}
BODIES: dict[str, Any] = {
    "PATCH": {"description": "mine now"},
    "recover": {"since": "2026-01-01T00:00:00Z"},
    "replay": {"since": "2026-01-01T00:00:00Z"},
}


def test_foreign_unknown_and_malformed_ids_are_the_same_404(
    app: Flask, clinic: Caller, stranger: Caller, foreign: dict[str, str]
) -> None:
    tried = 0
    for rule, operation in described_rules(app):
        names = sorted(rule.arguments)
        if operation.scope is None or not names:
            continue
        for method in (rule.methods or set()) & {"GET", "POST", "PATCH", "DELETE"}:
            body = BODIES.get(method) or BODIES.get(rule.rule.rpartition("/")[2])
            if body is None and method == "POST":
                body = {}
            answers = [
                clinic.open(template(rule).format(**ids_of), method, json=body)
                for ids_of in (
                    {name: foreign[name] for name in names},
                    {name: ids.text(PREFIXES[name], new_id()) for name in names},
                    dict.fromkeys(names, "%00"),
                    dict.fromkeys(names, "job_1"),
                )
            ]
            assert [answer.status_code for answer in answers] == [404] * 4, (method, rule.rule)
            assert len({answer.data for answer in answers}) == 1, (method, rule.rule)
            tried += 1
    assert tried >= 15
    # Whatever was tried has done nothing.
    assert stranger.get(f"/v1/jobs/{foreign['job']}").status_code == 200
    assert stranger.get("/v1/keys").status_code == 200
    hooks = stranger.get("/v1/webhooks").json
    assert hooks is not None
    assert [hook["description"] for hook in hooks["webhooks"]] == [""]


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


def test_every_route_behind_a_scope_refuses_other_callers(app: Flask, clinic: Caller, owner_db: Database) -> None:
    everything = {"jobs:read", "jobs:write", "webhooks", "models", "admin"}
    for rule, operation in described_rules(app):
        if operation.scope is None:
            continue
        path = template(rule).format(**{name: ids.text(PREFIXES[name], new_id()) for name in rule.arguments})
        without = make_key(owner_db, clinic.tenant, sorted(everything - {operation.scope}))
        for method in (rule.methods or set()) & {"GET", "POST", "PATCH", "DELETE"}:
            nobody = app.test_client().open(path, method=method)
            assert (nobody.status_code, nobody.mimetype) == (401, "application/problem+json"), rule.rule
            assert nobody.headers["WWW-Authenticate"].startswith("Bearer")
            lacking = Caller(app.test_client(), without, clinic.tenant).open(path, method)
            assert lacking.status_code == 403, rule.rule
            assert operation.scope in lacking.text


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
