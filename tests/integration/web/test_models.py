"""Publishing models over HTTP, and asking for changes of what serves."""

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from shared.database import Database
from shared.registry import changes
from shared.registry.bundles import FILES
from tests.integration.web.conftest import JPEG, Caller, make_key
from tests.integration.worker.test_models import MakeBundle, make_bundle
from web.services import Services

__all__ = ["make_bundle"]


def form_of(files: dict[str, bytes]) -> dict[str, Any]:
    """Return the body of a bundle's files. Not the test client's own, which leaves a temporary file open."""
    head = '--x\r\nContent-Disposition: form-data; name="{0}"; filename="{0}"\r\n\r\n'
    pieces = [head.format(name).encode() + data + b"\r\n" for name, data in files.items()]
    body = b"".join([*pieces, b"--x--\r\n"])
    return {"data": body, "content_type": "multipart/form-data; boundary=x"}


def upload(caller: Caller, files: dict[str, bytes]) -> TestResponse:
    return caller.post("/v1/models", **form_of(files))


@pytest.fixture
def files(make_bundle: MakeBundle) -> dict[str, bytes]:
    bundle = make_bundle("second")
    return {name: bundle.file(name).read_bytes() for name in FILES}


def decide(owner_db: Database, state: str) -> None:
    verdict = '{"passed": false, "problem": "it answers otherwise"}' if state == "refused" else '{"passed": true}'
    with owner_db.transaction() as session:
        session.execute(
            sa.text("UPDATE model SET state = :state, verdict = CAST(:verdict AS jsonb)"),
            {"state": state, "verdict": verdict},
        )


def test_a_model_is_published_checked_made_live_and_taken_back(
    clinic: Caller, files: dict[str, bytes], owner_db: Database, worker_db: Database
) -> None:
    made = upload(clinic, files)
    assert made.status_code == 201, made.text
    assert upload(clinic, files).status_code == 201, "twice is no error"
    assert clinic.send([("a.jpg", JPEG)], {"model": "second"}).status_code == 422, "it has not passed its check"
    decide(owner_db, "ready")
    assert clinic.send([("a.jpg", JPEG)], {"model": "second"}).status_code == 202
    asked = clinic.post("/v1/models/second/activate")
    assert asked.status_code == 202
    assert clinic.post("/v1/models/demo-synthetic/canary", {"share": 0.5}).status_code == 422
    assert clinic.post("/v1/models/second/activate").status_code == 409, "another change waits"
    changes.make(worker_db, None)
    assert clinic.get(asked.headers["Location"].removeprefix("http://127.0.0.1:8000")).json["state"] == "applied"  # type: ignore[index]
    listed = clinic.get("/v1/models").json
    assert listed is not None
    assert {model["id"]: model["live"] for model in listed["models"]} == {"second": True, "demo-synthetic": False}
    assert clinic.post("/v1/models/second/activate").status_code == 409, "it is live already"
    assert clinic.post("/v1/models/second/rollback").status_code == 202
    changes.make(worker_db, None)
    found = clinic.get("/v1/models/changes").json
    assert found is not None
    assert [(change["kind"], change["state"]) for change in found["changes"]] == [
        ("rollback", "applied"),
        ("activate", "applied"),
    ]
    assert all(change["asked_by"].startswith("key_") for change in found["changes"])


def test_a_bundle_that_failed_its_check_cannot_be_activated(
    clinic: Caller, files: dict[str, bytes], owner_db: Database
) -> None:
    upload(clinic, files)
    decide(owner_db, "refused")
    answer = clinic.post("/v1/models/second/activate")
    assert (answer.status_code, "it answers otherwise" in answer.text) == (422, True)
    assert clinic.post("/v1/models/none/activate").status_code == 404


def test_a_report_comes_along_is_read_by_who_may_and_can_do_nothing_in_a_browser(
    clinic: Caller, files: dict[str, bytes], app: Flask, owner_db: Database, tenant: UUID, objects: Any
) -> None:
    assert upload(clinic, files).status_code == 201
    absent = clinic.get("/v1/models/second/report")
    assert (absent.status_code, (absent.json or {})["type"].rpartition("/")[2]) == (404, "not-yet")
    assert clinic.get("/v1/models/none/report").status_code == 404
    for page in (b"<h1>SYNTHETIC</h1><script>alert(1)</script>", b"<h1>SYNTHETIC, again</h1>"):
        assert upload(clinic, {**files, "report.html": page}).status_code == 201
        read = clinic.get("/v1/models/second/report")
        assert (read.status_code, read.data, read.content_type) == (200, page, "text/html; charset=utf-8")
        policy = {part.strip() for part in read.headers["Content-Security-Policy"].split(";")}
        assert {"default-src 'none'", "sandbox", "frame-ancestors 'none'"} <= policy
        assert not any(part.startswith("script-src") for part in policy)
    reader = Caller(app.test_client(), make_key(owner_db, tenant, ["jobs:read"]), tenant)
    assert reader.get("/v1/models/second/report").status_code == 403
    kept = objects()
    large = upload(clinic, {**files, "report.html": bytes((16 << 20) + 1)})
    assert (large.status_code, "its report 16 MiB" in large.text) == (413, True)
    assert objects() == kept


