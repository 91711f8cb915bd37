"""Receivers of webhooks of every kind, good and bad, on loopback; each behaviour has a path of its own."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Final

from tests.chaos.listening import Handler, Listening, reset

Behaviour = Callable[["Receivers", BaseHTTPRequestHandler, int], None]


def _answer(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {"content-length": "0", **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.flush()


def good(_: "Receivers", request: BaseHTTPRequestHandler, __: int) -> None:
    _answer(request, 204)


def resets_after_success(_: "Receivers", request: BaseHTTPRequestHandler, time_: int) -> None:
    """Answer 200 and reset the connection before the body is through; the third time be good."""
    if time_ >= 3:
        _answer(request, 200)
        return
    _answer(request, 200, {"content-length": "1000"})
    request.wfile.write(b"half")
    request.wfile.flush()
    reset(request)


def resets_without_answer(_: "Receivers", request: BaseHTTPRequestHandler, time_: int) -> None:
    """Take the message and reset the connection; the third time be good."""
    if time_ >= 3:
        _answer(request, 200)
    else:
        reset(request)


def stalls(receivers: "Receivers", request: BaseHTTPRequestHandler, _: int) -> None:
    receivers.ending.wait(60)


def drips(receivers: "Receivers", request: BaseHTTPRequestHandler, _: int) -> None:
    receivers.drip(request)


def floods(receivers: "Receivers", request: BaseHTTPRequestHandler, _: int) -> None:
    receivers.flood(request)


def redirects(receivers: "Receivers", request: BaseHTTPRequestHandler, _: int) -> None:
    _answer(request, 302, {"location": receivers.url("good")})


def garbage(_: "Receivers", request: BaseHTTPRequestHandler, __: int) -> None:
    request.wfile.write(b"\x00\x01 no HTTP at all \xff\r\n\r\n")
    request.close_connection = True


def fails(_: "Receivers", request: BaseHTTPRequestHandler, __: int) -> None:
    _answer(request, 500)


def told(receivers: "Receivers", request: BaseHTTPRequestHandler, time_: int) -> None:
    """Fail the first of four messages once, so that it comes again; else be good."""
    _answer(request, 503 if time_ == 1 and len(receivers.ids("told")) % 4 == 1 else 200)


def recovers(_: "Receivers", request: BaseHTTPRequestHandler, time_: int) -> None:
    """Fail with 503 twice, then be good."""
    _answer(request, 200 if time_ >= 3 else 503)


def gone(_: "Receivers", request: BaseHTTPRequestHandler, __: int) -> None:
    _answer(request, 410)


#: Those that take every message in the end, and those that never do.
TAKING: Final[Mapping[str, Behaviour]] = {
    "good": good,
    "recovers": recovers,
    "resets-without-answer": resets_without_answer,
    "resets-after-success": resets_after_success,
}
REFUSING: Final[Mapping[str, Behaviour]] = {
    "stalls": stalls,
    "drips": drips,
    "redirects": redirects,
    "garbage": garbage,
    "fails": fails,
}
OTHERS: Final[Mapping[str, Behaviour]] = {"floods": floods, "gone": gone}
_ALL: Final = {**TAKING, **REFUSING, **OTHERS, "told": told}


class Receivers(Listening):
    """Receivers on one port; ``came`` counts the messages by path and id, ``bodies`` has what they said."""

    def __init__(self) -> None:
        self.came: Counter[tuple[str, str]] = Counter()
        self._bodies: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)
        self._lock = threading.Lock()
        receivers = self

        class Receiving(Handler):
            def do_POST(self) -> None:  # noqa: N802 - http.server's name
                body = self.rfile.read(int(self.headers["content-length"]))
                path = self.path.strip("/")
                with receivers._lock:
                    bodies = receivers._bodies[path, self.headers["webhook-id"]]
                    if body not in bodies:
                        bodies.append(body)
                    receivers.came[path, self.headers["webhook-id"]] += 1
                    times = receivers.came[path, self.headers["webhook-id"]]
                _ALL[path](receivers, self, times)

        super().__init__(Receiving)

    def url(self, behaviour: str) -> str:
        """Return the URL of one behaviour."""
        return f"http://{self.address}/{behaviour}"

    def ids(self, behaviour: str) -> Counter[str]:
        """Return how often each message came there."""
        with self._lock:
            return Counter({name: times for (path, name), times in self.came.items() if path == behaviour})

    def bodies(self, behaviour: str) -> dict[str, list[bytes]]:
        """Return every different body that came there, by the id of its message."""
        with self._lock:
            return {name: list(said) for (path, name), said in self._bodies.items() if path == behaviour}

    def await_ids(self, behaviour: str, wanted: set[str], seconds: float) -> set[str]:
        """Wait for messages, and return those that did not come."""
        end = time.monotonic() + seconds
        while (missing := wanted - set(self.ids(behaviour))) and time.monotonic() < end:
            time.sleep(0.1)
        return missing
