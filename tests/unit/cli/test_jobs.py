"""``poxvisio jobs list``: what its options ask the service for."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest
from click.testing import CliRunner

from cli.main import main

KEY = f"pxv_{'0' * 32}_{'0' * 48}"


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """Return the addresses that a service without jobs is asked for; the first is its own."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            body = json.dumps({"jobs": [], "next": None}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    seen.append(f"http://127.0.0.1:{server.server_port}")
    yield seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_condition_reaches_the_service(asked: list[str]) -> None:
    given = ["--state", "queued", "--text", "IMG 1", "--sent-by", f"key_{'1' * 32}", "--model", "demo", "--limit", "7"]
    times = ["--created-after", "2026-01-31T12:00:00+02:00", "--created-before", "2026-02-01T00:00:00Z"]
    ended = CliRunner().invoke(main, ["jobs", "list", *given, *times, "--url", asked[0], "--key", KEY])
    assert ended.exit_code == 0, ended.output
    assert dict(parse_qsl(urlsplit(asked[1]).query)) == {
        "state": "queued",
        "text": "IMG 1",
        "key": f"key_{'1' * 32}",
        "model": "demo",
        "limit": "7",
        "created_after": "2026-01-31T10:00:00+00:00",
        "created_before": "2026-02-01T00:00:00+00:00",
    }


def test_without_conditions_the_newest_are_asked_for(asked: list[str]) -> None:
    assert CliRunner().invoke(main, ["jobs", "--url", asked[0], "--key", KEY]).exit_code != 0  # options go behind list
    assert CliRunner().invoke(main, ["jobs", "list", "--url", asked[0], "--key", KEY]).exit_code == 0
    assert parse_qsl(urlsplit(asked[1]).query) == [("limit", "20")]
