"""The commands as people run them: programs of their own, on services of their own."""

import contextlib
import http.server
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from cli.main import main

ROOT = Path(__file__).parents[2]

# A shell starts a command in the background deaf to SIGINT, and children inherit that; ours are to hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)
COMMAND = [sys.executable, "-m", "cli.main"]
Heard = dict[str, tuple[dict[str, str], bytes]]
#: What the receiver of webhooks answers; a word that names nothing of ours.
ANSWER = f"teapot-{secrets.token_hex(6)}"


def environment(**more: str) -> dict[str, str]:
    """Return this environment without what another service might have put there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("POXVISIO_", "DATABASE_URL"))}
    return kept | more


def processes_below(folder: Path) -> list[psutil.Process]:
    """Return the live processes whose command, or working directory, lies below a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            places = [*process.cmdline(), process.cwd()]
        except psutil.Error:
            continue
        if any(str(folder) in place for place in places):
            found.append(process)
    return found


@dataclass
class Running:
    """A service that was started with ``poxvisio up``."""

    url: str
    key: str
    database_url: str
    folder: Path
    ready_file: Path
    said: Path
    #: Host and port of a receiver of webhooks that never takes anything.
    receiver: str
    #: Host and port of one that takes everything, and what it took, by the kind and the job of each event: headers
    #: with names in lower case, and the body as it came.
    listener: str
    heard: Heard

    @property
    def _variables(self) -> dict[str, str]:
        return {"POXVISIO_URL": self.url, "POXVISIO_KEY": self.key, "DATABASE_URL": self.database_url}

    def run(self, *arguments: str, **more: str) -> Result:
        """Run a command against it, in this process: most of a program's time is its start."""
        variables = environment(**(self._variables | more))
        kept: dict[str, str | None] = dict.fromkeys(os.environ)
        return CliRunner().invoke(main, arguments, env=kept | variables)

    def run_program(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it as people do, as a program of its own."""
        return subprocess.run(
            [*COMMAND, *arguments],
            env=environment(**(self._variables | more)),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until the condition holds; return whether it came true within these seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Teapot(http.server.BaseHTTPRequestHandler):
    """A receiver that never takes anything, and says something in its answers."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = ANSWER.encode()
        self.send_response(500, ANSWER)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Said", ANSWER)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the signature is the library's
        """Say nothing."""


@contextlib.contextmanager
def _receiving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port; yield host and port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def receiver() -> Iterator[str]:
    """Return host and port of a receiver that fails."""
    with _receiving(Teapot) as address:
        yield address


@pytest.fixture(scope="session")
def listener() -> Iterator[tuple[str, Heard]]:
    """Return host and port of a receiver that takes everything, and what it took, by kind and job of each event."""
    heard: Heard = {}

    class Listener(Teapot):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told = json.loads(body)
            heard[f"{told['type']} {told['data']['job']}"] = ({k.lower(): v for k, v in self.headers.items()}, body)
            self.send_response(204)
            self.end_headers()

    with _receiving(Listener) as address:
        yield address, heard


@pytest.fixture(scope="session")
def running(services_root: Path, receiver: str, listener: tuple[str, Heard]) -> Iterator[Running]:
    """Return a whole service on this machine, which logs all it can and gives webhooks up soon.

    It computes in float32, so that its answers can be held against those of training.
    """
    ready = services_root / "ready.json"
    folder = services_root / "data"
    said = services_root / "up.log"
    log = said.open("wb")
    variables = environment(
        POXVISIO_WEBHOOK_LOOPBACK=f"{receiver},{listener[0]}", POXVISIO_WEBHOOK_SCHEDULE="0.2,0.2",
        POXVISIO_LOG_LEVEL="debug", POXVISIO_PRECISION="f32",
    )  # fmt: skip
    up = subprocess.Popen(
        [*COMMAND, "up", "--data-dir", str(folder), "--ready-file", str(ready)],
        env=variables,
        cwd=ROOT,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        assert until(lambda: ready.exists() or up.poll() is not None, 120)
        assert ready.exists(), said.read_text()
        facts: dict[str, Any] = json.loads(ready.read_text())
        own = (facts["url"], facts["api_key"], facts["database_url"], folder, ready, said)
        yield Running(*own, receiver, *listener)
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(90)
        log.close()
    assert processes_below(folder) == []
