"""Hears that the process is asked to end, while the server's own signal handlers run.

Granian waits for every request that is under way, and a client that waits for news is one. Nobody else may set a
handler in its place, but Python also writes the number of each signal into a descriptor of one's choice
(``signal.set_wakeup_fd``), which a thread can read.
"""

import signal
import socket
import threading
from collections.abc import Callable
from typing import Final

_ENDS: Final = frozenset({signal.SIGTERM, signal.SIGINT})


def on_end(act: Callable[[], None]) -> None:
    """Call ``act`` once, from a thread of its own, when SIGTERM or SIGINT comes; call this from the main thread."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # Both ends live as long as the process: the descriptor is written to from inside a signal handler.
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)

    def listen() -> None:
        while number := reader.recv(1):
            if number[0] in _ENDS:
                act()
                return

    threading.Thread(target=listen, name="ending", daemon=True).start()
