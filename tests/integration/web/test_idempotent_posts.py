"""Every POST there is, sent twice under one key: one effect, one answer, and no other request under that key.

The routes are those of the URL map, so that a new one is held to it too; one whose body this file does not know fails.
"""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.datastructures import MultiDict
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from shared.database import Database
from shared.ledger import idempotency
from shared.registry.bundles import FILES
from tests.integration.web.conftest import JPEG, Caller
from tests.integration.web.test_models import form_of
from tests.integration.worker.test_models import MakeBundle, make_bundle
from tests.security import matrix
from tests.security.matrix import Route, World
from web.operations import IDEMPOTENCY_KEY, Operation, described_rules, template

__all__ = ["make_bundle"]

_SINCE = {"since": "2026-01-01T00:00:00Z"}
# By route: a body, and another that is as good.
BODIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "/v1/keys": ({"name": "a", "scopes": ["admin"]}, {"name": "b", "scopes": ["admin"]}),
    "/v1/keys/{key}/rotate": ({"grace_seconds": 60}, {"grace_seconds": 61}),
    "/v1/models/{model}/canary": ({"share": 0.5}, {"share": 0.25}),
    "/v1/models/{model}/shadow": ({"share": 0.5}, {"share": 0.25}),
    "/v1/webhooks": ({"url": "https://example.org/a"}, {"url": "https://example.org/b"}),
    "/v1/webhooks/{webhook}/recover": (_SINCE, {**_SINCE, "preview": True}),
    "/v1/webhooks/{webhook}/replay": (_SINCE, {**_SINCE, "preview": True}),
    "/v1/webhooks/{webhook}/rotate-secret": ({}, {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}),
}
# What is written when nothing is done: that a key was used, and which key was looked at.
_NO_EFFECT = ("idempotency_key", "alembic_version", "backlog_count", "worker_node")


@dataclass
class Asker:
    """Sends the POST of any route, as it is or otherwise."""

    app: Flask
    world: World
    bundles: tuple[dict[str, bytes], dict[str, bytes]]

    def ask(self, route: Route, key: str, *, otherwise: bool = False) -> TestResponse:
        path = route.path.format(**self.world.ids)
        return self.world.owner.post(path, **self._body(route.path, otherwise), Idempotency_Key=key)

    def _body(self, path: str, otherwise: bool) -> dict[str, Any]:
        if path == "/v1/jobs":
            parts: MultiDict[str, Any] = MultiDict()
            parts.add("photos", (io.BytesIO(JPEG + b"2" * otherwise), "a.jpg"))
            return {"data": parts, "content_type": "multipart/form-data"}
        if path == "/v1/models":
            return form_of(self.bundles[otherwise])
        operation = next(found for rule, found in _posts(self.app) if template(rule) == path)
        if operation.body is None:
            return {}
        assert path in BODIES, f"say in {__file__} which two bodies POST {path} takes"
        return {"data": json.dumps(BODIES[path][otherwise]), "content_type": "application/json"}

    def takes_body(self, route: Route) -> bool:
        return bool(self._body(route.path, otherwise=False))


@pytest.fixture
def asker(app: Flask, clinic: Caller, owner_db: Database, worker_db: Database, make_bundle: MakeBundle) -> Asker:
    bundles = [{name: made.file(name).read_bytes() for name in FILES} for made in map(make_bundle, ("one", "two"))]
    return Asker(app, World(app, owner_db, worker_db, clinic.tenant), (bundles[0], bundles[1]))


def _posts(app: Flask) -> Iterator[tuple[Rule, Operation]]:
    return ((rule, operation) for rule, operation in described_rules(app) if "POST" in (rule.methods or ()))


def posts(app: Flask) -> Iterator[Route]:
    return (Route(template(rule), "POST") for rule, _ in _posts(app))


def anew(asker: Asker, route: Route) -> None:
    """Make a world where there is none, or where this route needs one in which nothing has been done yet."""
    if route.path.endswith(matrix.USING_UP):
        asker.world.spend(frozenset())
    asker.world.fill(is_open=route.path.endswith("/cancel"))


@pytest.fixture
def written(owner_db: Database) -> Callable[[], dict[str, list[str]]]:
    """Return all that the database holds of effects."""

    def look() -> dict[str, list[str]]:
        with owner_db.transaction() as session:
            tables = session.scalars(
                sa.text(
                    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
                )
            ).all()
            return {
                table: sorted(session.scalars(sa.text(f"SELECT (to_jsonb(x) - 'last_used_at')::text FROM {table} x")))
                for table in tables
                if table not in _NO_EFFECT
            }

    return look


def test_every_post_takes_an_idempotency_key(app: Flask) -> None:
    found = list(_posts(app))
    assert len(found) >= 15
    assert [rule.rule for rule, operation in found if IDEMPOTENCY_KEY not in operation.headers] == []


def test_every_post_is_done_once_and_answered_alike(
    app: Flask, asker: Asker, written: Callable[[], dict[str, list[str]]]
) -> None:
    for route in posts(app):
        anew(asker, route)
        before = written()
        first = asker.ask(route, "k")
        assert first.status_code < 300, f"{route}: {first.text}"
        assert "Idempotency-Replayed" not in first.headers, route
        once = written()
        # What only counts, a preview or a window without events, may do nothing.
        assert once != before or route.path.endswith(("/recover", "/replay")), f"{route} did nothing"
        again = asker.ask(route, "k")
        assert (again.status_code, again.data) == (first.status_code, first.data), route
        assert again.headers.get("Location") == first.headers.get("Location"), route
        assert again.headers["Idempotency-Replayed"] == "true", route
        assert written() == once, f"{route} was done twice"
        forget(asker)


def test_no_other_request_passes_under_a_used_key(
    app: Flask, asker: Asker, written: Callable[[], dict[str, list[str]]]
) -> None:
    anew(asker, Route("/v1/jobs", "POST"))
    used = asker.world.owner.post("/v1/keys", {"name": "x", "scopes": ["admin"]}, Idempotency_Key="of-another-route")
    assert used.status_code == 201
    for route in posts(app):
        anew(asker, route)
        if asker.takes_body(route):
            assert asker.ask(route, "k").status_code < 300, route
        before = written()
        keys = ("k", "of-another-route") if asker.takes_body(route) else ("of-another-route",)
        for key in keys:
            answer = asker.ask(route, key, otherwise=True)
            assert answer.status_code == 422, f"{route}: {answer.text}"
            assert (answer.json or {})["type"].endswith("/problems/idempotency-key-reused"), route
        assert written() == before, f"{route} did what was refused"
        forget(asker, "k")


def test_a_post_whose_key_is_in_flight_waits(
    app: Flask, asker: Asker, app_db: Database, written: Callable[[], dict[str, list[str]]]
) -> None:
    anew(asker, Route("/v1/jobs", "POST"))
    with app_db.transaction(asker.world.tenant) as session:
        idempotency.begin(session, asker.world.tenant, "k", 300)
    before = written()
    for route in posts(app):
        answer = asker.ask(route, "k")
        assert answer.status_code == 409, f"{route}: {answer.text}"
        assert (answer.json or {})["type"].endswith("/problems/request-in-flight"), route
        assert 0 < int(answer.headers["Retry-After"]) <= 300, route
    assert written() == before


def forget(asker: Asker, *keys: str) -> None:
    """Free keys, all where none is named, for the next route."""
    with asker.world.owner_db.transaction() as session:
        named = "WHERE key = ANY(:keys)" if keys else ""
        session.execute(sa.text(f"DELETE FROM idempotency_key {named}"), {"keys": list(keys)} if keys else {})
