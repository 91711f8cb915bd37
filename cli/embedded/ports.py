"""Which ports of 127.0.0.1 the embedded services and the web process take."""

import socket
from pathlib import Path

from shared.errors import Refused

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nothing listened on a moment ago."""
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could bind the port now."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def hold_port(port: int) -> socket.socket | None:
    """Hold a port for a server that will bind it with SO_REUSEPORT; None where it is taken. 0 takes any free one.

    Such a server binds beside another one of its kind without a word, and clients then meet either. The socket that is
    held never listens: it lets the server in, since both have SO_REUSEPORT, and keeps out whoever holds or looks.
    """
    held = socket.socket()
    try:
        # Connections that linger from the server before are no obstacle.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((HOST, port))
    except OSError:
        held.close()
        return None
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return held


def choose_port(wanted: int | None, last: Path) -> int:
    """The wanted port, else the one in the file ``last`` while it is still free, else a free one; kept in ``last``.

    Raises ``Refused`` when the wanted port is taken.
    """
    if wanted is not None:
        if not is_free(wanted):
            raise Refused(f"port {wanted} of {HOST} is taken")
        port = wanted
    else:
        remembered = read_number(last)
        port = remembered if remembered and is_free(remembered) else free_port()
    last.write_text(str(port), encoding="ascii")
    return port


def read_number(path: Path) -> int | None:
    """The number a small file holds, or nothing when there is none."""
    try:
        return int(path.read_text(encoding="ascii").split("\n", 1)[0])
    except (OSError, ValueError):
        return None
