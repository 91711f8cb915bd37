"""The whole service as ``poxvisio up`` runs it, to be broken on purpose, and everything needed to break it."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import psycopg2
import pytest

ROOT = Path(__file__).parents[2]
START_SECONDS = 120
# A decoding child dies with its parent, which takes the kernel a moment.
_GONE_SECONDS = 20.0
#: What chance decides in the tests; another one by CHAOS_SEED.
SEED = int(os.environ.get("CHAOS_SEED", "1"))
#: For what takes too long to be run with all other tests.
LONG = pytest.mark.skipif(os.environ.get("CHAOS") != "long", reason="CHAOS=long runs it")
DRAIN_SECONDS = 90
# Short leases and pauses: what takes a minute in life takes seconds here, and is the same code.
QUICK = {
    "POXVISIO_LEASE_FLOOR": "3",
    "POXVISIO_IDEMPOTENCY_LEASE": "5",
    "POXVISIO_SWEEP_SECONDS": "0.5",
    "POXVISIO_ENGINE_THREADS": "1",
    "POXVISIO_DECODERS": "1",
    "POXVISIO_RESTART_SECONDS": "0.2",
    "POXVISIO_WEBHOOK_TIMEOUT": "2",
    "POXVISIO_HEARTBEAT_SECONDS": "0",
    "POXVISIO_TEST_MODE": "1",
}


def until(condition: Callable[[], bool], what: str, seconds: float = DRAIN_SECONDS) -> None:
    """Wait for a condition; fails with ``what`` when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)


def ask(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask a database on a connection of its own; raises ``psycopg2.OperationalError`` while it is away."""
    connection = psycopg2.connect(url, connect_timeout=3)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()
    except psycopg2.InterfaceError as error:  # it went away before it could be rolled back
        raise psycopg2.OperationalError(str(error)) from error
    finally:
        connection.close()


@dataclass
class Service(ABC):
    """A running service. ``points`` is the folder of its crash points."""

    points: Path
    # To make a connection costs several times what a question does, and some ask twenty times a second.
    _asking: "psycopg2.extensions.connection | None" = field(default=None, init=False)
    _one_asks: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the ready file of ``up`` says now."""

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
        # There is no TLS here, and reading the authorities' certificates costs more than many a request.
        return httpx.Client(base_url=facts["url"], headers=headers, timeout=60, verify=False)

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database, past every policy; waits while it is away."""
        while True:
            try:
                with self._one_asks:
                    return self._ask(statement, values)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                time.sleep(0.1)

    def _ask(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._asking is None or self._asking.closed:
            self._asking = psycopg2.connect(self.facts["database_url"], connect_timeout=3)
            self._asking.autocommit = True
        try:
            with self._asking.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall()
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            self._asking.close()  # it went away; the next one may be elsewhere
            raise

    def post(
        self, photos: Sequence[bytes], key: str | None = None, options: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        """Send photos as one job, once."""
        files: list[tuple[str, Any]] = [("job", (None, json.dumps(options), "application/json"))] if options else []
        files += [("photos", (f"{place}.jpg", data, "image/jpeg")) for place, data in enumerate(photos)]
        with self.client() as client:
            return client.post("/v1/jobs", files=files, headers={"Idempotency-Key": key} if key else {})

    def submit(self, photos: Sequence[bytes], key: str | None = None, options: Mapping[str, Any] | None = None) -> UUID:
        """Send photos as one job, which has to be taken in."""
        answer = self.post(photos, key, options)
        assert answer.status_code == 202, answer.text
        return job_of(answer)

    def post_archive(self, photos: Sequence[bytes], key: str) -> httpx.Response:
        """Send photos as one zip archive, once. The same photos are the same bytes, as a key demands."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for place, data in enumerate(photos):
                archive.writestr(zipfile.ZipInfo(f"{place:05d}.jpg"), data)
        headers = {"Idempotency-Key": key, "Content-Type": "application/zip"}
        with self.client() as client:
            return client.post("/v1/jobs", content=buffer.getvalue(), headers=headers)

    def post_addresses(self, addresses: Sequence[str], key: str) -> httpx.Response:
        """Send the addresses of photos as one job, once."""
        body = {"images": [{"url": address} for address in addresses]}
        with self.client() as client:
            return client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})

    def insist(self, photos: Sequence[bytes], key: str, options: Mapping[str, Any] | None = None) -> UUID:
        """Send photos under one key until they are taken in, as a client does that was told nothing, or to wait."""
        end = time.monotonic() + DRAIN_SECONDS
        while True:
            assert time.monotonic() < end, f"not taken in within {DRAIN_SECONDS} s"
            try:
                answer = self.post(photos, key, options)
            except httpx.TransportError:
                time.sleep(0.2)
                continue
            if answer.status_code == 202:
                return job_of(answer)
            assert answer.status_code in {409, 429, 503}, answer.text
            time.sleep(min(1.0, float(answer.headers["Retry-After"])))

    def answered(self, job: UUID) -> int:
        """How many photos of the job have their result."""
        return int(self.rows("SELECT count(*) FROM result WHERE job_id = %s", str(job))[0][0])

    def labels(self, job: UUID) -> list[tuple[int, str, str | None]]:
        """Ordinal, outcome and label of every result."""
        return self.rows("SELECT ordinal, outcome, label FROM result WHERE job_id = %s ORDER BY ordinal", str(job))

    def order_death(self, point: str) -> Callable[[], bool]:
        """Have the first process die that passes the point; return how to ask whether it has."""
        (self.points / point).touch()
        return lambda: not (self.points / point).exists()


@dataclass
class Up(Service):
    """A service that ``poxvisio up`` runs."""

    ready_file: Path
    process: "subprocess.Popen[bytes]"

    @property
    def facts(self) -> dict[str, Any]:
        """What the ready file says now."""
        return dict(json.loads(self.ready_file.read_text()))


def job_of(answer: httpx.Response) -> UUID:
    """Return the job that an answer accepts."""
    return UUID(hex=answer.json()["id"].removeprefix("job_"))


@contextmanager
def running(folder: Path, *, workers: int = 2, settings: Mapping[str, str] | None = None) -> Iterator[Up]:
    """Run a service with quick settings; it has to end in order, and with everything it started."""
    ready, points = folder / "ready.json", folder / "points"
    points.mkdir()
    environment = {**os.environ, **QUICK, "POXVISIO_CRASH_POINT": str(points), **(settings or {})}
    command = [sys.executable, "-m", "cli.main", "up", "--data-dir", str(folder / "data"), "--workers", str(workers)]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--ready-file", str(ready)], cwd=ROOT, env=environment, stdout=log, stderr=log
        )

        def is_ready() -> bool:
            assert process.poll() is None, (folder / "up.log").read_text()
            return ready.exists()

        try:
            until(is_ready, "the service is ready", START_SECONDS)
            yield Up(points, ready, process)
        finally:
            everything = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGTERM)
            ended = process.wait(90)
    assert ended == 0
    until(lambda: not any(_lives(child) for child in everything), "nothing is left behind", _GONE_SECONDS)


def _lives(process: psutil.Process) -> bool:
    """Return whether a process runs. One that has ended and that nobody has waited for yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
