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
