"""Archives and lists over HTTP, taken in by a real receiver: what was sent, what is told, and what comes of it."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from cli.embedded.ports import free_port
from shared.database import Database
from shared.settings import Settings
from shared.storage import open_storage
from tests.integration.ledger.factories import change, check_invariants, rows
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Caller, make_key
from tests.security.archives.packing import Packed, pack
from web.app import create_app
from web.services import Services
from worker import fetching
from worker.receiver import Receiver

ZIP = pack(Packed(b"a/1.jpg", JPEG), Packed(b"a/2.jpg", JPEG + b"2"), Packed(b"locked.jpg", JPEG, flags=1))
TYPE = "application/zip"


@pytest.fixture
def receiver(settings: Settings, worker_db: Database) -> Iterator[Receiver]:
    made = Receiver(settings, worker_db, open_storage(settings), "host/receiver", lambda _: None)
    yield made
    made.close()


def results(clinic: Caller, job: str) -> list[dict[str, Any]]:
    found = clinic.get(f"/v1/jobs/{job}/results").get_json()
    return sorted(found["results"], key=lambda row: int(row["ordinal"]))


def listed(*photos: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"images": list(photos), **options}


def content(data: bytes, **more: Any) -> dict[str, Any]:
    return {"content": base64.b64encode(data).decode(), **more}


# Archives


def test_an_archive_is_taken_in_at_once_and_expanded_later(
    clinic: Caller, receiver: Receiver, owner_db: Database, worker_db: Database
) -> None:
    answer = clinic.post('/v1/jobs?file_name=ward.zip&metadata={"ward":"3"}', data=ZIP, content_type=TYPE)
    job = answer.get_json()
    assert (answer.status_code, job["state"], job["total"], job["progress"]) == (202, "receiving", 0, 0)
    assert (job["priority"], job["metadata"], job["eta"]) == ("bulk", {"ward": "3"}, None)
    early = clinic.get(f"/v1/jobs/{job['id']}/receipt")
    assert (early.status_code, early.headers["Retry-After"]) == (409, "2")
    assert clinic.get(f"/v1/jobs/{job['id']}/results").get_json()["results"] == []

    assert receiver.work_once()
    known = clinic.get(f"/v1/jobs/{job['id']}").get_json()
    assert (known["state"], known["total"], known["counts"]["waiting"]) == ("queued", 3, 2)
    receipt = clinic.get(f"/v1/jobs/{job['id']}/receipt").get_json()["payload"]
    assert [entry["name"] for entry in receipt["entries"]] == ["a/1.jpg", "a/2.jpg", "locked.jpg"]
    assert receipt["entries"][0]["sha256"] == hashlib.sha256(JPEG).hexdigest()
    answer_all(worker_db)
    done = clinic.get(f"/v1/jobs/{job['id']}").get_json()
    assert (done["state"], done["counts"]["classified"], done["counts"]["rejected"]) == ("completed", 2, 1)
    assert [(row["file_name"], row["outcome"]) for row in results(clinic, job["id"])] == [
        ("a/1.jpg", "classified"),
        ("a/2.jpg", "classified"),
        ("locked.jpg", "rejected"),
    ]
    assert results(clinic, job["id"])[2]["reasons"] == ["encrypted"]
    kinds = [row.kind for row in rows(owner_db, "SELECT kind FROM event ORDER BY seq")]
    assert kinds == ["job.accepted", "job.started", "job.completed"]
    check_invariants(owner_db)


def test_an_archive_sent_again_under_its_key_is_the_same_job(clinic: Caller, rows: Callable[[str], int]) -> None:
    first = clinic.post("/v1/jobs", data=ZIP, content_type=TYPE, Idempotency_Key="once")
    again = clinic.post("/v1/jobs", data=ZIP, content_type=TYPE, Idempotency_Key="once")
    assert again.get_json() == first.get_json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (rows("job"), rows("intake")) == (1, 1)
    other = clinic.post("/v1/jobs?file_name=b.zip", data=ZIP, content_type=TYPE, Idempotency_Key="once")
    assert other.status_code == 422


def test_a_receiving_job_is_cancelled_and_then_deleted(clinic: Caller, owner_db: Database) -> None:
    job = clinic.post("/v1/jobs?file_name=ward.zip", data=ZIP, content_type=TYPE).get_json()["id"]
    assert clinic.open(f"/v1/jobs/{job}", "DELETE").status_code == 409
    cancelled = clinic.post(f"/v1/jobs/{job}/cancel").get_json()
    assert (cancelled["state"], cancelled["total"], cancelled["counts"]["cancelled"]) == ("cancelled", 1, 1)
    assert [row["file_name"] for row in results(clinic, job)] == ["ward.zip"]
    check_invariants(owner_db)
    assert clinic.get(f"/v1/jobs/{job}/receipt").status_code == 200
    assert clinic.open(f"/v1/jobs/{job}", "DELETE").status_code == 204


def test_an_archive_above_the_limit_is_refused_and_nothing_is_left(
    environment: dict[str, str], owner_db: Database, tenant: Any, nothing_half_done: Callable[[], None]
) -> None:
    app = create_app(Settings.load(environment | {"POXVISIO_MAX_REQUEST_BYTES": str(1 << 20)}))
    services: Services = app.extensions["poxvisio"]
    clinic = Caller(app.test_client(), make_key(owner_db, tenant), tenant)
    answer = clinic.post("/v1/jobs", data=bytes(2 << 20), content_type=TYPE)
    services.close()
    assert answer.status_code == 413
    nothing_half_done()


def test_a_custom_id_is_not_for_an_archive(clinic: Caller, nothing_half_done: Callable[[], None]) -> None:
    assert clinic.post("/v1/jobs?custom_id=a", data=ZIP, content_type=TYPE).status_code == 422
    nothing_half_done()


# Lists of photos that come along


def test_photos_in_a_document_are_a_job_like_any_other(
    clinic: Caller, objects: Callable[[], list[Path]], owner_db: Database
) -> None:
    sent = listed(
        content(JPEG, file_name="a.jpg", custom_id="p1"), content(JPEG + b"2", custom_id="p2"), content(b""),
        priority="bulk", metadata={"ward": "3"},
    )  # fmt: skip
    answer = clinic.post("/v1/jobs", sent)
    job = answer.get_json()
    assert (answer.status_code, job["state"], job["total"], job["priority"]) == (202, "queued", 3, "bulk")
    found = rows(owner_db, "SELECT client_name, custom_id, bytes, sha256 FROM image ORDER BY ordinal")
    assert [(row.client_name, row.custom_id, row.bytes) for row in found] == [
        ("a.jpg", "p1", len(JPEG)),
        (None, "p2", len(JPEG) + 1),
        (None, None, 0),
    ]
    assert [path.read_bytes() for path in objects()] == [JPEG, JPEG + b"2", b""]
    check_invariants(owner_db)


@pytest.mark.parametrize(
    ("images", "pointer"),
    [
        ([content(JPEG, custom_id="a"), content(JPEG, custom_id="a")], "#/images/1/custom_id"),
        ([content(JPEG), {"upload_id": "upl_1"}], "#/images/1/upload_id"),
        ([content(JPEG, url="https://photos.example/a")], "#/images/0"),
        ([{"url": "http://169.254.169.254/latest"}], "#/images/0/url"),
        ([{"url": "https://10.0.0.1/a.jpg"}], "#/images/0/url"),
        ([{"url": "file:///etc/passwd"}], "#/images/0/url"),
        ([content(JPEG, colour="red")], "#/images/0/colour"),
    ],
)
def test_a_wrong_list_is_refused_whole_by_its_place(
    clinic: Caller, nothing_half_done: Callable[[], None], images: list[dict[str, Any]], pointer: str
) -> None:
    answer = clinic.post("/v1/jobs", {"images": images})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.get_json()["errors"]] == [pointer]
    nothing_half_done()


def test_a_list_sent_again_under_its_key_is_the_same_job(clinic: Caller, rows: Callable[[str], int]) -> None:
    sent = listed(content(JPEG), {"url": "https://photos.example/b.jpg"})
    first = clinic.post("/v1/jobs", sent, Idempotency_Key="once")
    again = clinic.post("/v1/jobs", sent, Idempotency_Key="once")
    assert (first.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert again.get_json() == first.get_json()
    assert rows("job") == 1
    other = listed(content(JPEG), {"url": "https://photos.example/c.jpg"})
    assert clinic.post("/v1/jobs", other, Idempotency_Key="once").status_code == 422


# Lists of addresses


class Photos:
    """A server on loopback that answers by the path, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = free_port()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Be silent."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name = request.path.removeprefix("/")
        status = int(name) if name.isdecimal() else 200
        if name == "busy-once" and self.asked.count("/busy-once") == 1:
            status = 503
        body = JPEG + name.encode() if status == 200 else b"no"
        if name == "large":
            body = bytes(5000)
        request.send_response(status)
        if 300 <= status < 400:
            request.send_header("Location", f"http://127.0.0.1:{self.port}/photo")
        request.send_header("Content-Length", str(len(body) + (10 if name == "cut" else 0)))
        request.end_headers()
        request.wfile.write(body)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def photos() -> Iterator[Photos]:
    made = Photos()
    yield made
    made.close()


