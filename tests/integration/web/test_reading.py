"""Reading answers: results in three forms, receipts, photos and heat maps."""

import csv
import io
import json
import threading
from typing import Any

import psycopg2
import pytest
from PIL import Image

from shared import receipts, verification
from shared.database import Database
from shared.ids import parse
from tests.integration.web.answering import EVIDENCE, answer_all
from tests.integration.web.conftest import JPEG, Caller

MEDIA = {"ndjson": "application/x-ndjson", "csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
OUTCOMES = ("classified", "abstained", "rejected", "failed")


@pytest.fixture
def job(clinic: Caller, worker_db: Database) -> dict[str, Any]:
    photos = [(f"=HYPERLINK({n}).jpg", b"%d" % (n % 5)) for n in range(70)]
    made = clinic.send(photos, {"photos": [{"custom_id": "@p-0"}]}).json
    assert made is not None
    answer_all(worker_db, OUTCOMES)
    return dict(made)


def test_json_pages_hold_every_photo_once(clinic: Caller, job: dict[str, Any]) -> None:
    path: str | None = f"/v1/jobs/{job['id']}/results?limit=30"
    rows: list[dict[str, Any]] = []
    while path:
        page = clinic.get(path)
        assert page.json is not None
        rows += page.json["results"]
        link = page.headers.get("Link")
        path = link.partition(">")[0].removeprefix("<http://127.0.0.1:8000") if link else None
    assert [row["ordinal"] for row in rows] == list(range(70))
    assert {row["use"] for row in rows} == {"research-only"}
    first = rows[0]
    assert (first["outcome"], first["label"], first["custom_id"]) == ("classified", "mpox", "@p-0")
    assert first["probabilities"] == {"mpox": 0.93, "other": 0.07}
    assert first["model"] == {"id": "demo", "digest": "ab" * 32}
    assert first["evidence"] == EVIDENCE
    assert first["duplicate_of"] is None
    assert rows[5]["duplicate_of"] == first["image"]
    assert (rows[2]["outcome"], rows[2]["reasons"], rows[2]["model"], rows[2]["photo_url"]) == (
        "rejected",
        ["damaged"],
        None,
        None,
    )


def test_results_of_an_open_job_come_as_they_are_completed(clinic: Caller, worker_db: Database) -> None:
    made = clinic.send([(f"{n}.jpg", b"%d" % n) for n in range(70)]).json
    assert made is not None
    path = f"/v1/jobs/{made['id']}/results"
    empty = clinic.get(path).json
    assert empty is not None
    assert empty["results"] == []
    answer_all(worker_db, units=1)
    first = clinic.get(f"{path}?cursor={empty['next']}").json
    assert first is not None
    assert len(first["results"]) == 32
    answer_all(worker_db)
    rest = clinic.get(f"{path}?cursor={first['next']}").json
    assert rest is not None
    seen = [row["image"] for row in first["results"] + rest["results"]]
    assert len(seen) == len(set(seen)) == 70
    assert rest["next"] is None


def test_ndjson_has_one_photo_a_line(clinic: Caller, job: dict[str, Any]) -> None:
    answer = clinic.get(f"/v1/jobs/{job['id']}/results", Accept="application/x-ndjson")
    assert answer.mimetype == "application/x-ndjson"
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["ordinal"] for row in rows] == list(range(70))
    page = clinic.get(f"/v1/jobs/{job['id']}/results").json
    assert page is not None
    assert rows == page["results"]


def test_csv_holds_no_formula(clinic: Caller, job: dict[str, Any]) -> None:
    answer = clinic.get(f"/v1/jobs/{job['id']}/results?format=csv", Accept="application/json")
    assert answer.mimetype == "text/csv"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 70
    assert rows[0]["file_name"] == "'=HYPERLINK(0).jpg"
    assert rows[0]["custom_id"] == "'@p-0"
    assert (rows[0]["label"], rows[0]["probability"], rows[0]["use"]) == ("mpox", "0.93", "research-only")
    quality = [rows[0][name] for name in ("blur", "exposure", "size", "flat")]
    assert quality == ["120.5", "0.5", "900", "30.0"]
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_other_forms_are_refused(clinic: Caller, job: dict[str, Any]) -> None:
    refused = clinic.get(f"/v1/jobs/{job['id']}/results", Accept="text/html")
    assert (refused.status_code, refused.headers["Vary"]) == (406, "Accept")
    assert clinic.get(f"/v1/jobs/{job['id']}/results?format=xlsx").status_code == 422
    for cursor in ("x", "w99999999999999999999-" + "0" * 32, "o-1", "w1-xyz"):
        assert clinic.get(f"/v1/jobs/{job['id']}/results?cursor={cursor}").status_code == 422


@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
def test_a_stream_takes_no_limit(form: str, clinic: Caller, job: dict[str, Any]) -> None:
    path = f"/v1/jobs/{job['id']}/results?limit=10"
    for answer in (
        clinic.get(f"{path}&format={form}"),
        clinic.get(path, Accept=MEDIA[form]),
    ):
        assert answer.status_code == 422
        assert answer.json is not None
        assert answer.json["errors"] == [
            {"detail": f"is for JSON pages; {form} holds every result there is", "parameter": "limit"}
        ]


