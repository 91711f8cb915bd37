"""A clinic with its endpoints, and receivers of its webhooks on loopback."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import UUID

from shared import delivery_log, endpoints, events, ids, webhooks
from shared.database import Database, new_id
from shared.delivery_log import DeliveryView
from shared.events import NewEvent
from shared.signing import Keyring
from shared.tables import Endpoint
from worker import deliveries
from worker.deliveries import Owed, Tried
from worker.endpoint_health import Patience, Verdict

ROOT = Path(__file__).parents[3]
Reply = Callable[["Receiver", BaseHTTPRequestHandler], None]


@dataclass
class Received:
    """One request as it came in."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """An endpoint of a clinic, on loopback; ``reply`` decides how it behaves."""

    reply: Reply
    requests: list[Received] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks?key=of-the-clinic"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers["content-length"])
        received = Received({k.lower(): v for k, v in request.headers.items()}, request.rfile.read(length))
        with self._lock:
            self.requests.append(received)
            self.open_now += 1
            self.most_open = max(self.most_open, self.open_now)
        try:
            self.reply(self, request)
        finally:
            with self._lock:
                self.open_now -= 1


def answering(*statuses: int, headers: dict[str, str] | None = None) -> Reply:
    """Answer with these statuses in turn, the last one for ever."""

    def reply(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        request.send_response(statuses[min(len(receiver.requests), len(statuses)) - 1])
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("content-length", "2")
        request.end_headers()
        request.wfile.write(b"ok")

    return reply


def log_of(tmp_path: Path, number: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / f"deliverer-{number}.log").read_text().splitlines()]


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"never came to pass: {what}"
        time.sleep(0.02)


@dataclass
class Clinic:
    """A tenant with its endpoints, as the web side handles them."""

    db: Database
    tenant: UUID
    keyring: Keyring

    def endpoint(self, url: str, kinds: tuple[str, ...] = (), **form: Any) -> tuple[UUID, str]:
        with self.db.transaction(self.tenant) as session:
            made, secret = webhooks.create_endpoint(session, self.keyring, self.tenant, url, kinds, **form)
        return made.id, secret

    def happens(self, kind: str = "job.started", times: int = 1) -> list[str]:
        rows = [NewEvent(self.tenant, kind, new_id(), 0, {"total": 3}) for _ in range(times)]
        with self.db.transaction(self.tenant) as session:
            return [ids.text("event", event.id) for event in events.record(session, rows)]

    def log(self, endpoint_id: UUID) -> list[DeliveryView]:
        """All deliveries, oldest first, with what was answered."""
        with self.db.transaction(self.tenant) as session:
            found = delivery_log.deliveries(session, endpoint_id, limit=1000)[::-1]
            return [delivery_log.delivery(session, item.id) for item in found]

    def states(self, endpoint_id: UUID) -> list[str]:
        return [owed.state for owed in self.log(endpoint_id)]

    def row(self, endpoint_id: UUID) -> Endpoint:
        with self.db.transaction(self.tenant) as session:
            return endpoints.get(session, endpoint_id)

    def feed(self) -> list[webhooks.Recorded]:
        with self.db.transaction(self.tenant) as session:
            return events.since(session, 0, 1000)


Start = Callable[..., subprocess.Popen[bytes]]
Receive = Callable[[Reply], Receiver]


NOTHING = Tried(datetime(2026, 11, 23, tzinfo=UTC), 0.1, 500, None, b"")


def claim(worker_db: Database, limit: int = 10, lease: float = 45.0) -> list[Owed]:
    with worker_db.transaction() as session:
        return deliveries.claim(session, limit, lease)


def settle(worker_db: Database, owed: Owed, verdict: Verdict, patience: Patience | None = None) -> bool:
    with worker_db.transaction() as session:
        return deliveries.settle(session, owed, NOTHING, verdict, patience or Patience())
