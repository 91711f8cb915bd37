"""The servers of the comparison: how each is started on loopback, and which of its processes holds the network."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from benchmarks.apart import ROOT, Apart
from benchmarks.peers.environment import python_of
from benchmarks.pictures import SMALL
from benchmarks.whole import whole_service
from cli.embedded.ports import HOST, free_port

_START_SECONDS = 180.0
_STOP_SECONDS = 20.0
DIFFERENT = 8


@dataclass(frozen=True)
class Peer:
    """One of the others; ``quiet`` are the settings that keep it from telling its makers about its use."""

    name: str
    title: str
    command: tuple[str, ...]
    quiet: dict[str, str] = field(default_factory=dict)


PEERS = (
    Peer(
        "bentoml",
        "BentoML",
        ("-m", "bentoml", "serve", "benchmarks.peers.bentoml_peer:Peer", "--host", HOST, "--port", "{port}"),
        {"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer("litserve", "LitServe", ("-m", "benchmarks.peers.litserve_peer", "{port}")),
    Peer(
        "ray",
        "Ray Serve",
        ("-m", "benchmarks.peers.ray_peer", "{port}"),
        # The second, in spite of its name, is what lets Ray use the loopback address.
        {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
    ),
)


@dataclass(frozen=True)
class Server:
    """A running server and clients that speak to it; everything of it descends from ``roots``."""

    roots: list[int]
    clients: Apart

    def holders(self) -> list[psutil.Process]:
        """Return the processes that hold the network: those with the engine's library in their memory."""
        found = []
        for root in self.roots:
            for process in psutil.Process(root).children(recursive=True):
                with suppress(psutil.Error):
                    if any("libopenvino_intel_cpu" in mapped.path for mapped in process.memory_maps()):
                        found.append(process)
        return found


@contextmanager
def ours() -> Iterator[Server]:
    """Run this service."""
    with whole_service() as whole, _clients("poxvisio", whole.port, whole.facts["api_key"]) as clients:
        yield Server(whole.pids, clients)


@contextmanager
def running(peer: Peer) -> Iterator[Server]:
    """Run a peer in an environment and a home of its own; raises ``NotInstalled``, or ``RuntimeError`` with its log."""
    python, port = python_of(peer.name), free_port()
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as home:
        environment = {
            **os.environ,
            **peer.quiet,
            "HOME": home,
            "BENTOML_HOME": home,
            "PEERS_CACHE": str(Path(home) / "compiled"),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [str(python), *(word.format(port=port) for word in peer.command)]
        with (Path(home) / "log").open("w+b") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            try:
                with _clients(peer.name, port) as clients:
                    _await(process, clients, log)
                    yield Server([process.pid], clients)
            finally:
                _end(process)


@contextmanager
def _clients(dialect: str, port: int, key: str = "") -> Iterator[Apart]:
    with Apart(
        "benchmarks.clients:Clients", port=port, dialect=dialect, kind=SMALL.name, different=DIFFERENT, key=key
    ) as clients:
        yield clients


def _await(process: "subprocess.Popen[bytes]", clients: Apart, log: IO[bytes]) -> None:
    """Wait until the server answers a photo."""
    end = time.monotonic() + _START_SECONDS
    while not clients.ask(clients=1, photos=1).value["answered"]:
        if process.poll() is not None or time.monotonic() > end:
            log.seek(0)
            raise RuntimeError(f"it does not answer:\n{log.read()[-4000:].decode(errors='replace')}")
        time.sleep(0.2)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask the server to stop, then kill what is left of its family."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):  # it may have ended by itself, and its reason is about to be told
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