def test_caches_are_told_that_the_form_follows_the_accept_header(clinic: Caller, job: dict[str, Any]) -> None:
    for media in ("application/json", *MEDIA.values()):
        assert clinic.get(f"/v1/jobs/{job['id']}/results", Accept=media).headers["Vary"] == "Accept"
    for media in ("application/json", "text/html"):
        assert clinic.get("/problems/not-found", Accept=media).headers["Vary"] == "Accept"


def test_receipts_verify_offline(clinic: Caller, job: dict[str, Any]) -> None:
    jwks = clinic.client.get("/.well-known/poxvisio-keys.json").json
    assert jwks is not None
    path = f"/v1/jobs/{job['id']}/receipt"
    accepted = clinic.get(f"{path}?stage=accepted").json
    closed = clinic.get(path).json
    assert accepted is not None
    assert closed is not None
    assert verification.verify(accepted, jwks).ok
    report = verification.verify(closed, jwks)
    assert report.ok
    assert (report.accounted, report.total) == (70, 70)
    assert report.counts["classified"] == 18
    assert closed["payload"]["previous"] == receipts.digest(accepted)
    assert clinic.get(path).data == clinic.get(f"{path}?stage=closed").data


def test_an_open_job_has_its_first_receipt_only(clinic: Caller) -> None:
    made = clinic.send([("a.jpg", JPEG)]).json
    assert made is not None
    path = f"/v1/jobs/{made['id']}/receipt"
    latest = clinic.get(path).json
    assert latest is not None
    assert latest["payload"]["stage"] == "accepted"
    early = clinic.get(f"{path}?stage=closed")
    assert (early.status_code, early.headers["Retry-After"]) == (409, "2")
    assert early.json is not None
    assert early.json["detail"] == "The job is not closed yet."


def test_pictures_come_from_the_working_copy_and_the_evidence(clinic: Caller, job: dict[str, Any]) -> None:
    page = clinic.get(f"/v1/jobs/{job['id']}/results?limit=4").json
    assert page is not None
    classified, _, rejected, _ = page["results"]
    services = clinic.client.application.extensions["poxvisio"]
    image_id = parse("image", classified["image"])
    services.storage.write(f"copies/{parse('job', job['id']).hex}/{image_id.hex}.jpg", JPEG)

    photo = clinic.get(f"/v1/images/{classified['image']}/photo")
    assert (photo.status_code, photo.mimetype, photo.data) == (200, "image/jpeg", JPEG)
    assert photo.headers["Cache-Control"] == "private, no-store"
    assert photo.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in photo.headers["Content-Security-Policy"]

    heat = clinic.get(f"/v1/images/{classified['image']}/heatmap?width=320&height=200")
    assert heat.mimetype == "image/png"
    with Image.open(io.BytesIO(heat.data)) as layer:
        assert (layer.size, layer.mode) == ((320, 200), "RGBA")
    assert clinic.get(f"/v1/images/{classified['image']}/heatmap?width=4000").status_code == 422

    for path in (f"/v1/images/{rejected['image']}/photo", f"/v1/images/{rejected['image']}/heatmap"):
        answer = clinic.get(path)
        assert answer.status_code == 404
        assert answer.json is not None
        assert answer.json["type"].endswith("/problems/not-yet")


def test_one_photo_can_be_asked_for(clinic: Caller, job: dict[str, Any]) -> None:
    page = clinic.get(f"/v1/jobs/{job['id']}/results?limit=1").json
    assert page is not None
    (row,) = page["results"]
    assert clinic.get(f"/v1/images/{row['image']}").json == row


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_a_stream_waits_for_a_database_that_comes_back(
    form: str, clinic: Caller, worker_db: Database, owner_url: str
) -> None:
    made = clinic.send([(f"{n}.jpg", b"%d" % n) for n in range(600)]).json
    assert made is not None
    answer_all(worker_db)
    superuser = psycopg2.connect(owner_url)
    superuser.autocommit = True
    with superuser.cursor() as cursor:
        path = f"/v1/jobs/{made['id']}/results?format={form}"
        answer = clinic.client.get(path, headers={"Authorization": f"Bearer {clinic.key}"}, buffered=False)
        stream = iter(answer.response)
        pieces: list[Any] = [next(stream)]
        cursor.execute("ALTER ROLE poxvisio_web_login NOLOGIN")
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'poxvisio_web_login'")
        threading.Timer(1, lambda: _let_in(owner_url)).start()
        pieces += list(stream)
    superuser.close()
    assert b"".join(pieces).count(b"\n") == 600 + (form == "csv")


def _let_in(owner_url: str) -> None:
    connection = psycopg2.connect(owner_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("ALTER ROLE poxvisio_web_login LOGIN")
    connection.close()
