"""The way out: hostile destinations are never dialled, and no server can hold an attempt past its deadline."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from shared import addresses
from tests.security.destinations import HOSTILE_V4, HOSTILE_V6, VECTORS
from worker import egress
from worker.egress import AddressInfo, Answer, Egress, Fetched

PUBLIC = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.1", "192.0.1.1", "2606:4700:4700::1111"]


def lookup_of(*answers: str) -> Callable[[str, int], list[AddressInfo]]:
    def lookup(_: str, port: int) -> list[AddressInfo]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (a, port, 0, 0))
            if ":" in a
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in answers
        ]

    return lookup


def send(url: str, **options: Any) -> Answer:
    async def once() -> Answer:
        async with Egress(**{"seconds": 5.0, **options}) as out:
            return await out.post(url, b"{}", {"content-type": "application/json"})

    return asyncio.run(once())


def test_there_are_at_least_sixty_vectors() -> None:
    assert len(set(VECTORS)) >= 60


@pytest.mark.parametrize("url", VECTORS)
def test_a_hostile_destination_is_never_dialled(url: str, dialled: list[Any]) -> None:
    answer = send(url)
    assert dialled == []
    assert (answer.status, answer.error) == (None, "address not allowed")


def test_a_url_that_the_client_cannot_read_is_not_allowed(dialled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "check_url", lambda *_: None)
    assert send("https:///hooks").error == "address not allowed"
    assert dialled == []


@pytest.mark.parametrize("url", [f"https://[{a}]/" if ":" in a else f"https://{a}/" for a in HOSTILE_V4 + HOSTILE_V6])
def test_the_socket_gate_holds_even_where_the_first_gate_is_open(
    url: str, dialled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "check_url", lambda *_: None)
    assert send(url).error == "address not allowed"
    assert dialled == []


@pytest.mark.parametrize("address", HOSTILE_V4 + HOSTILE_V6)
def test_a_name_that_resolves_to_a_hostile_address_is_never_dialled(address: str, dialled: list[Any]) -> None:
    assert send("https://clinic.example/", lookup=lookup_of(address)).error == "address not allowed"
    assert dialled == []


@pytest.mark.parametrize("answers", [("1.1.1.1", "10.0.0.1"), ("127.0.0.1", "1.1.1.1"), ("2606:4700::1", "::1")])
def test_one_private_answer_among_the_records_denies_the_name(answers: tuple[str, ...], dialled: list[Any]) -> None:
    assert send("https://clinic.example/", lookup=lookup_of(*answers)).error == "address not allowed"
    assert dialled == []


def test_a_name_that_changes_its_mind_is_asked_at_every_connect(dialled: list[Any]) -> None:
    answers = iter([lookup_of("1.1.1.1"), lookup_of("127.0.0.1")])

    def lookup(host: str, port: int) -> list[AddressInfo]:
        return next(answers)(host, port)

    async def twice() -> list[Answer]:
        async with Egress(seconds=5, lookup=lookup) as out:
            return [await out.post("https://clinic.example/", b"{}", {}) for _ in range(2)]

    first, second = asyncio.run(twice())
    assert dialled == [("1.1.1.1", 443)]
    assert first.error == "connection refused"
    assert second.error == "address not allowed"


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_dialled_as_it_was_resolved(address: str, dialled: list[Any]) -> None:
    assert send("https://clinic.example:8443/", lookup=lookup_of(address)).error == "connection refused"
    assert [seen[:2] for seen in dialled] == [(address, 8443)]


def test_a_name_that_is_never_answered_holds_one_thread_and_nobody_else(dialled: list[Any]) -> None:
    answered, asked = threading.Event(), []

    def lookup(host: str, port: int) -> list[AddressInfo]:
        asked.append(host)
        if host == "dead.example":
            answered.wait(60)
        return lookup_of("1.1.1.1")(host, port)

    async def many() -> tuple[list[Answer], Answer]:
        async with Egress(seconds=0.5, lookup=lookup) as out:
            dead = [asyncio.create_task(out.post("https://dead.example/", b"{}", {})) for _ in range(200)]
            await asyncio.sleep(0)
            well = await out.post("https://clinic.example/", b"{}", {})
            answers = await asyncio.gather(*dead)
            answered.set()
            return answers, well

    answers, well = asyncio.run(many())
    assert {answer.error for answer in answers} == {"timeout"}
    assert well.error == "connection refused"
    assert sorted(asked) == ["clinic.example", "dead.example"]
    assert dialled == [("1.1.1.1", 443)]


def test_a_name_without_an_address_is_told_apart(dialled: list[Any]) -> None:
    def lookup(_host: str, _port: int) -> list[AddressInfo]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    assert send("https://clinic.example/", lookup=lookup).error == "name not found"
    assert dialled == []


def test_other_ports_and_schemes_are_not_dialled(dialled: list[Any]) -> None:
    for url in ("https://1.1.1.1:22/", "http://1.1.1.1/", "https://clinic.example:6379/", "ftp://1.1.1.1/"):
        assert send(url, lookup=lookup_of("1.1.1.1")).error == "address not allowed"
    assert dialled == []


def test_the_environment_s_proxy_is_not_asked(dialled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:3128")
    send("https://clinic.example/", lookup=lookup_of("1.1.1.1"))
    assert dialled == [("1.1.1.1", 443)]


@pytest.mark.parametrize("pair", ["127.0.0.1:9000", "localhost:9000"])
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9001/",
        "http://127.0.0.2:9000/",
        "https://127.0.0.1/",
        "http://169.254.169.254:9000/",
        "http://10.0.0.1:9000/",
        "http://clinic.example:9000/",
        "https://clinic.example:9000/",
    ],
)
def test_a_loopback_pair_opens_nothing_beside_itself(pair: str, url: str, dialled: list[Any]) -> None:
    assert send(url, loopback=(pair,), lookup=lookup_of("127.0.0.1")).error == "address not allowed"
    assert dialled == []


@pytest.mark.parametrize("answer", ["169.254.169.254", "10.0.0.1", "1.1.1.1"])
def test_a_loopback_name_may_only_mean_loopback(answer: str, dialled: list[Any]) -> None:
    sent = send("http://localhost:9000/", loopback=("localhost:9000",), lookup=lookup_of(answer))
    assert sent.error == "address not allowed"
    assert dialled == []


def test_lists_agree_with_themselves() -> None:
    assert not any(addresses.is_public(address) for address in HOSTILE_V4 + HOSTILE_V6)
    assert all(addresses.is_public(address) for address in PUBLIC)
    assert addresses.is_loopback("::1")
    assert addresses.is_loopback("::ffff:127.0.0.1")


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def receiver(handler: Handler) -> AsyncIterator[int]:
    """A server that is ours to misbehave, on a free port of loopback."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)


