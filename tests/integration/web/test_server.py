"""The same application behind the real server: streams, broken bodies on raw sockets, headers and log lines."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from shared.database import Database
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Server

ROOT = Path(__file__).parents[3]
BOUNDARY = "xxBOUNDARYxx"
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photos"; filename="a.jpg"\r\n\r\n'.encode()
END = f"\r\n--{BOUNDARY}--\r\n".encode()
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture
def photos_folder(serving: Server) -> Path:
    """Return where the server of this file stores photos."""
    return serving.photos


def test_photos_go_in_and_answers_come_out(server: Server, worker_db: Database) -> None:
    photos = b"".join((b"\r\n" if n else b"") + HEAD + b"%d" % n + os.urandom(200_000) for n in range(20))
    status, headers, body = server.ask("POST", "/v1/jobs", photos + END, Content_Type=TYPE)
    assert status == 202, body
    job = json.loads(body)
    assert job["total"] == 20
    assert headers["Location"] == job["links"]["self"]
    answer_all(worker_db)
    status, headers, body = server.ask("GET", f"/v1/jobs/{job['id']}/results?format=ndjson")
    assert (status, len(body.splitlines())) == (200, 20)
    for name, value in {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "private, no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    }.items():
        assert headers[name] == value
    assert headers["X-Request-Id"]


def test_chunks_are_taken_in_where_the_body_itself_says_where_it_ends(
    server: Server, rows: Callable[[str], int]
) -> None:
    head = f"POST /v1/jobs HTTP/1.1\nHost: x\nConnection: close\nAuthorization: Bearer {server.key}\n"
    head += "Transfer-Encoding: chunked\nContent-Type: "
    form = HEAD + JPEG + END
    for media, body, status in ((TYPE, form, 202), ("image/jpeg", JPEG, 411), ("application/zip", b"PK", 411)):
        answer = server.raw(head + media, b"%x\r\n" % len(body), body, b"\r\n0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 %d" % status), answer
    assert rows("job") == 1


@pytest.mark.parametrize("then", ["half-close", "hang up"])
@pytest.mark.parametrize(
    ("kind", "pieces", "missing"),
    [
        ("multipart", (HEAD, JPEG), 1000),
        ("multipart", (HEAD, b"x" * 300_000), 1),
        ("multipart", (HEAD[:20],), 500),
        ("photo", (JPEG,), 10),
        ("photo", (), 10),
    ],
)
def test_a_body_that_breaks_off_leaves_nothing(
    server: Server,
    kind: str,
    pieces: tuple[bytes, ...],
    missing: int,
    then: Literal["half-close", "hang up"],
    rows: Callable[[str], int],
    objects: Callable[[], list[Path]],
) -> None:
    length = sum(map(len, pieces)) + missing
    media = TYPE if kind == "multipart" else "image/jpeg"
    head = f"POST /v1/jobs HTTP/1.1\nHost: x\nConnection: close\nAuthorization: Bearer {server.key}\n"
    head += f"Idempotency-Key: once\nContent-Type: {media}\nContent-Length: {length}"
    answer = server.raw(head, *pieces, then=then)
    assert not answer.startswith(b"HTTP/1.1 2")
    # The broken request gives its key back, and the one that is sent again goes through.
    end = time.monotonic() + 30
    while (found := server.ask("POST", "/v1/jobs", JPEG, Content_Type="image/jpeg", Idempotency_Key="once"))[0] == 409:
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.1)
    assert found[0] == 202
    assert (rows("job"), rows("image"), len(objects())) == (1, 1, 1)


def test_a_chunked_body_that_breaks_off_leaves_nothing(server: Server, nothing_half_done: Callable[[], None]) -> None:
    head = f"POST /v1/jobs HTTP/1.1\nHost: x\nConnection: close\nAuthorization: Bearer {server.key}\n"
    head += f"Content-Type: {TYPE}\nTransfer-Encoding: chunked"
    server.raw(head, b"%x\r\n" % len(HEAD), HEAD, b"\r\n", then="half-close")
    end = time.monotonic() + 30
    while '"route": "/v1/jobs"' not in server.log.read_text():
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.05)
    nothing_half_done()


def test_a_body_without_length_is_no_photo(server: Server, nothing_half_done: Callable[[], None]) -> None:
    head = f"POST /v1/jobs HTTP/1.1\nHost: x\nConnection: close\nAuthorization: Bearer {server.key}\n"
    answer = server.raw(head + "Content-Type: image/jpeg")
    assert answer.startswith(b"HTTP/1.1 411"), answer
    nothing_half_done()


def test_a_refused_upload_hears_why(server: Server) -> None:
    """A client that sends its whole body first must find the answer, not a reset connection."""
    status, _, body = server.ask("POST", "/v1/jobs?priority=urgent", b"x" * 4_000_000, Content_Type="image/jpeg")
    assert status == 422, body


def test_the_log_names_routes_and_no_secrets(server: Server, worker_db: Database) -> None:
    head = HEAD.replace(b"a.jpg", b"Jane-Doe.jpg")
    _, _, body = server.ask("POST", "/v1/jobs", head + JPEG + END, Content_Type=TYPE)
    job = json.loads(body)["id"]
    server.ask("GET", f"/v1/jobs/{job}?token=hush")
    log = server.log.read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    told = [line for line in lines if line.get("event") == "request"]
    assert {"POST", "GET"} <= {line["method"] for line in told}
    assert "/v1/jobs/<job>" in {line["route"] for line in told}
    assert all(line["request_id"] and line["status"] for line in told)
    for secret in ("Jane-Doe", job, "hush", server.key):
        assert secret not in log
