"""Benchmark of webhooks: a thousand endpoints, a hundred of which never answer, answer late or are not there at all.

The yardstick is the same load with those hundred answering like the others. A delivery's time goes from the event to
the moment the receiver had answered, as its owner's log has it; who is hostile is left out of both.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from benchmarks.apart import ROOT, Apart
from benchmarks.report import Row, versus
from benchmarks.services import Services, running
from cli.embedded.ports import HOST, free_port
from shared import events, webhooks
from shared.database import Database, new_id
from shared.events import NewEvent
from shared.settings import Settings
from shared.signing import Keyring

_HOSTILE: Final = ("silent", "late", "refusing", "gone")
_SETTLE_SECONDS: Final = 60.0
_TIMES: Final = sa.text(
    """
    SELECT extract(epoch FROM a.started_at - e.created_at) * 1000 + a.duration_ms
    FROM delivery d JOIN endpoint p ON p.id = d.endpoint_id
      JOIN event e ON e.tenant_id = d.tenant_id AND e.seq = d.event_seq
      JOIN LATERAL (SELECT started_at, duration_ms FROM attempt WHERE delivery_id = d.id
                    ORDER BY number DESC LIMIT 1) a ON true
    WHERE p.url LIKE '%/well/%' AND d.state = 'delivered' AND e.kind = 'job.started'
    """
)
_OWED: Final = sa.text(
    "SELECT count(*) FROM delivery d JOIN endpoint p ON p.id = d.endpoint_id "
    "WHERE p.url LIKE '%/well/%' AND d.state <> 'delivered'"
)


def run(*, quick: bool) -> Iterator[Row]:
    """Measure clinics that share the deliverer, then one clinic that has all the endpoints."""
    endpoints, seconds = (100, 10) if quick else (1_000, 40)
    for tenants, what in ((10, "ten clinics"), (1, "one clinic")):
        alone, beside = (
            _p99(tenants, endpoints, endpoints // 10 if is_hostile else 0, seconds) for is_hostile in (False, True)
        )
        yield versus(
            f"webhooks of {what}, {endpoints:,} endpoints, a tenth of them hostile: p99 of the others",
            beside,
            "ms",
            "without the hostile ones, ms",
            alone,
            at_most=2.0,
            note=f"an event a second for ten clinics in turn, every 10 s for one, {seconds} s; of the hostile ones as "
            "many never answer, answer after 5 s, refuse connections and let them hang",
        )


def _p99(tenants: int, endpoints: int, hostile: int, seconds: int) -> float:
    """Return the 99th percentile, in ms, of what endpoints that answer waited for."""
    with (
        running() as services,
        services.database("poxvisio_app") as web,
        services.database("poxvisio_owner") as owner,
        Apart("benchmarks.receivers:Receivers") as receivers,
        _hanging() as hanging,
    ):
        ports = {"well": receivers.ask().value, "refusing": free_port(), "gone": hanging}
        names = [services.tenant() for _ in range(tenants)]
        keyring = Keyring.from_settings(Settings.load(services.environment("poxvisio_web_login")))
        # Hostile ones are spread over the clinics.
        every = endpoints // hostile if hostile else endpoints + 1
        for number in range(endpoints):
            kind = _HOSTILE[number // every % len(_HOSTILE)] if number % every == every - 1 else "well"
            tenant = names[number * tenants // endpoints]
            url = f"http://{HOST}:{ports.get(kind, ports['well'])}/{kind}/{number}"
            with web.transaction(tenant) as session:
                webhooks.create_endpoint(session, keyring, tenant, url, ("job.started", "job.accepted"), "")
        with _deliverer(services, sorted(ports.values())):
            # Until the first ones have arrived the deliverer is starting.
            _happen(web, names[0], "job.accepted")
            _wait(owner)
            began = time.monotonic()
            for turn in range(0, seconds, 10 // tenants):
                _happen(web, names[turn % tenants], "job.started")
                time.sleep(max(0.0, began + turn + 10 // tenants - time.monotonic()))
            _wait(owner)
        with owner.transaction() as session:
            times = sorted(float(value) for value in session.execute(_TIMES).scalars())
    return statistics.quantiles(times, n=100)[98]


def _happen(web: Database, tenant: UUID, kind: str) -> None:
    with web.transaction(tenant) as session:
        events.record(session, [NewEvent(tenant, kind, new_id(), 0, {})])


def _wait(owner: Database) -> None:
    end = time.monotonic() + _SETTLE_SECONDS
    while True:
        with owner.transaction() as session:
            left = session.execute(_OWED).scalar_one()
        if not left:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"{left} webhooks did not arrive in {_SETTLE_SECONDS:.0f} s")
        time.sleep(0.2)


@contextmanager
def _hanging() -> Iterator[int]:
    """Return a port where nobody takes connections: after the first few the kernel leaves them hanging."""
    with socket.create_server((HOST, 0), backlog=0) as server:
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        yield int(server.getsockname()[1])
        for one in waiting:
            one.close()


@contextmanager
def _deliverer(services: Services, ports: list[int]) -> Iterator[None]:
    environment = {
        **services.environment("poxvisio_worker_login"),
        "POXVISIO_WEBHOOK_LOOPBACK": ",".join(f"{HOST}:{port}" for port in ports),
        "POXVISIO_LOG_LEVEL": "warning",
        "PATH": os.environ["PATH"],
    }
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.delivery"], cwd=ROOT, env=environment, stdout=said, stderr=said
        )
        try:
            yield
            if process.poll() is not None:
                said.seek(0)
                raise RuntimeError(said.read()[-4000:].decode(errors="replace"))
        finally:
            process.kill()
            process.wait()
