"""Clients over HTTP in a process of their own: each sends one photo after the other and waits for its answer."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from benchmarks.pictures import kind_named, photos
from cli.embedded.ports import HOST

# A request without an answer after so long is given up; a client of ours asks again where it was told to look.
PATIENCE = 60.0
_WAIT = {"Prefer": "wait=30"}
_CLOSED = ("completed", "stopped", "cancelled", "expired")
_BOUNDARY = "one-photo"


class Unanswered(Exception):
    """The service gave no answer to a photo."""


class Clients:
    """Many clients; each question says how many, and for how many photos or seconds together.

    ``dialect`` is a name of ``DIALECTS``: how a service wants to be asked. The answer to a question is
    ``{"answered": [seconds of each photo], "unanswered": count, "seconds": of all}``.
    """

    def __init__(self, port: int, dialect: str, kind: str, different: int, key: str = "") -> None:
        self._port, self._key = port, key
        self._ask = DIALECTS[dialect]
        self._photos = photos(kind_named(kind), different)

    def __call__(self, clients: int, photos: int = 0, seconds: float = 0.0) -> dict[str, Any]:
        """Send so many photos, or for so long; every photo begun is waited for."""
        began = time.monotonic()
        turns = iter(range(photos)) if photos else None
        end = began + seconds
        lock = threading.Lock()
        took: list[float] = []
        lost: list[str] = []

        def next_turn() -> bool:
            if turns is None:
                return time.monotonic() < end
            with lock:
                return next(turns, None) is not None

        def client(number: int) -> None:
            connection = Connection(self._port, self._key)
            turn = number
            while next_turn():
                began = time.monotonic()
                try:
                    self._ask(connection, self._photos[turn % len(self._photos)])
                    took.append(time.monotonic() - began)
                except (Unanswered, OSError, http.client.HTTPException, ValueError) as error:
                    lost.append(f"{type(error).__name__}: {error}"[:200])
                    connection.close()
                    time.sleep(0.05)  # a service that is away refuses at once
                turn += 1
            connection.close()

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {
            "answered": took,
            "unanswered": len(lost),
            "why": sorted(set(lost))[:3],
            "seconds": time.monotonic() - began,
        }


class Connection:
    """A connection that is kept open, and opened anew where it broke."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._open: http.client.HTTPConnection | None = None

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return status, headers and body."""
        if self._open is None:
            self._open = http.client.HTTPConnection(HOST, self._port, timeout=PATIENCE)
        self._open.request(method, path, body, {**self._headers, **(headers or {})})
        answer = self._open.getresponse()
        said = answer.read()
        if answer.will_close:
            self.close()
        return answer.status, answer.headers, said

    def close(self) -> None:
        """Close what is open."""
        if self._open is not None:
            self._open.close()
            self._open = None


def _ours(connection: Connection, photo: bytes) -> None:
    """Ask for the answer itself; where it does not come in time, follow the job as the 202 says."""
    status, headers, said = connection.ask("POST", "/v1/jobs", photo, {"Content-Type": "image/jpeg", **_WAIT})
    if status == HTTPStatus.OK:
        _check(json.loads(said).get("outcome"))
        return
    if status != HTTPStatus.ACCEPTED:
        raise Unanswered(f"{status}: {said[:200]!r}")
    path = "/v1/jobs/" + json.loads(said)["id"]
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        status, headers, said = connection.ask("GET", path, headers=_WAIT)
        if status == HTTPStatus.OK and json.loads(said)["state"] in _CLOSED:
            status, _, said = connection.ask("GET", f"{path}/results")
            _check(json.loads(said)["results"][0]["outcome"])
            return
        time.sleep(float(headers.get("Retry-After") or 0))
    raise Unanswered("the job does not close")


def _raw(path: str) -> Callable[[Connection, bytes], None]:
    """The photo is the body."""

    def ask(connection: Connection, photo: bytes) -> None:
        _read(*connection.ask("POST", path, photo, {"Content-Type": "image/jpeg"}))

    return ask


def _form(path: str) -> Callable[[Connection, bytes], None]:
    """The photo is a part of a form."""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="photo.jpg"\r\n'
    opening = f"{head}Content-Type: image/jpeg\r\n\r\n".encode()
    closing = f"\r\n--{_BOUNDARY}--\r\n".encode()

    def ask(connection: Connection, photo: bytes) -> None:
        kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        _read(*connection.ask("POST", path, opening + photo + closing, kind))

    return ask


def _read(status: int, _: http.client.HTTPMessage, said: bytes) -> None:
    if status != HTTPStatus.OK:
        raise Unanswered(f"{status}: {said[:200]!r}")
    answer = json.loads(said)
    _check((answer[0] if isinstance(answer, list) else answer).get("outcome"))


def _check(outcome: object) -> None:
    if outcome not in ("classified", "abstained"):
        raise Unanswered(f"the network did not see the photo: {outcome}")


DIALECTS: dict[str, Callable[[Connection, bytes], None]] = {
    "poxvisio": _ours,
    "bentoml": _form("/classify"),
    "litserve": _form("/predict"),
    "ray": _raw("/"),
}
