"""What the server leaves undone about connections: how many there may be, and whether a silent client is still there.

A telephone that lost its network must not hold a thread for ever: who reads a body sends nothing that could fail, and
the server sets no keep-alive. Connections inherit the options of the socket they were accepted from, which is open in
this process from its first request on.
"""

import os
import resource
import socket
import threading
from pathlib import Path
from typing import Final

from flask import Flask

# More than the connections of `--backpressure`, and no more than macOS lets a process have.
_OPEN: Final = 10_240
# Where a process finds its own open files, on Linux and on macOS.
_OPEN_FILES: Final = Path("/dev/fd")
# Seconds of silence, seconds between questions, questions without an answer: gone after a minute.
# And milliseconds after which a client that takes nothing of what it is sent is gone too.
_QUESTIONS: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


def install(app: Flask) -> None:
    """Allow as many connections as the server takes, and ask silent clients from now on."""
    allow_open_files()
    asked = threading.Event()

    @app.before_request
    def ask() -> None:
        if not asked.is_set():
            asked.set()
            ask_silent_peers()


def allow_open_files(most: int = _OPEN) -> None:
    """Let this process open so many files, as far as the system permits; the usual 1,024 are fewer than connections."""
    now, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    permitted = most if limit == resource.RLIM_INFINITY else min(most, limit)
    if now != resource.RLIM_INFINITY and now < permitted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (permitted, limit))


def ask_silent_peers() -> int:
    """Set keep-alive on every listening TCP socket of this process and return how many there are."""
    numbers = [int(entry.name) for entry in _OPEN_FILES.iterdir()] if _OPEN_FILES.is_dir() else []
    return sum(_ask(number) for number in numbers)


def _ask(number: int) -> bool:
    try:
        opened = socket.socket(fileno=os.dup(number))
    except OSError:
        return False  # no socket, or closed meanwhile
    with opened:
        is_tcp = opened.family in (socket.AF_INET, socket.AF_INET6) and opened.type == socket.SOCK_STREAM
        if not is_tcp or not opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _QUESTIONS.items():
            if hasattr(socket, name):
                opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return True
