"""The proxy does what the tests of links rely on."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import psycopg2
import pytest
import sqlalchemy as sa

from tests.chaos.proxy import Proxy, Statements


@pytest.fixture
def echo() -> Iterator[Proxy]:
    """Return a proxy before a server that sends back what it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while data := connection.recv(1000):
                    connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        with Proxy(server.getsockname()[:2]) as proxy:
            yield proxy
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def through_proxy(owner_url: str) -> Iterator[tuple[Proxy, str]]:
    """Return a proxy before PostgreSQL, and the URL that leads through it."""
    url = sa.make_url(owner_url)
    with Proxy(("127.0.0.1", int(url.port or 0)), reads_sql=True) as proxy:
        yield proxy, url.set(port=proxy.port).render_as_string(hide_password=False)


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 5)


def said(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return client.recv(1000)


def test_it_passes_bytes_and_counts_them(echo: Proxy) -> None:
    with connect(echo) as client:
        assert said(client, b"hello") == b"hello"
    assert echo.passed == 10


def test_cut_resets_old_connections_and_new_ones_until_it_is_mended(echo: Proxy) -> None:
    with connect(echo) as client:
        assert said(client, b"a") == b"a"
        echo.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(OSError, match=r"reset|Broken pipe"), connect(echo) as client:
        for _ in range(100):
            said(client, b"b")
    echo.mend()
    with connect(echo) as client:
        assert said(client, b"c") == b"c"


def test_half_open_takes_everything_and_says_nothing(echo: Proxy) -> None:
    with connect(echo) as old:
        assert said(old, b"a") == b"a"
        echo.half_open()
        with connect(echo) as new:
            for client in (old, new):
                client.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    said(client, b"b")
            echo.mend()
            for client in (old, new):
                client.settimeout(5)
                with pytest.raises(ConnectionResetError):
                    client.recv(1)


def test_statements_are_seen_wherever_the_bytes_are_torn() -> None:
    startup = b"\0\0\0\x08\x04\xd2\x16\x2f" + b"\0\0\0\x09\0\x03\0\0\0"  # asks for TLS, then starts
    query, parse = b"Q\0\0\0\x0bCOMMIT\0", b"P\0\0\0\x0fs1\0BEGIN\0\0\0"
    whole = startup + query + parse
    for size in range(1, len(whole) + 1):
        reader = Statements()
        found = [it for at in range(0, len(whole), size) for it in reader.messages(whole[at : at + size])]
        assert b"".join(message for message, _ in found) == whole
        assert [statement for _, statement in found] == ["", "", "COMMIT", "BEGIN"]


@pytest.mark.parametrize("insert", ["INSERT INTO commit_cut VALUES (1)", "EXECUTE kept"])
@pytest.mark.parametrize(("when", "rows"), [("before", 0), ("after", 1)])
def test_a_commit_is_cut_before_it_happens_or_after(
    through_proxy: tuple[Proxy, str], owner_url: str, when: str, rows: int, insert: str
) -> None:
    proxy, url = through_proxy
    direct = psycopg2.connect(owner_url)
    direct.autocommit = True
    cursor = direct.cursor()
    cursor.execute("CREATE TABLE commit_cut (n int)")
    try:
        connection = psycopg2.connect(url)
        connection.cursor().execute("PREPARE kept AS INSERT INTO commit_cut VALUES (1)")
        connection.commit()
        cut = proxy.cut_at_commit("INSERT INTO commit_cut", when)  # type: ignore[arg-type]  # parametrize knows no Literal
        with psycopg2.connect(url) as other:
            other.cursor().execute("SELECT 1")  # commits, without the marker
        connection.cursor().execute(insert)
        with pytest.raises(psycopg2.OperationalError):
            connection.commit()
        assert cut.done.is_set()
        cursor.execute("SELECT count(*) FROM commit_cut")
        assert cursor.fetchall() == [(rows,)]
        with psycopg2.connect(url) as again:
            again.cursor().execute("INSERT INTO commit_cut VALUES (2)")
        cursor.execute("SELECT count(*) FROM commit_cut")
        assert cursor.fetchall() == [(rows + 1,)]
    finally:
        cursor.execute("DROP TABLE commit_cut")
        direct.close()
