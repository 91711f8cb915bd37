"""Receivers and deliverers that the tests start."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shared.database import Database
from shared.settings import Settings
from shared.signing import Keyring
from tests.integration.delivery.clinic import ROOT, Clinic, Receiver, Reply


@pytest.fixture
def receive() -> Iterator[Callable[[Reply], Receiver]]:
    """Return a function that starts a receiver."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Reply) -> Receiver:
        receiver = Receiver(reply)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.handle(self)

            def log_message(self, *_: Any) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # receivers here break off on purpose
        receiver.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return receiver

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def deliverer(
    environment: dict[str, str], worker_url: str, tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a deliverer which may reach these receivers."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*receivers: Receiver, **more: str) -> subprocess.Popen[bytes]:
        variables = {
            **environment,
            "DATABASE_URL": worker_url,
            "POXVISIO_WEBHOOK_LOOPBACK": ",".join(f"127.0.0.1:{receiver.port}" for receiver in receivers),
            "POXVISIO_WEBHOOK_SCHEDULE": "0.05,0.05,0.05",
            "POXVISIO_WEBHOOK_TIMEOUT": "2",
            "PATH": os.environ["PATH"],
            **more,
        }
        log = (tmp_path / f"deliverer-{len(processes)}.log").open("wb")
        command = [sys.executable, "-m", "worker.delivery"]
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=log, stdout=log)
        log.close()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def clinic(app_db: Database, tenant: UUID, settings: Settings) -> Clinic:
    return Clinic(app_db, tenant, Keyring.from_settings(settings))
