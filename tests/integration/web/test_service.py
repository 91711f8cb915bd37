"""What the service says about itself, its errors of routing, and its page."""

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask

from shared.bundle import load_bundle
from shared.database import Database
from tests.integration.web.conftest import Caller
from web.health import Examiner
from web.services import Services


def test_ready_when_database_storage_and_bundle_are(clinic: Caller) -> None:
    ready = clinic.client.get("/readyz")
    assert ready.status_code == 200, ready.text
    found = ready.json
    assert found is not None
    assert (found["database"]["status"], found["storage"]["status"], found["broker"]["status"]) == ("ok", "ok", "ok")
    assert found["migrations"]["database"] == found["migrations"]["program"]
    assert (found["workers"], found["status"]) == (0, "degraded")


def test_readiness_names_the_live_model_and_the_workers_that_hold_it(clinic: Caller, owner_db: Database) -> None:
    default = load_bundle(Path("models/demo"))
    with owner_db.transaction() as session:
        session.execute(
            sa.text("""
                INSERT INTO model (digest, id, card, labels, clinical, synthetic, bytes, state)
                VALUES ('d1', 'second', '{}', '{}', false, true, 1, 'ready')
            """)
        )
        session.execute(sa.text("INSERT INTO model_serving (version, live) VALUES (1, 'd1')"))
        for name, digest in (("one", default.digest), ("two", None)):
            session.execute(
                sa.text("INSERT INTO worker_node (name, state, bundle_digest) VALUES (:name, 'ready', :digest)"),
                {"name": name, "digest": digest},
            )
    examiner: Examiner = clinic.client.application.extensions["poxvisio.examiner"]
    here: Services = clinic.client.application.extensions["poxvisio"]
    found = Examiner().look(here)
    assert (found.bundle.id, found.bundle.digest, found.bundle.held_by) == ("second", "d1", 0)
    assert (found.status, found.bundle.status) == ("degraded", "degraded")
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE worker_node SET bundle_digest = 'd1' WHERE name = 'two'"))
    held = clinic.client.get("/readyz").json
    assert held is not None
    assert (held["status"], held["bundle"]["held_by"], held["workers"]) == ("ready", 1, 2)
    assert examiner.look(here).bundle.held_by == 1


def test_limits_are_published_to_everybody(clinic: Caller) -> None:
    limits = clinic.client.get("/v1/limits").json
    assert limits is not None
    assert (limits["max_photos"], limits["max_photo_bytes"]) == (50_000, 50 * 1024 * 1024)
    assert (limits["tenant_backlog_seconds"], limits["backlog_photos"]) == (8 * 3600, 1_000_000)


def test_the_served_model_shows_its_card(clinic: Caller) -> None:
    found = clinic.get("/v1/models").json
    assert found is not None
    (model,) = found["models"]
    assert (model["live"], model["clinical"], model["synthetic"]) == (True, False, True)
    assert model["card"]["digest"] == model["digest"]
    assert found["use"] == "research-only"
    job = clinic.send([("a.jpg", b"x")], {"model": model["id"]})
    assert job.status_code == 202


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/jobs", 405),
        ("GET", "/static/../app.py", 404),
        ("GET", "/v1//jobs", 404),
        ("GET", "/v1/jobs//results", 404),
        ("GET", "/v1/jobs/", 404),
    ],
)
def test_errors_of_routing_are_problems_too(clinic: Caller, method: str, path: str, status: int) -> None:
    answer = clinic.client.open(path, method=method)
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    if status == 405:
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
        assert answer.json is not None
        assert answer.json["detail"] == "Offered here: GET, HEAD, OPTIONS, POST."


def test_what_has_no_body_has_no_type(clinic: Caller) -> None:
    options = clinic.client.options("/v1/jobs", headers={"Authorization": f"Bearer {clinic.key}"})
    assert (options.status_code, "Content-Type" in options.headers) == (200, False)
    assert "POST" in options.headers["Allow"]
    assert clinic.client.options("/v1/jobs").mimetype == "application/problem+json"  # no key, and a body that says so
    made = clinic.post("/v1/keys", {"name": "second", "scopes": ["jobs:read"]}).json
    assert made is not None
    gone = clinic.open(f"/v1/keys/{made['id']}", "DELETE")
    assert (gone.status_code, gone.data, "Content-Type" in gone.headers) == (204, b"", False)
    job = clinic.send([("a.jpg", b"x")]).json
    assert job is not None
    etag = clinic.get(f"/v1/jobs/{job['id']}").headers["ETag"]
    unchanged = clinic.get(f"/v1/jobs/{job['id']}", If_None_Match=etag)
    assert (unchanged.status_code, "Content-Type" in unchanged.headers) == (304, False)
    assert clinic.client.head("/v1/limits").mimetype == "application/json"


def test_a_body_of_another_type_is_told_which_types_are_taken(clinic: Caller) -> None:
    for path, taken in (("/v1/jobs", "multipart/form-data"), ("/v1/keys", "application/json")):
        answer = clinic.post(path, data=b"x", content_type="text/plain")
        assert answer.json is not None
        assert answer.json["title"] == "This type of body is not taken here"
        assert taken in answer.json["detail"]


def test_the_unexpected_is_a_problem_without_details(app: Flask, clinic: Caller) -> None:
    def broken() -> str:
        raise RuntimeError("the secret reason")

    app.view_functions["service.limits"] = broken
    answer = clinic.client.get("/v1/limits")
    assert (answer.status_code, answer.mimetype) == (500, "application/problem+json")
    assert "secret reason" not in answer.text
    assert answer.headers["X-Request-Id"]


def test_every_answer_carries_the_security_headers(clinic: Caller) -> None:
    for path in ("/", "/livez", "/v1/jobs", "/nothing", "/v1/limits", "/static/app.css", "/problems/not-found"):
        headers = clinic.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], path
        assert headers["Referrer-Policy"] == "no-referrer", path
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", path
        assert "Strict-Transport-Security" not in headers  # over plain http it must not be sent
    assert clinic.get("/v1/jobs").headers["Cache-Control"] == "private, no-store"


def test_the_page_needs_nothing_inline_and_nothing_from_elsewhere(clinic: Caller) -> None:
    page = clinic.client.get("/")
    assert page.status_code == 200
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://", page.text)
    assert "Research use only. Not a medical device." in page.text
    for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
        file = clinic.client.get(path)
        assert file.status_code == 200
        assert file.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_a_request_id_is_taken_over_where_it_is_harmless(clinic: Caller) -> None:
    assert clinic.get("/livez", X_Request_Id="trace-12345").headers["X-Request-Id"] == "trace-12345"
    assert clinic.get("/livez", X_Request_Id="<b>" * 10).headers["X-Request-Id"] != "<b>" * 10
