"""Servers of photos of every kind, good and bad, on loopback, for lists of addresses."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Final

from tests.chaos.listening import Handler, Listening, reset

Behaviour = Callable[["Senders", BaseHTTPRequestHandler, bytes, int], None]


def _send(request: BaseHTTPRequestHandler, photo: bytes, cut: int | None = None) -> None:
    request.send_response(200)
    request.send_header("content-type", "image/jpeg")
    request.send_header("content-length", str(len(photo)))
    request.end_headers()
    request.wfile.write(photo[:cut])
    request.wfile.flush()


def _refuse(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {"content-length": "0", **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()


def good(_: "Senders", request: BaseHTTPRequestHandler, photo: bytes, __: int) -> None:
    _send(request, photo)


def busy(_: "Senders", request: BaseHTTPRequestHandler, photo: bytes, time: int) -> None:
    """Answer 503 once, then be good."""
    _refuse(request, 503, {"retry-after": "1"}) if time < 2 else _send(request, photo)


def breaks_off(_: "Senders", request: BaseHTTPRequestHandler, photo: bytes, time: int) -> None:
    """Reset the connection in the middle of the photo once, then be good."""
    if time < 2:
        _send(request, photo, len(photo) // 2)
        reset(request)
    else:
        _send(request, photo)


def cut(_: "Senders", request: BaseHTTPRequestHandler, photo: bytes, time: int) -> None:
    """End in order in the middle of the photo once, then be good: what came is not the photo."""
    _send(request, photo, len(photo) // 2 if time < 2 else None)
    request.close_connection = True


def stalls(senders: "Senders", request: BaseHTTPRequestHandler, photo: bytes, _: int) -> None:
    """Send half a photo, then nothing."""
    _send(request, photo, len(photo) // 2)
    senders.ending.wait(60)


def drips(senders: "Senders", request: BaseHTTPRequestHandler, _: bytes, __: int) -> None:
    senders.drip(request)


def garbage(_: "Senders", request: BaseHTTPRequestHandler, __: bytes, ___: int) -> None:
    request.wfile.write(b"\x00\x01 no HTTP at all \xff\r\n\r\n")
    request.close_connection = True


def fails(_: "Senders", request: BaseHTTPRequestHandler, __: bytes, ___: int) -> None:
    _refuse(request, 500)


def redirects(senders: "Senders", request: BaseHTTPRequestHandler, _: bytes, __: int) -> None:
    _refuse(request, 302, {"location": senders.url("good", 0)})


def missing(_: "Senders", request: BaseHTTPRequestHandler, __: bytes, ___: int) -> None:
    _refuse(request, 404)


def floods(senders: "Senders", request: BaseHTTPRequestHandler, _: bytes, __: int) -> None:
    senders.flood(request)


#: Those that give the photo in the end; those that never do, though another try might help; those that say no.
GIVING: Final[Mapping[str, Behaviour]] = {"good": good, "busy": busy, "breaks-off": breaks_off, "cut": cut}
FAILING: Final[Mapping[str, Behaviour]] = {"stalls": stalls, "drips": drips, "garbage": garbage, "fails": fails}
REFUSING: Final[Mapping[str, tuple[Behaviour, str]]] = {
    "redirects": (redirects, "url_redirects"),
    "missing": (missing, "url_refused"),
    "floods": (floods, "too_large"),
}
_ALL: Final = {**GIVING, **FAILING, **{name: behaviour for name, (behaviour, _) in REFUSING.items()}}


class Senders(Listening):
    """The photos on one port; ``asked`` counts how often each address was asked for its photo."""

    def __init__(self, photos: Sequence[bytes]) -> None:
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        senders = self

        class Sending(Handler):
            def do_GET(self) -> None:  # noqa: N802 - http.server's name
                with senders._lock:
                    senders.asked[self.path] += 1
                    times = senders.asked[self.path]
                behaviour, place, *_ = self.path.strip("/").split("/")
                _ALL[behaviour](senders, self, photos[int(place)], times)

        super().__init__(Sending)

    def url(self, behaviour: str, place: int, key: str = "") -> str:
        """Return the address of one photo; ``key`` tells it from the same photo's other addresses."""
        return f"http://{self.address}/{behaviour}/{place}/{key}"
