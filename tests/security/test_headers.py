"""What every answer says beside its body: nothing that lets browsers, caches or strange pages do what they may not."""

import functools
from collections.abc import Iterator
from typing import NoReturn

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from shared.database import Database
from shared.settings import Settings
from tests.integration.web.conftest import Caller
from tests.security import matrix
from web.app import create_app
from web.services import Services

YEAR = 365 * 24 * 3600
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PRIVATE = {"private, no-store"}
REQUIRED = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
# What is the same for everybody, and how long it may be kept; all else belongs to somebody, or soon may.
FOR_ALL = {
    "/openapi.json": {"public, max-age=300"},
    "/docs": {"public, max-age=300"},
    "/.well-known/poxvisio-keys.json": {"public, max-age=300"},
    "/static/{name}": {"no-cache", "public, max-age=31536000, immutable"},
}


@pytest.fixture
def behind_tls(settings: Settings, owner_db: Database) -> Iterator[Flask]:
    """Return an application whose users reach it at an https address."""
    application = create_app(settings.model_copy(update={"public_url": "https://photos.example"}))
    yield application
    services: Services = application.extensions["poxvisio"]
    services.close()


def test_every_answer_over_tls_says_to_come_back_over_tls(behind_tls: Flask) -> None:
    for route, names in matrix.routes(behind_tls):
        path = route.path.format(**dict.fromkeys(names, "x"))
        answer = behind_tls.test_client().open(path, method=route.method)
        given = answer.headers["Strict-Transport-Security"]
        assert given == f"max-age={YEAR}; includeSubDomains", route
        # Nor does anything redirect: who asked over plain http has shown its key already.
        assert not 300 <= answer.status_code < 400, route


def test_text_says_in_which_letters_it_is_written(app: Flask, clinic: Caller) -> None:
    for path in ("/", "/problems/not-found", "/static/app.css", "/static/app.js"):
        kind = app.test_client().get(path).headers["Content-Type"]
        assert kind.endswith("charset=utf-8"), (path, kind)


def test_a_key_is_taken_from_its_header_alone(app: Flask, clinic: Caller) -> None:
    for name in ("access_token", "api_key", "key", "token", "Authorization"):
        answer = app.test_client().get("/v1/jobs", query_string={name: clinic.key})
        assert answer.status_code == 401
        client = app.test_client()
        client.set_cookie(name, clinic.key)
        assert client.get("/v1/jobs").status_code == 401


def test_what_a_proxy_would_say_is_not_believed_of_a_client(app: Flask, clinic: Caller) -> None:
    """No header about the way here changes an address that we give out or what is allowed."""
    claimed = {
        "X_Forwarded_For": "127.0.0.1",
        "X_Forwarded_Host": "evil.example",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_Prefix": "/evil",
        "Forwarded": "for=127.0.0.1;host=evil.example",
        "X_Original_URL": "/livez",
        "X_Rewrite_URL": "/livez",
        "X_HTTP_Method_Override": "DELETE",
        "Host": "evil.example",
    }
    sent = clinic.send([("a.jpg", b"\xff\xd8\xff")], None, **claimed)
    assert sent.status_code == 202
    assert "evil" not in sent.text + str(sent.headers)
    stranger = app.test_client().get("/v1/jobs", headers={name.replace("_", "-"): v for name, v in claimed.items()})
    assert stranger.status_code == 401


def test_the_documents_of_the_service_are_kept_nowhere(app: Flask, clinic: Caller) -> None:
    for path in ("/v1/jobs", "/v1/keys", "/v1/webhooks", "/v1/events", "/v1/models"):
        assert clinic.get(path).headers["Cache-Control"] == "private, no-store"


def faults_of(answer: TestResponse, kept: set[str]) -> Iterator[str]:
    """Yield what an answer lacks, or has too much; it may be kept as one of these says."""
    headers = answer.headers
    policy = headers.get("Content-Security-Policy", "")
    wrong = {name: headers.getlist(name) for name, value in REQUIRED.items() if headers.getlist(name) != [value]}
    yield from (f"{name}: {values}" for name, values in wrong.items())
    if "default-src 'none'" not in policy or "frame-ancestors 'none'" not in policy or "unsafe" in policy:
        yield f"Content-Security-Policy: {policy}"
    if headers.getlist("Cache-Control") not in [[each] for each in kept]:
        yield f"Cache-Control: {headers.getlist('Cache-Control')}"
    # The address is not https here.
    yield from (
        f"has {name}" for name in ("Strict-Transport-Security", "X-Powered-By", "Set-Cookie") if name in headers
    )
    if not headers.get("X-Request-Id"):
        yield "has no request id"
    if answer.status_code >= 400 and answer.data:
        if answer.mimetype != "application/problem+json":
            yield f"is {answer.mimetype}"
        elif answer.json is None or answer.json.get("request_id") != headers["X-Request-Id"]:
            yield "is a problem that does not name its request"


class Asking:
    """Asks, and keeps what was wrong with the answers."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self.statuses: set[int] = set()
        self.faults: list[str] = []

    def __call__(self, path: str, method: str, kept: set[str], body: bytes | None = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self._app.test_client().open(path, method=method, headers=named, data=body)
        self.statuses.add(answer.status_code)
        may_be_kept = kept if answer.status_code < 300 and method in ("GET", "HEAD") else PRIVATE
        self.faults += [f"{method} {path} {answer.status_code} {fault}" for fault in faults_of(answer, may_be_kept)]


def test_every_route_and_every_status_is_dressed(app: Flask, clinic: Caller) -> None:
    """Without a key, with one, with wrong methods and bodies."""
    ask = Asking(app)
    key = f"Bearer {clinic.key}"
    paths = {route.path: names for route, names in matrix.routes(app)} | {"/nothing/{x}": frozenset({"x"})}
    for path, names in paths.items():
        kept = FOR_ALL.get(path, PRIVATE)
        filled = path.format(**dict.fromkeys(names, "app.css" if path.startswith("/static") else "x"))
        for method in METHODS:
            ask(filled, method, kept)
            ask(filled, method, kept, Authorization=key)
        ask(filled, "POST", kept, b"{}", Authorization=key, Content_Type="application/json")
        ask(filled + "/x", "GET", kept)
    assert ask.statuses >= {200, 401, 404, 405, 415, 422}
    assert not ask.faults, "\n".join(ask.faults)


def test_an_answer_is_dressed_when_its_view_broke(app: Flask, clinic: Caller) -> None:
    def broken(**_: object) -> NoReturn:
        raise RuntimeError("planted")

    ask = Asking(app)
    routes = list(matrix.routes(app))
    for endpoint, view in app.view_functions.items():
        app.view_functions[endpoint] = functools.update_wrapper(lambda **_: broken(), view)
    for route, names in routes:
        path = route.path.format(**dict.fromkeys(names, "x"))
        ask(path, route.method, PRIVATE, Authorization=f"Bearer {clinic.key}")
    assert ask.statuses == {500}
    assert not ask.faults, "\n".join(ask.faults)


def test_a_header_that_is_missing_would_be_found(app: Flask) -> None:
    whole = app.test_client().get("/v1/limits")
    assert not list(faults_of(whole, PRIVATE))
    for name in (*REQUIRED, "Content-Security-Policy", "Cache-Control", "X-Request-Id"):
        less = app.test_client().get("/v1/limits")
        del less.headers[name]
        assert list(faults_of(less, PRIVATE)), name
