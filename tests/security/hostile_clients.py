"""Clients that mean harm, on raw sockets: they hold, drip or break their connections until they are told to end."""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.integration.web.conftest import JPEG

DRIP_SECONDS = 0.2


@dataclass
class Hostile:
    """What hostile clients share: whom to harm, with which key, and when to end."""

    port: int
    key: str
    seed: int
    ended: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[str, bytes]] = field(default_factory=list)
    connections: int = 0

    def head(self, request: str = "POST /v1/jobs", *lines: str, key: bool = True) -> bytes:
        fixed = [f"{request} HTTP/1.1", "Host: x", *([f"Authorization: Bearer {self.key}"] if key else [])]
        return "\r\n".join([*fixed, *lines]).encode("latin-1") + b"\r\n\r\n"

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            self.connections += 1
            yield connection

    def send(self, what: str, data: bytes) -> bytes:
        """Send bytes that are no request, or none that is whole, and keep what comes back within a moment."""
        answer = b""
        with contextlib.suppress(OSError), self.connected() as connection:
            connection.sendall(data)
            connection.settimeout(2.0)
            while piece := connection.recv(65536):
                answer += piece
        self.answers.append((what, answer))
        return answer


def hold(hostile: Hostile, count: int, first: bytes, drip: Callable[[], bytes]) -> None:
    """Open so many connections, send the same on each, then drip something on all of them until the end."""
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            with contextlib.suppress(OSError):
                opened.append(socket.create_connection(("127.0.0.1", hostile.port), timeout=30))
                opened[-1].sendall(first)
        hostile.connections += len(opened)
        while not hostile.ended.wait(DRIP_SECONDS):
            piece = drip()
            for connection in opened:
                with contextlib.suppress(OSError):
                    if piece:
                        connection.send(piece, socket.MSG_DONTWAIT)
    finally:
        for connection in opened:
            connection.close()


def slow_headers(hostile: Hostile, count: int) -> None:
    hold(hostile, count, b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\n", lambda: b"x: y\r\n")


def idle(hostile: Hostile, count: int) -> None:
    hold(hostile, count, b"", lambda: b"")


def dripped_bodies(hostile: Hostile, count: int) -> None:
    head = hostile.head("POST /v1/jobs", "Content-Type: image/jpeg", "Content-Length: 9999")
    hold(hostile, count, head, lambda: b"x")


def dripped_documents(hostile: Hostile, count: int) -> None:
    head = hostile.head("POST /v1/webhooks", "Content-Type: application/json", "Content-Length: 9999")
    hold(hostile, count, head, lambda: b" ")


def refused_bodies(hostile: Hostile, count: int) -> None:
    """Bodies of requests that are refused before, and read on so that the client hears of it."""
    head = hostile.head("POST /v1/jobs?priority=urgent", "Content-Type: image/jpeg", "Content-Length: 9999")
    hold(hostile, count, head, lambda: b"x")


def silent_bodies(hostile: Hostile, count: int) -> None:
    chunked = ("Content-Type: image/jpeg", "Transfer-Encoding: chunked")
    hold(hostile, count, hostile.head("POST /v1/jobs", *chunked) + b"4\r\n\xff\xd8\xff\xe0\r\n", lambda: b"")


def nobodys_bodies(hostile: Hostile, count: int) -> None:
    """Bodies without a key: nobody may hold anything with these."""
    head = hostile.head("POST /v1/jobs", "Content-Type: image/jpeg", "Content-Length: 9999", key=False)
    hold(hostile, count, head, lambda: b"x")


def never_read(hostile: Hostile, path: str, count: int) -> list[socket.socket]:
    """Ask for something large so many times and take nothing of it; return the connections, which the caller closes."""
    opened = []
    for _ in range(count):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hostile.port))
        connection.sendall(hostile.head(f"GET {path}"))
        opened.append(connection)
    return opened


