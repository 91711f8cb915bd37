"""``poxvisio events`` against a service that answers, breaks off and refuses as it is told to."""

import json
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from click.testing import CliRunner

from cli import events
from cli.events import followed
from cli.main import main
from cli.service import Service
from cli.transport import ServiceAway, ServiceRefused
from tests.unit.cli.test_service import CLOSE, Scripted

KEY = f"pxv_{'1' * 32}_{'2' * 48}"
STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    found = Scripted()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that were made; nobody waits here."""
    pauses: list[float] = []
    monkeypatch.setattr("cli.events.time.sleep", pauses.append)
    return pauses


def event(number: int, **data: Any) -> dict[str, Any]:
    told = {"id": f"evt_{number}", "sequence": number, "job": f"job_{number}", **data}
    return {"type": "job.completed", "timestamp": "2026-11-23T09:51:05.123456Z", "data": told}


def stream(*numbers: int, cut: str = "") -> bytes:
    parts = [f"id: {n}\nevent: job.completed\ndata: {json.dumps(event(n))}\n\n" for n in numbers]
    return (": research use only\nretry: 1\n\n" + "".join(parts) + cut).encode()


def run(scripted: Scripted, *arguments: str) -> Any:
    return CliRunner().invoke(main, ["events", "--url", scripted.url, "--key", KEY, *arguments])


def test_what_happened_is_printed_to_the_end_of_the_feed(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.service._PAGE", 2)
    pages = [{"events": [event(3), event(4)], "next": 4}, {"events": [event(5)], "next": 5}]
    scripted.script = [(200, {}, page) for page in pages]
    shown = run(scripted, "--after", "2")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[0] == "3         2026-11-23T09:51:05  job.completed     job_3"
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["3", "4", "5"]
    assert [path for _, path, _, _ in scripted.asked] == [f"/v1/events?after={after}&limit=2" for after in (2, 4)]


def test_as_json_each_event_is_a_line(scripted: Scripted) -> None:
    scripted.script = [(200, {}, {"events": [event(1, name="ü")], "next": 1})]
    assert [json.loads(line) for line in run(scripted, "--json").stdout.splitlines()] == [event(1, name="ü")]


def test_following_goes_on_behind_the_last_event_however_the_line_breaks(
    scripted: Scripted, patient: list[float]
) -> None:
    busy = {"Retry-After": "7"}
    scripted.script = [
        (200, STREAM, stream(1, 2)),  # ended politely
        (200, STREAM, stream(3, cut='id: 4\ndata: {"half')),
        CLOSE,
        (503, busy, {"title": "full", "detail": "no place"}),
        (200, {**STREAM, "Content-Length": "9999"}, stream(3, 4)),  # broken off, with one that was told before
        (200, STREAM, stream(5)),
    ]
    with Service(scripted.url, KEY) as service:
        told = list(islice(followed(service, 0), 5))
    assert told == [event(n) for n in (1, 2, 3, 4, 5)]
    last = [headers["last-event-id"] for _, _, headers, _ in scripted.asked]
    assert last == ["0", "2", "3", "3", "3", "4"]
    assert {headers["accept"] for _, _, headers, _ in scripted.asked} == {"text/event-stream"}
    assert 7 <= patient[3] <= 7 * 1.2


def test_without_a_number_the_service_says_where_the_feed_begins(scripted: Scripted) -> None:
    scripted.script = [(200, {}, {"events": [event(5)], "next": 5}), (200, STREAM, stream(6, 7))]
    assert run(scripted).exit_code == 0
    with Service(scripted.url, KEY) as service:
        assert list(islice(followed(service, None), 2)) == [event(6), event(7)]
    page, opened = scripted.asked
    assert (page[1], opened[1]) == ("/v1/events?limit=500", "/v1/events")
    assert "last-event-id" not in opened[2]


@pytest.mark.parametrize("more", [(), ("--follow",)])
def test_events_that_are_deleted_are_said_to_be(scripted: Scripted, more: tuple[str, ...]) -> None:
    scripted.script = [(410, {}, {"title": "gone", "detail": "Events 3 to 8 are deleted.", "oldest": 9})]
    shown = run(scripted, "--after", "2", *more)
    assert shown.exit_code == 3
    assert "Events 3 to 8 are deleted." in shown.stderr


def test_following_a_service_that_never_was_there_ends_soon(scripted: Scripted, patient: list[float]) -> None:
    scripted.script = [CLOSE]
    with Service(scripted.url, KEY) as service, pytest.raises(ServiceAway):
        next(followed(service, 0))
    assert len(scripted.asked) == len(patient) + 1 == 3


@pytest.mark.parametrize(
    "answer", [(401, {}, {"title": "no", "detail": "no key"}), (200, {"Content-Type": "text/html"}, "<html>")]
)
def test_following_ends_where_it_is_refused(scripted: Scripted, answer: tuple[int, dict[str, str], Any]) -> None:
    scripted.script = [answer]
    with Service(scripted.url, KEY) as service, pytest.raises(ServiceRefused):
        next(followed(service, 0))


def test_a_name_of_others_does_not_steer_the_terminal() -> None:
    assert "\x1b" not in events.event_line(event(1) | {"type": "\x1b[2J"})
