"""An HTTP server on loopback that misbehaves on purpose, and says nothing of it."""

import contextlib
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: servers here break off on purpose, and so do those who are killed."""


class Handler(BaseHTTPRequestHandler):
    """What every one of these servers does with a request; subclasses add the methods."""

    timeout = 20

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing: a run has thousands."""


class Listening:
    """Listens on one port while its block runs; ``ending`` is set when it closes, for whoever stalls."""

    def __init__(self, handler: type[Handler]) -> None:
        self.ending = threading.Event()
        self._server = _Quiet(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"127.0.0.1:{self._server.server_port}"

    def drip(self, request: BaseHTTPRequestHandler) -> None:
        """Send one byte of the headers at a time, for ever."""
        with contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\n" + b"x-drip: y\r\n" * 1000:
                request.wfile.write(bytes([byte]))
                if self.ending.wait(0.1):
                    return

    def flood(self, request: BaseHTTPRequestHandler) -> None:
        """Answer 200 with a body without end."""
        request.send_response(200)
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        with contextlib.suppress(OSError):
            for _number in range(2000):
                request.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")
                if self.ending.is_set():
                    return


def reset(request: BaseHTTPRequestHandler) -> None:
    """Break the connection off with RST."""
    # Lingering for no time at all makes close send RST instead of FIN.
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()
