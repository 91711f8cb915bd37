"""Receivers and deliverers that the tests start."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shared.database import Database
from shared.settings import Settings
from shared.signing import Keyring
from tests.integration.delivery.clinic import ROOT, Clinic, Receiver, Reply


class Handler(BaseHTTPRequestHandler):
    """Gives a request to whoever a server stands for."""

    def do_POST(self) -> None:
        self.server.receiver.handle(self)  # type: ignore[attr-defined]  # of Listening

    def log_message(self, *_: Any) -> None:
        return


class Listening(ThreadingHTTPServer):
    """A port on which a receiver may be."""

    daemon_threads = True
    receiver: Receiver

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, *_: Any) -> None:
        """Say nothing: receivers here break off on purpose."""


@pytest.fixture(scope="module")
def places() -> Iterator[list[Listening]]:
    """Return the ports of all receivers of a file, so that a deliverer may be told of them before."""
    made = [Listening() for _ in range(40)]
    yield list(made)
    for server in made:
        server.server_close()


@pytest.fixture
def receive(places: list[Listening]) -> Iterator[Callable[[Reply], Receiver]]:
    """Return a function that starts a receiver."""
    servers: list[Listening] = []

    def start(reply: Reply) -> Receiver:
        server = places.pop(0) if places else Listening()
        receiver = server.receiver = Receiver(reply, port=server.server_address[1])
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return receiver

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _started(variables: dict[str, str], log: Path, receivers: Iterable[int]) -> subprocess.Popen[bytes]:
    allowed = {
        "POXVISIO_WEBHOOK_LOOPBACK": ",".join(f"127.0.0.1:{port}" for port in receivers),
        "POXVISIO_WEBHOOK_SCHEDULE": "0.05,0.05,0.05",
        "POXVISIO_WEBHOOK_TIMEOUT": "2",
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-m", "worker.delivery"]
    with log.open("wb") as said:
        return subprocess.Popen(command, cwd=ROOT, env=allowed | variables, stderr=said, stdout=said)


def _ended(processes: list[subprocess.Popen[bytes]]) -> None:
    while processes:
        process = processes.pop()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def standing() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Return the deliverer that goes on from test to test, where there is one."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    _ended(processes)


@pytest.fixture
def delivering(
    environment: dict[str, str],
    worker_url: str,
    places: list[Listening],
    tmp_path: Path,
    standing: list[subprocess.Popen[bytes]],
) -> None:
    """Have a deliverer run that may reach every receiver; one goes on for all tests that want no other."""
    if not standing:
        variables = {**environment, "DATABASE_URL": worker_url}
        ports = [server.server_address[1] for server in places]
        standing.append(_started(variables, tmp_path / "standing.log", ports))


@pytest.fixture
def deliverer(
    environment: dict[str, str], worker_url: str, tmp_path: Path, standing: list[subprocess.Popen[bytes]]
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a deliverer which may reach these receivers."""
    _ended(standing)
    processes: list[subprocess.Popen[bytes]] = []

    def start(*receivers: Receiver, **more: str) -> subprocess.Popen[bytes]:
        variables = {**environment, "DATABASE_URL": worker_url, **more}
        log = tmp_path / f"deliverer-{len(processes)}.log"
        processes.append(_started(variables, log, [receiver.port for receiver in receivers]))
        return processes[-1]

    yield start
    _ended(processes)


@pytest.fixture
def clinic(app_db: Database, tenant: UUID, settings: Settings) -> Clinic:
    return Clinic(app_db, tenant, Keyring.from_settings(settings))