def test_one_idempotency_key_is_for_one_report(clinic: Caller, files: dict[str, bytes]) -> None:
    def sent(page: bytes) -> int:
        form = form_of({**files, "report.html": page})
        return clinic.post("/v1/models", **form, Idempotency_Key="once").status_code

    assert (sent(b"<p>one</p>"), sent(b"<p>one</p>"), sent(b"<p>two</p>")) == (201, 201, 422)
    assert clinic.get("/v1/models/second/report").data == b"<p>one</p>"


def test_the_report_beside_the_bundle_of_the_setting_is_shown_too(
    clinic: Caller, app: Flask, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle("started-with")
    (bundle.path / "report").mkdir(exist_ok=True)
    (bundle.path / "report" / "report.html").write_bytes(b"<p>beside</p>")
    here: Services = app.extensions["poxvisio"]
    monkeypatch.setattr(here.model, "bundle", lambda: bundle)
    assert clinic.get("/v1/models/started-with/report").data == b"<p>beside</p>"


@pytest.mark.parametrize("harm", ["altered", "missing", "another"])
def test_what_is_not_a_whole_bundle_is_refused_and_nothing_is_kept(
    harm: str, clinic: Caller, files: dict[str, bytes], objects: Any, rows: Any
) -> None:
    if harm == "altered":
        files["gate.safetensors"] = files["gate.safetensors"][:-1] + b"\x00"
    elif harm == "missing":
        del files["parity.safetensors"]
    else:
        files["../card.json"] = b"{}"
    answer = upload(clinic, files)
    assert answer.status_code == (400 if harm == "another" else 422)
    assert "/tmp" not in answer.text
    assert objects() == []
    assert rows("model") == 0


def test_a_tenant_cannot_give_itself_a_say_in_what_serves(app: Flask, owner_db: Database, tenant: UUID) -> None:
    admin = Caller(app.test_client(), make_key(owner_db, tenant, ["admin"]), tenant)
    assert admin.post("/v1/keys", {"name": "k", "scopes": ["models"]}).status_code == 403
    assert admin.post("/v1/keys", {"name": "k", "scopes": ["admin"]}).status_code == 201


def test_a_shadow_is_asked_for_and_its_report_shows_sums_of_all_and_photos_of_ones_own(
    clinic: Caller, stranger: Caller, files: dict[str, bytes], owner_db: Database, worker_db: Database
) -> None:
    upload(clinic, files)
    decide(owner_db, "ready")
    assert clinic.post("/v1/models/demo-synthetic/shadow", {"share": 0.5}).status_code == 422
    assert clinic.post("/v1/models/second/shadow", {"share": 0.5}).status_code == 202
    changes.make(worker_db, None)
    listed = clinic.get("/v1/models").json
    assert listed is not None
    assert {model["id"]: model["shadow_share"] for model in listed["models"]} == {"second": 0.5, "demo-synthetic": 0.0}
    for caller, photos, otherwise in ((clinic, 30, 3), (stranger, 15, 1)):
        assert caller.send([(f"{n}.jpg", JPEG + bytes([n])) for n in range(photos)]).status_code == 202
        with owner_db.transaction() as session:
            session.execute(_SEEN, {"tenant": caller.tenant, "otherwise": otherwise})
    report = clinic.get("/v1/models/second/shadow").json
    assert report is not None
    total = report["total"]
    assert (total["photos"], total["agreeing"], total["data"]) == (45, 41, "enough")
    assert total["rate"] == pytest.approx(41 / 45)
    assert total["low"] < total["rate"] < total["high"]
    assert [(one["name"], one["photos"], one["rate"]) for one in report["by_confidence"]] == [
        ("0.5 to 0.6", 4, None),
        ("0.9 to 1.0", 41, 1.0),
    ]
    assert report["by_confidence"][0]["data"] == "not enough data"
    assert report["moves"] == [
        {"standing": "a", "shadow": "a", "photos": 41},
        {"standing": "a", "shadow": "b", "photos": 4},
    ]
    assert report["largest_difference"] == pytest.approx(0.25)
    assert len(report["disagreements"]) == 3, "the stranger's photo is counted and not shown"
    for one in report["disagreements"]:
        answer = clinic.get(one["result_url"].removeprefix("http://127.0.0.1:8000"))
        assert answer.status_code == 200
    assert len(clinic.get("/v1/models/second/shadow?limit=1").json["disagreements"]) == 1  # type: ignore[index]
    assert clinic.get("/v1/models/none/shadow").status_code == 404
    assert clinic.get("/v1/models/second/shadow?limit=x").status_code == 422


_SEEN = sa.text("""
    INSERT INTO shadow_result (image_id, tenant_id, job_id, digest, outcome, label, p, live_digest, live_outcome,
                               live_label, live_p, moved)
    SELECT i.id, i.tenant_id, i.job_id, m.digest, 'classified', CASE WHEN i.ordinal < :otherwise THEN 'b' ELSE 'a' END,
      0.9, 'e', 'classified', 'a', CASE WHEN i.ordinal < :otherwise THEN 0.55 ELSE 1.0 END,
      CASE WHEN i.ordinal < :otherwise THEN 0.25 ELSE 0.01 END
    FROM image i, model m WHERE i.tenant_id = :tenant
""")
