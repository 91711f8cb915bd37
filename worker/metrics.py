"""Metrics as a process: ``python -m worker.metrics`` serves ``/metrics`` on a port of its own, for Prometheus.

It logs in as the reader, who sees aggregates alone, and needs no secret but that login: what else the settings ask of a
process may be missing here. Nothing else is served, and nobody is asked who they are: the port belongs on loopback, or
on a network that strangers do not reach.
"""

import signal
import socketserver
import sys
import threading
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from shared import heap
from shared.database import Database
from shared.errors import InvalidSetting
from shared.logs import configure, logger
from shared.settings import Settings, inherited
from worker.gauges import Reading

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_UNUSED: Final = {"REDIS_URL": "none://", "STORAGE_URL": "file:///", "SECRET_KEY": "-" * 32}
_SILENCE_SECONDS: Final = 10.0
_HEADERS: Final = [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]

log = logger(__name__)


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each scrape. ``poxvisio up`` holds the port meanwhile, which the same option allows."""

    daemon_threads = True
    allow_reuse_port = True


class Handler(WSGIRequestHandler):
    """Ends connections of which nothing comes, and logs no request: a scrape is none of anybody's."""

    timeout = _SILENCE_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the signature is the library's
        """Say nothing."""


def application(database: Database) -> "WSGIApplication":
    """Return what answers ``GET /metrics``, and 404 to all else."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Reading(database))
    metrics: WSGIApplication = make_wsgi_app(registry)

    def serve(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if environ.get("PATH_INFO") == "/metrics":
            return metrics(environ, start)
        start("404 Not Found", _HEADERS)
        return [b"There is /metrics here, and nothing else.\n"]

    return serve


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    database = Database.open(settings.model_copy(update={"database_pool": 1}), "poxvisio_reader")
    with Server((settings.metrics_host, settings.metrics_port), Handler) as server:
        server.set_app(application(database))

        def stop(_signal: int, _frame: FrameType | None) -> None:
            # shutdown() waits for the loop that this handler interrupts.
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        log.info("metrics_ready", port=server.server_port)
        server.serve_forever(poll_interval=0.2)
    database.close()


def main() -> int:
    """Serve with the environment's settings."""
    try:
        settings = Settings.load({**_UNUSED, **inherited()})
    except InvalidSetting as error:
        print(f"poxvisio metrics: {error}", file=sys.stderr)
        return 2
    configure(settings.log_level)
    heap.settle()
    try:
        serve(settings)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        print(f"poxvisio metrics: cannot listen on {where}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
