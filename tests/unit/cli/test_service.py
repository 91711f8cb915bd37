"""The client against a server that misbehaves as it is told to."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli.multipart import PhotoForm
from cli.photos import Photo, find_photos
from cli.service import Service, WaitedTooLong
from cli.transport import ServiceAway, ServiceRefused

Answer = tuple[int, dict[str, str], Any] | None
CLOSE: Answer = None  # hang up without an answer
JOB = {"id": "job_1", "state": "running", "counts": {"waiting": 1, "classified": 1}}
CLOSED = {"id": "job_1", "state": "completed", "counts": {"waiting": 0, "classified": 2}}


class Scripted:
    """Answers requests in the order of its script, the last line for ever, and keeps what it was asked."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                scripted.asked.append((self.command, self.path, headers, body))
                answer = scripted.script[0]
                del scripted.script[: len(scripted.script) > 1]
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, told = answer
                payload = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(payload)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_POST = _answer  # noqa: N815 - http.server's names

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    found = Scripted()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


@pytest.fixture
def service(scripted: Scripted) -> Iterator[Service]:
    with Service(scripted.url, "pxv_1_2", patience=2) as found:
        yield found


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    return find_photos([str(tmp_path)])


def test_a_key_is_sent_as_a_bearer_token(scripted: Scripted, service: Service) -> None:
    scripted.script = [(200, {}, JOB)]
    assert service.job("job_1") == JOB
    assert scripted.asked[0][2]["authorization"] == "Bearer pxv_1_2"


def test_a_lost_connection_is_tried_again_with_the_same_key_and_body(
    scripted: Scripted, service: Service, photos: list[Photo]
) -> None:
    scripted.script = [CLOSE, CLOSE, (202, {}, JOB)]
    assert service.submit(PhotoForm({}, photos)) == JOB
    assert len({asked[2]["idempotency-key"] for asked in scripted.asked}) == 1
    assert len({asked[3] for asked in scripted.asked}) == 1
    assert b"photo" in scripted.asked[2][3]


def test_each_submission_has_a_key_of_its_own(scripted: Scripted, service: Service, photos: list[Photo]) -> None:
    scripted.script = [(202, {}, JOB), (202, {}, JOB)]
    for _ in range(2):
        service.submit(PhotoForm({}, photos))
    assert len({asked[2]["idempotency-key"] for asked in scripted.asked}) == 2


@pytest.mark.parametrize("status", [409, 429, 503])
def test_a_request_that_may_be_sent_again_is(scripted: Scripted, service: Service, status: int) -> None:
    scripted.script = [(status, {"Retry-After": "0"}, {}), (200, {}, JOB)]
    assert service.job("job_1") == JOB


def test_a_service_that_never_was_there_is_given_up_soon(scripted: Scripted, service: Service) -> None:
    scripted.script = [CLOSE]
    with pytest.raises(ServiceAway, match="out of reach"):
        service.job("job_1")
    assert len(scripted.asked) == 3


def test_a_pause_longer_than_all_patience_is_not_begun(scripted: Scripted, service: Service) -> None:
    scripted.script = [(503, {"Retry-After": "3600"}, {"title": "closed"})]
    with pytest.raises(ServiceAway, match="503 closed"):
        service.job("job_1")


def test_a_service_that_stays_away_is_given_up(scripted: Scripted, service: Service) -> None:
    scripted.script = [(200, {}, JOB), CLOSE]
    service.job("job_1")
    with pytest.raises(ServiceAway, match="out of reach"):
        service.job("job_1")


def test_a_service_without_capacity_is_given_up(scripted: Scripted, service: Service) -> None:
    scripted.script = [(503, {"Retry-After": "1"}, {"title": "busy", "detail": "Try later."})]
    with pytest.raises(ServiceAway, match=r"503 Try later\."):
        service.job("job_1")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"title": "No", "detail": "There is nothing."}, r"404 There is nothing\."),
        ({"title": "No"}, "404 No"),
        (
            {"title": "No", "detail": "Wrong.", "errors": [{"detail": "is twice", "pointer": "#/photos/1"}]},
            r"404 Wrong\. \(#/photos/1 is twice\)",
        ),
        (b"<html>", "404 Not Found"),
        ([], "404 Not Found"),
    ],
)
def test_a_refusal_is_one_line(scripted: Scripted, service: Service, body: Any, told: str) -> None:
    scripted.script = [(404, {}, body)]
    with pytest.raises(ServiceRefused, match=told):
        service.job("job_1")


