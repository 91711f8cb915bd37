"""What every answer says beside its body: nothing that lets browsers, caches or strange pages do what they may not."""

from collections.abc import Iterator

import pytest
from flask import Flask

from shared.database import Database
from shared.settings import Settings
from tests.integration.web.conftest import Caller
from tests.security import matrix
from web.app import create_app
from web.services import Services

YEAR = 365 * 24 * 3600


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