def broken_off(hostile: Hostile, count: int) -> None:
    """Send half a body and reset the connection, again and again."""
    head = hostile.head("POST /v1/jobs", "Content-Type: image/jpeg", "Content-Length: 100000")
    for _ in range(count):
        if hostile.ended.is_set():
            return
        with contextlib.suppress(OSError), hostile.connected() as connection:
            connection.sendall(head + JPEG + b"x" * 50_000)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def malformed(hostile: Hostile) -> dict[str, bytes]:
    """Return requests that contradict themselves, by what is wrong with each; none of them may become a job."""
    jpeg, chunked = "Content-Type: image/jpeg", "Transfer-Encoding: chunked"
    smuggled = hostile.head("POST /v1/jobs", jpeg, f"Content-Length: {len(JPEG)}") + JPEG
    chance = random.Random(hostile.seed)
    return {
        "length -1": hostile.head("POST /v1/jobs", jpeg, "Content-Length: -1") + JPEG,
        "length of words": hostile.head("POST /v1/jobs", jpeg, "Content-Length: many") + JPEG,
        "length with a sign": hostile.head("POST /v1/jobs", jpeg, f"Content-Length: +{len(JPEG)}") + JPEG,
        "length beyond all": hostile.head("POST /v1/jobs", jpeg, f"Content-Length: {2**70}") + JPEG,
        "two lengths": hostile.head("POST /v1/jobs", jpeg, "Content-Length: 5", "Content-Length: 6") + JPEG,
        "more than allowed": hostile.head("POST /v1/jobs", jpeg, f"Content-Length: {11 << 30}") + JPEG,
        "chunk of no size": hostile.head("POST /v1/jobs", jpeg, chunked) + b"zz\r\n" + JPEG,
        "chunk below nothing": hostile.head("POST /v1/jobs", jpeg, chunked) + b"-5\r\n" + JPEG,
        "chunk beyond all": hostile.head("POST /v1/jobs", jpeg, chunked) + b"f" * 40 + b"\r\n" + JPEG,
        "chunk without an end": hostile.head("POST /v1/jobs", jpeg, chunked) + b"5\r\nabcdefghij\r\n0\r\n\r\n",
        "chunk with a long tail": hostile.head("POST /v1/jobs", jpeg, chunked) + b"5;" + b"a" * 200_000 + b"\r\nabcde",
        "chunks of noise": hostile.head("POST /v1/jobs", jpeg, chunked) + chance.randbytes(5000),
        "an unknown coding": hostile.head("POST /v1/jobs", jpeg, "Transfer-Encoding: gzip, xchunked") + JPEG,
        "many headers": hostile.head("GET /v1/jobs", *(f"X-{n}: y" for n in range(20_000))),
        "a long header": hostile.head("GET /v1/jobs", "X-Long: " + "y" * 2_000_000),
        "a long address": hostile.head("GET /v1/jobs?cursor=" + "y" * 1_000_000),
        "no address": b"GET\r\n\r\n",
        "no HTTP": chance.randbytes(3000) + b"\r\n\r\n",
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500),
        "a header with a NUL": hostile.head("GET /v1/jobs", "X-Odd: a\x00b"),
        "a folded header": hostile.head("GET /v1/jobs", "X-Odd: a", " b"),
        "a request inside a refused one": hostile.head("GET /v1/nothing", "Content-Length: 3") + b"abc" + smuggled[:40],
    }


def pipelined(hostile: Hostile, count: int) -> int:
    """Send so many requests at once on one connection; return how many answers come, in their order."""
    numbers = [f"X-Request-Id: request-{n:06d}" for n in range(count)]
    requests = b"".join(hostile.head("GET /problems/not-found", number) for number in numbers)
    with hostile.connected() as connection:
        connection.sendall(requests)
        received, end = b"", time.monotonic() + 60
        while received.count(b"HTTP/1.1 200") < count and time.monotonic() < end:
            piece = connection.recv(1 << 20)
            if not piece:
                break
            received += piece
    places = [received.lower().find(number.lower().encode()) for number in numbers]
    assert places == sorted(places)
    return sum(place >= 0 for place in places)