@pytest.mark.parametrize("answer", [(200, {}, b"<html>"), (200, {}, []), (302, {"Location": "/login"}, b"")])
def test_what_is_no_poxvisio_service_is_told(scripted: Scripted, service: Service, answer: Answer) -> None:
    scripted.script = [answer]
    with pytest.raises(ServiceRefused, match=r"is (this|it) a PoxVisio service"):
        service.job("job_1")


def test_waiting_polls_until_the_job_is_closed_and_hears_of_changes(scripted: Scripted, service: Service) -> None:
    scripted.script = [
        (200, {"ETag": 'W/"1"'}, JOB),
        (304, {"ETag": 'W/"1"', "Retry-After": "0"}, b""),
        CLOSE,
        (200, {"ETag": 'W/"2"'}, CLOSED),
    ]
    told: list[dict[str, Any]] = []
    assert service.wait("job_1", told.append) == CLOSED
    assert told == [JOB, CLOSED]
    assert "prefer" not in scripted.asked[0][2]
    assert scripted.asked[1][2]["if-none-match"] == 'W/"1"'
    assert scripted.asked[1][2]["prefer"] == "wait=20"


def test_waiting_ends_when_its_time_is_over(scripted: Scripted, service: Service) -> None:
    scripted.script = [(200, {"ETag": 'W/"1"'}, JOB)]
    with pytest.raises(WaitedTooLong, match="poxvisio jobs wait job_1"):
        service.wait("job_1", timeout=0)


@pytest.mark.parametrize(
    ("read", "lines"),
    [
        (lambda service: list(service.results("job_1")), [{"custom_id": "a\u2028b"}, {"custom_id": "c"}]),
        (lambda service: list(service.results_csv("job_1")), ['{"custom_id": "a\u2028b"}', '{"custom_id": "c"}']),
    ],
)
def test_only_a_newline_ends_a_line_of_results(
    scripted: Scripted, service: Service, read: Callable[[Service], list[Any]], lines: list[Any]
) -> None:
    scripted.script = [(200, {}, '{"custom_id": "a\u2028b"}\n{"custom_id": "c"}\n'.encode())]
    assert read(service) == lines


def test_results_of_an_unknown_job_are_a_refusal(scripted: Scripted, service: Service) -> None:
    scripted.script = [(404, {}, {"title": "No", "detail": "There is nothing."})]
    with pytest.raises(ServiceRefused, match=r"404 There is nothing\."):
        list(service.results("job_1"))


def test_results_that_break_off_are_an_error_after_what_came(scripted: Scripted) -> None:
    cut = (
        b'{"image": "img_1", "outcome": "classified"}\n{"type": "about:blank", "status": 503, "detail": "ask again"}\n'
    )
    scripted.script = [(200, {"Content-Type": "application/x-ndjson"}, cut)]
    rows = Service(scripted.url, "key").results("job_1")
    assert next(rows)["image"] == "img_1"
    with pytest.raises(ServiceAway, match="ask again"):
        next(rows)


def test_a_table_that_breaks_off_is_an_error_too(scripted: Scripted) -> None:
    scripted.script = [(200, {"Content-Type": "text/csv"}, b"ordinal,image\nINCOMPLETE: the database went away\n")]
    with pytest.raises(ServiceAway, match="INCOMPLETE"):
        list(Service(scripted.url, "key").results_csv("job_1"))


def test_a_file_that_breaks_off_is_an_error_after_what_came(scripted: Scripted, service: Service) -> None:
    scripted.script = [(200, {}, b"PAR1 a row group")]
    pieces = service.results_parquet("job_1")
    assert next(pieces) == b"PAR1 a row group"
    with pytest.raises(ServiceAway, match="broke off"):
        next(pieces)


def test_a_list_goes_on_through_short_pages_with_the_same_conditions(scripted: Scripted, service: Service) -> None:
    scripted.script = [
        (200, {}, {"jobs": [JOB], "next": "a"}),
        (200, {}, {"jobs": [], "next": "b"}),
        (200, {}, {"jobs": [JOB], "next": "c"}),
    ]
    assert service.jobs({"text": "IMG 1"}, limit=2) == [JOB, JOB]
    asked = [path.partition("?")[2] for _, path, _, _ in scripted.asked]
    assert asked == ["text=IMG+1&limit=2", "text=IMG+1&limit=1&cursor=a", "text=IMG+1&limit=1&cursor=b"]