@pytest.fixture
def environment(environment: dict[str, str], photos: Photos) -> dict[str, str]:
    return environment | {
        "POXVISIO_WEBHOOK_LOOPBACK": f"127.0.0.1:{photos.port}",
        "POXVISIO_MAX_PHOTO_BYTES": "4096",
    }


def fetch_all(receiver: Receiver, worker_db: Database, owner_db: Database) -> None:
    """Take turns until nothing is left, without waiting for the pauses between tries."""
    for _ in range(20):
        while receiver.work_once():
            check_invariants(owner_db)
        if not rows(owner_db, "SELECT 1 FROM intake_url"):
            return
        change(owner_db, "UPDATE intake_url SET available_at = now()")
        change(owner_db, "UPDATE unit SET state = 'ready' WHERE state = 'waiting'")
    raise AssertionError("addresses are left")


def test_photos_are_fetched_from_their_addresses_each_with_its_own_verdict(
    clinic: Caller, photos: Photos, receiver: Receiver, owner_db: Database, worker_db: Database
) -> None:
    names = ["first.jpg", "302", "404", "busy-once", "large", "500", "cut", "last.jpg"]
    sent = [{"url": photos.url(name), "custom_id": f"p-{name}"} for name in names]
    sent.insert(4, content(JPEG, custom_id="here"))
    job = clinic.post("/v1/jobs", {"images": sent}).get_json()
    assert (job["state"], job["total"], job["counts"]["waiting"]) == ("receiving", 9, 9)
    assert photos.asked == []
    fetch_all(receiver, worker_db, owner_db)
    answer_all(worker_db)
    done = clinic.get(f"/v1/jobs/{job['id']}").get_json()
    assert (done["state"], done["total"]) == ("completed", 9)
    assert [(row["custom_id"], row["outcome"], row["reasons"]) for row in results(clinic, job["id"])] == [
        ("p-first.jpg", "classified", []),
        ("p-302", "rejected", ["url_redirects"]),
        ("p-404", "rejected", ["url_refused"]),
        ("p-busy-once", "classified", []),
        ("here", "classified", []),
        ("p-large", "rejected", ["too_large"]),
        ("p-500", "failed", ["url_unreachable"]),
        ("p-cut", "failed", ["url_unreachable"]),
        ("p-last.jpg", "classified", []),
    ]
    assert photos.asked.count("/500") == photos.asked.count("/cut") == fetching.MAX_TRIES
    assert photos.asked.count("/busy-once") == 2
    assert "/photo" not in photos.asked
    first = rows(owner_db, "SELECT client_name, sha256 FROM image WHERE ordinal = 0")[0]
    assert (first.client_name, bytes(first.sha256)) == ("first.jpg", hashlib.sha256(JPEG + b"first.jpg").digest())
    check_invariants(owner_db)


