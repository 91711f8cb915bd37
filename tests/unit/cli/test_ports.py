"""Ports that are held for a server which would share them unasked."""

import socket
from collections.abc import Iterator

import pytest

from cli.embedded.ports import HOST, hold_port, is_free


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """Return a port that is held."""
    found = hold_port(0)
    assert found
    with found:
        yield found


def _server(port: int) -> socket.socket:
    """Return a listening socket as the web server opens it."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((HOST, port))
    server.listen()
    return server


def test_a_held_port_is_nobody_elses(held: socket.socket) -> None:
    port = held.getsockname()[1]
    assert hold_port(port) is None
    assert not is_free(port)


def test_the_server_it_is_held_for_binds_it_and_is_the_only_one_to_be_met(held: socket.socket) -> None:
    port = held.getsockname()[1]
    with _server(port) as server:
        for _ in range(20):
            with socket.create_connection((HOST, port), 5):
                server.accept()[0].close()
        assert hold_port(port) is None


def test_a_port_is_free_again_once_it_is_let_go(held: socket.socket) -> None:
    port = held.getsockname()[1]
    with _server(port) as server, socket.create_connection((HOST, port), 5):
        server.accept()[0].close()
    held.close()
    again = hold_port(port)
    assert again
    again.close()


def test_a_port_that_a_server_shares_is_not_held(held: socket.socket) -> None:
    with _server(0) as other:
        assert hold_port(other.getsockname()[1]) is None
