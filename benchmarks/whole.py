"""The whole service as ``poxvisio up`` runs it, for benchmarks that come in by HTTP."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.apart import ROOT
from cli.embedded.ports import free_port

# One key sends here what would come from many: its rate is counted as always, and never reached.
MANY_CLIENTS = {"POXVISIO_KEY_RATE": "1000000", "POXVISIO_TENANT_RATE": "1000000"}
_READY_SECONDS = 180.0
_STOP_SECONDS = 120.0


@dataclass(frozen=True)
class Whole:
    """A running service: everything of it descends from ``pid``."""

    folder: Path
    pid: int
    ready: Path

    @property
    def facts(self) -> dict[str, Any]:
        """Return what the ready file says now."""
        found: dict[str, Any] = json.loads(self.ready.read_text(encoding="utf-8"))
        return found

    @property
    def port(self) -> int:
        """The port of the web side."""
        return urlsplit(self.facts["url"]).port or 80

    @property
    def parts(self) -> dict[str, list[int]]:
        """The roots of what works on each photo, by what people call them."""
        pids = self.facts["pids"]
        workers = [pid for name, found in pids.items() if name.startswith("worker") for pid in found]
        return {"workers": workers, "web": pids["web"], "PostgreSQL": pids["postgres"], "sweep": pids["sweep"]}

    @property
    def pids(self) -> list[int]:
        """The roots of everything that works for the service."""
        below = {process.pid for process in psutil.Process(self.pid).children(recursive=True)}
        servers = [*self.facts["pids"]["postgres"], *self.facts["pids"]["valkey"]]
        return [self.pid, *(pid for pid in servers if pid not in below)]


@contextmanager
def whole_service(settings: Mapping[str, str] | None = None) -> Iterator[Whole]:
    """Run it in a folder of its own, with the default settings beside the given ones, and remove everything after.

    But for the rates, which one client would reach.
    """
    folder = Path(tempfile.mkdtemp(prefix="poxvisio-whole-"))
    folder.chmod(0o755)
    ready, log = folder / "ready.json", folder / "up.log"
    environment = {**os.environ, "POXVISIO_LOG_LEVEL": "warning", **MANY_CLIENTS, **(settings or {})}
    command = [sys.executable, "-m", "cli.main", "up", "--data-dir", str(folder / "data"), "--port", str(free_port())]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, "--ready-file", str(ready)], cwd=ROOT, env=environment, stdout=said, stderr=said
        )
    try:
        end = time.monotonic() + _READY_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the service does not start:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)
        yield Whole(folder, process.pid, ready)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