def talk(handler: Handler, *, seconds: float = 5.0) -> Answer:
    async def once() -> Answer:
        async with (
            receiver(handler) as port,
            Egress(seconds=seconds, loopback=(f"127.0.0.1:{port}",)) as out,
        ):
            return await out.post(f"http://127.0.0.1:{port}/hooks?a=%2F", b'{"a":1}', {"x-one": "1"})

    return asyncio.run(once())


def replying(data: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()

    return handler


def dripping(first: bytes, drip: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        while True:
            writer.write(drip)
            await writer.drain()
            await asyncio.sleep(0.05)

    return handler


@pytest.fixture(autouse=True)
def _no_long_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "_BODY_SECONDS", 0.3)


def test_the_very_bytes_arrive_with_the_url_as_it_was_given() -> None:
    received = bytearray()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.readuntil(b"\r\n\r\n"))
        received.extend(await reader.readexactly(7))
        writer.write(b"HTTP/1.1 202 Accepted\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok")

    answer = talk(handler)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hooks?a=%2F HTTP/1.1\r\n")
    assert b"x-one: 1" in head
    assert b"traceparent" not in head.lower()
    assert body == b'{"a":1}'
    assert (answer.status, answer.body, answer.error) == (202, b"ok", None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_returned_and_not_followed(status: int) -> None:
    answer = talk(replying(b"HTTP/1.1 %d Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n" % status))
    assert answer.status == status


def test_headers_that_drip_end_at_the_deadline() -> None:
    assert talk(dripping(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), seconds=0.5).error == "timeout"


def test_silence_ends_at_the_deadline() -> None:
    assert talk(dripping(b"", b""), seconds=0.5).error == "timeout"


def test_a_200_whose_body_drips_is_a_200() -> None:
    answer = talk(dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"))
    assert answer.status == 200
    assert set(answer.body) == {ord("x")}


def test_a_200_whose_body_breaks_off_is_a_200() -> None:
    assert talk(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")).status == 200


def test_no_more_than_64_kib_are_read_of_an_endless_answer() -> None:
    answer = talk(dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000000\r\n\r\n", b"x" * 100_000))
    assert (answer.status, len(answer.body)) == (200, 65_536)


def test_compressed_answers_stay_compressed() -> None:
    data = b"\x1f\x8b never inflated"
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data)
    assert talk(replying(head + data)).body == data


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n"])
def test_what_is_no_http_is_no_answer(data: bytes) -> None:
    answer = talk(replying(data))
    assert (answer.status, answer.error) == (None, "no valid HTTP answer")


def test_a_closed_connection_is_lost() -> None:
    assert talk(replying(b"")).error == "connection lost"


def test_what_the_receiver_asks_for_is_read() -> None:
    head = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nwebhook-delivery: disable\r\nContent-Length: 0\r\n\r\n"
    answer = talk(replying(head))
    assert (answer.status, answer.retry_after, answer.instruction) == (429, 7.0, "disable")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None),  # no such zone
        (None, None),
        ("120", 120),
        (" 5 ", 5),
        ("Mon, 23 Nov 2026 03:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 02:00:00 GMT", 0),  # in the past
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert egress._seconds_of(value, datetime(2026, 11, 23, 3, 0, tzinfo=UTC)) == seconds


# Fetching


def fetch_each(urls: list[str], **options: Any) -> list[Fetched]:
    async def all_of_them() -> list[Fetched]:
        async with Egress(**{"seconds": 5.0, **options}) as out:
            return [await out.fetch(url, bytes, 100) for url in urls]

    return asyncio.run(all_of_them())


def fetch(handler: Handler, *, seconds: float = 5.0, limit: int = 100) -> tuple[Fetched, bytes]:
    received = bytearray()

    async def once() -> Fetched:
        async with receiver(handler) as port, Egress(seconds=seconds, loopback=(f"127.0.0.1:{port}",)) as out:
            return await out.fetch(f"http://127.0.0.1:{port}/a.jpg", received.extend, limit)

    return asyncio.run(once()), bytes(received)


def test_a_photo_is_fetched_from_no_hostile_destination(dialled: list[Any]) -> None:
    assert fetch_each(VECTORS) == [Fetched(None, "address not allowed")] * len(VECTORS)
    assert dialled == []


def test_a_photo_is_fetched_from_no_name_that_means_a_hostile_address(dialled: list[Any]) -> None:
    for address in HOSTILE_V4 + HOSTILE_V6:
        found = fetch_each(["https://photos.example/a.jpg"], lookup=lookup_of("1.1.1.1", address))
        assert found == [Fetched(None, "address not allowed")]
    assert dialled == []


def test_a_whole_body_is_fetched() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nphoto"
    assert fetch(replying(whole)) == (Fetched(200, None), b"photo")
    packed = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00\x00"
    assert fetch(replying(packed)) == (Fetched(200, None), b"\x1f\x8b\x08\x00\x00")


@pytest.mark.parametrize("status", [302, 404, 503])
def test_nothing_is_taken_of_another_answer_and_no_redirect_is_followed(status: int) -> None:
    head = f"HTTP/1.1 {status} No\r\nLocation: http://127.0.0.1:1/\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno"
    assert fetch(replying(head.encode())) == (Fetched(status, None, 7.0), b"")


def test_a_body_that_is_too_large_is_left_as_soon_as_it_is_known() -> None:
    announced = b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101
    assert fetch(replying(announced)) == (Fetched(200, "too large"), b"")
    found, received = fetch(dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 30))
    assert (found, len(received) <= 100) == (Fetched(200, "too large"), True)


def test_a_body_that_breaks_off_or_drips_is_no_photo() -> None:
    assert fetch(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf"))[0] == Fetched(None, "connection lost")
    dripped = fetch(dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), seconds=0.5)
    assert dripped[0] == Fetched(None, "timeout")
