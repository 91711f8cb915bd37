"""Receivers of webhooks in a process of their own: by its path one answers at once, late or never."""

import asyncio
import threading
from typing import Final

_LATE_SECONDS: Final = 5.0
_NEVER_SECONDS: Final = 3600.0
_ANSWER: Final = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


class Receivers:
    """A server on a free port of loopback; each question is answered with that port."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        serving = asyncio.start_server(_serve, "127.0.0.1", 0, backlog=1024)
        server = asyncio.run_coroutine_threadsafe(serving, self._loop)
        self._port = int(server.result().sockets[0].getsockname()[1])

    def __call__(self) -> int:
        """Return the port."""
        return self._port


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split(b" ", 2)[1]
    if path.startswith(b"/late/"):
        await asyncio.sleep(_LATE_SECONDS)
    elif path.startswith(b"/silent/"):
        await asyncio.sleep(_NEVER_SECONDS)
    writer.write(_ANSWER)
    writer.close()
