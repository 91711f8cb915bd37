"""The whole service as ``poxvisio up`` runs it, to be broken on purpose, and what must hold whatever was broken."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import psycopg2
import pytest

from tests.integration.worker.conftest import photo

ROOT = Path(__file__).parents[2]

# Photos of every kind of answer; the damaged one, the text file and the scene are among them.
SAMPLES = [path.read_bytes() for path in sorted((ROOT / "models" / "demo" / "photos").glob("*.jpg"))]
PHOTOS = [*SAMPLES * 3, *(photo(seed) for seed in range(6))]

START_SECONDS = 120
DRAIN_SECONDS = 90


def until(condition: Callable[[], bool], what: str, seconds: float = DRAIN_SECONDS) -> None:
    """Wait for a condition; fails with ``what`` when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)


@dataclass
class Service:
    """A running instance with two workers, short leases, and everything needed to break it."""

    ready_file: Path
    process: "subprocess.Popen[bytes]"

    @property
    def facts(self) -> dict[str, Any]:
        """What the ready file says now."""
        return dict(json.loads(self.ready_file.read_text()))

    def pid(self, kind: str, number: int = 0) -> int:
        """The process of that kind."""
        return int(self.facts["pids"][kind][number])

    def replaced(self, kind: str, killed: int) -> bool:
        """Whether another process of that kind runs in place of the one that was killed."""
        pids = self.facts["pids"][kind]
        return bool(pids) and killed not in pids

    def client(self) -> httpx.Client:
        """A client with the administrator's key."""
        facts = self.facts
        headers = {"Authorization": f"Bearer {facts['api_key']}"}
        return httpx.Client(base_url=facts["url"], headers=headers, timeout=60)

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database, past every policy; waits while it is away."""
        while True:
            try:
                connection = psycopg2.connect(self.facts["database_url"], connect_timeout=3)
                with connection, connection.cursor() as cursor:
                    cursor.execute(statement, values)
                    found = cursor.fetchall()
                connection.close()
            except psycopg2.OperationalError:
                time.sleep(0.1)
            else:
                return found

    def submit(self, photos: Sequence[bytes] = PHOTOS, key: str | None = None) -> UUID:
        """Send photos as one job."""
        files = [("photos", (f"{place}.jpg", data, "image/jpeg")) for place, data in enumerate(photos)]
        headers = {"Idempotency-Key": key} if key else {}
        with self.client() as client:
            answer = client.post("/v1/jobs", files=files, headers=headers)
        assert answer.status_code == 202, answer.text
        return UUID(hex=answer.json()["id"].removeprefix("job_"))

    def answered(self, job: UUID) -> int:
        """How many photos of the job have their result."""
        return int(self.rows("SELECT count(*) FROM result WHERE job_id = %s", str(job))[0][0])

    def labels(self, job: UUID) -> list[tuple[int, str, str | None]]:
        """Ordinal, outcome and label of every result."""
        return self.rows("SELECT ordinal, outcome, label FROM result WHERE job_id = %s ORDER BY ordinal", str(job))

    def await_end(self, job: UUID) -> None:
        """Wait until the job has closed, looking at its counters all the while."""

        def closed() -> bool:
            [(remaining, total, results, is_closed)] = self.rows(
                "SELECT remaining, total, (SELECT count(*) FROM result r WHERE r.job_id = j.id), closed_at IS NOT NULL"
                " FROM job j WHERE id = %s",
                str(job),
            )
            assert remaining == total - results
            return bool(is_closed)

        until(closed, "the job closes")

    def check(self, job: UUID, photos: int) -> None:
        """Hold the job against the promise: one result each, by a living fence, one event of each kind."""
        assert self.rows("SELECT ordinal FROM result WHERE job_id = %s ORDER BY ordinal", str(job)) == [
            (ordinal,) for ordinal in range(photos)
        ]
        [(state, remaining, counted)] = self.rows(
            "SELECT state, remaining, classified + abstained + rejected + failed FROM job WHERE id = %s", str(job)
        )
        assert (state, remaining, counted) == ("completed", 0, photos)
        superseded = self.rows(
            "SELECT r.ordinal FROM result r JOIN unit u ON u.job_id = r.job_id"
            " AND r.ordinal BETWEEN u.first AND u.first + u.n - 1 AND u.state IN ('done', 'dead')"
            " WHERE r.job_id = %s AND r.fence <> u.fence",
            str(job),
        )
        assert superseded == []
        events = self.rows("SELECT kind, count(*) FROM event WHERE job_id = %s GROUP BY kind ORDER BY kind", str(job))
        assert events == [("job.accepted", 1), ("job.completed", 1), ("job.started", 1)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a running service with two workers."""
    folder = tmp_path_factory.mktemp("chaos")
    ready = folder / "ready.json"
    environment = {
        **os.environ,
        "POXVISIO_LEASE_FLOOR": "3",
        "POXVISIO_IDEMPOTENCY_LEASE": "5",
        "POXVISIO_SWEEP_SECONDS": "0.5",
        "POXVISIO_ENGINE_THREADS": "1",
        "POXVISIO_DECODERS": "1",
    }
    log = (folder / "up.log").open("wb")
    command = [sys.executable, "-m", "cli.main", "up", "--data-dir", str(folder / "data"), "--workers", "2"]
    process = subprocess.Popen([*command, "--ready-file", str(ready)], env=environment, stdout=log, stderr=log)
    running = Service(ready, process)

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "up.log").read_text()
        return ready.exists()

    until(is_ready, "the service is ready", START_SECONDS)
    everything = psutil.Process(process.pid).children(recursive=True)
    yield running
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0
    log.close()
    assert not [child.pid for child in everything if child.is_running()], "processes were left behind"


@pytest.fixture(scope="module")
def reference(service: Service) -> list[tuple[int, str, str | None]]:
    """Return the answers to ``PHOTOS`` of a run that nobody disturbed."""
    job = service.submit()
    service.await_end(job)
    service.check(job, len(PHOTOS))
    return service.labels(job)
