"""The processes of PoxVisio and how each is started: the one place their commands stand.

The Procfile and docker-compose.yml say the same in their own syntax; a test holds them against these constants.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.vocabulary import LANES

ROOT = Path(__file__).resolve().parent.parent

# One process with many threads: its counters and its cap on waiting clients then hold for the whole of web. Back
# pressure counts connections, idle ones too: with the default a thousand of these keep everybody else out.
WEB = (
    "granian", "--interface", "wsgi", "--host", "{host}", "--port", "{port}", "--http", "1", "--no-ws",
    "--workers", "1", "--blocking-threads", "768", "--backlog", "4096", "--backpressure", "8192",
    "--workers-kill-timeout", "20", "--log-level", "error",
    "web.wsgi:app",
)  # fmt: skip
# A drain token says all there is to say, so workers need not hear of each other: no gossip, no mingle.
WORKER = (
    "celery", "-A", "worker.app", "worker", "--pool", "prefork", "-c", "1", "-n", "{name}@%h", "-Q", ",".join(LANES),
    "--without-gossip", "--without-mingle",
)  # fmt: skip
DELIVERER = ("worker.delivery",)
SWEEP = ("worker.upkeep",)
METRICS = ("worker.metrics",)

# Seconds to end in after SIGTERM: a request, a micro-batch and what it completes, a webhook attempt, a sweep, a scrape.
PATIENCE = {"web": 25.0, "worker": 35.0, "deliverer": 20.0, "sweep": 10.0, "metrics": 5.0}
KINDS = tuple(PATIENCE)  # in the order in which they drain


@dataclass(frozen=True)
class Program:
    """One process to keep running; ``kind`` is one of ``KINDS``, ``patience`` seconds."""

    name: str
    kind: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    patience: float


def programs(environments: Mapping[str, Mapping[str, str]], host: str, port: int, workers: int) -> list[Program]:
    """Return what runs on one machine; ``environments`` has the whole environment of each kind.

    Metrics are what nothing else needs: they run where there is an environment for them.
    """

    def program(kind: str, command: tuple[str, ...], name: str) -> Program:
        filled = (sys.executable, "-m", *(word.format(host=host, port=port, name=name) for word in command))
        return Program(name, kind, filled, environments[kind], PATIENCE[kind])

    return [
        program("web", WEB, "web"),
        *(program("worker", WORKER, f"worker{number}") for number in range(1, workers + 1)),
        program("deliverer", DELIVERER, "deliverer"),
        program("sweep", SWEEP, "sweep"),
        *([program("metrics", METRICS, "metrics")] if "metrics" in environments else []),
    ]