def test_a_name_that_leads_inside_is_asked_nothing(
    clinic: Caller, photos: Photos, receiver: Receiver, owner_db: Database, worker_db: Database
) -> None:
    """A name may be said to be anybody's, and mean this machine: what is dialled decides."""
    change_to = f"http://127.0.0.1:{photos.port}/a.jpg"
    job = clinic.post("/v1/jobs", listed({"url": change_to})).get_json()["id"]
    change(owner_db, "UPDATE intake_url SET url = :url", url=f"https://localhost:{photos.port}/a.jpg")
    fetch_all(receiver, worker_db, owner_db)
    assert results(clinic, job)[0]["reasons"] == ["url_not_allowed"]
    assert photos.asked == []


def test_a_list_whose_fetcher_died_is_gone_on_with(
    clinic: Caller, photos: Photos, receiver: Receiver, owner_db: Database, worker_db: Database, app: Flask
) -> None:
    job = clinic.post("/v1/jobs", listed(*({"url": photos.url(f"{n}.jpg")} for n in range(40)))).get_json()["id"]
    change(
        owner_db,
        "UPDATE unit SET state = 'leased', leased_by = 'host/dead', crashes = 1, lease_until = now() - interval '1 h'"
        " WHERE kind = 'intake'",
    )
    change(owner_db, "UPDATE unit SET state = 'ready', leased_by = NULL WHERE kind = 'intake'")
    receiver.look()
    assert clinic.get(f"/v1/jobs/{job}").get_json()["counts"]["waiting"] == 40
    fetch_all(receiver, worker_db, owner_db)
    while rows(owner_db, "SELECT 1 FROM unit WHERE state = 'ready'"):
        answer_all(worker_db)
    assert clinic.get(f"/v1/jobs/{job}").get_json()["counts"]["classified"] == 40
    assert sorted(photos.asked) == sorted(f"/{n}.jpg" for n in range(40))
    assert json.dumps(sorted({row["ordinal"] for row in results(clinic, job)})) == json.dumps(list(range(40)))
