"""The demo's own receiver of webhooks: a small HTTP server on loopback that keeps what it is sent, as it came."""

import json
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

_MOST_BYTES: Final = 1 << 20


class Receiver:
    """Listens on a free port of 127.0.0.1 while its block runs."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._messages: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if length > _MOST_BYTES:
                    self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                    return
                receiver._keep({name.lower(): value for name, value in self.headers.items()}, self.rfile.read(length))
                self.send_response(HTTPStatus.NO_CONTENT)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
                """Keep the demo's output to the demo."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """Where webhooks are to be sent."""
        return f"http://{self.address}/poxvisio"

    def wait_for(self, kind: str, job_id: str, secret: str, timeout: float) -> dict[str, Any] | None:
        """Return the first message of this kind about this job whose signature holds; None if none comes in time.

        The signature is verified by the independent ``standardwebhooks`` package over the bytes as they came.
        """
        end = time.monotonic() + timeout
        seen = 0
        with self._arrived:
            while True:
                for headers, body in self._messages[seen:]:
                    message = _verified(headers, body, secret)
                    if message and message.get("type") == kind and message["data"].get("job") == job_id:
                        return message
                seen = len(self._messages)
                left = end - time.monotonic()
                if left <= 0:
                    return None
                self._arrived.wait(left)

    def _keep(self, headers: dict[str, str], body: bytes) -> None:
        with self._arrived:
            self._messages.append((headers, body))
            self._arrived.notify_all()


def _verified(headers: dict[str, str], body: bytes, secret: str) -> dict[str, Any] | None:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return None
    message = json.loads(body)
    return message if isinstance(message, dict) else None
