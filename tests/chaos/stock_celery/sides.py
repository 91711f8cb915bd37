"""The two sides of the contrast: how each accepts a photo, runs its workers, and counts what became of every photo."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from uuid import UUID

import psycopg2
import redis
from celery import Celery

from cli.embedded.valkey import EmbeddedValkey
from shared.broker import Broker
from shared.database import Database, new_id
from shared.ledger.submit import NewImage, NewJob, submit
from shared.settings import Settings
from tests.chaos.stock_celery import notes
from tests.chaos.stock_celery.stock import ANSWER, QUEUE
from worker.upkeep import Upkeep

ROOT = Path(__file__).resolve().parents[3]
_START_SECONDS = 60.0
_SWEEP_SECONDS = 0.5


def until(condition: Callable[[], bool], what: str, seconds: float = _START_SECONDS) -> None:
    """Wait for a condition; raises ``TimeoutError`` that says ``what`` did not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.01)


class Group:
    """A Celery worker in a process group of its own."""

    def __init__(self, app: str, pool: str, environment: dict[str, str], log: Path) -> None:
        options = ["--pool", pool, "-c", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", app, "worker", *options, "-n", f"{new_id().hex}@%h"],
                cwd=ROOT,
                env={**os.environ, **environment, "C_FORCE_ROOT": "1"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def stop(self) -> None:
        """Freeze every process of the group."""
        os.killpg(self.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """Kill every process of the group; does not wait for their end."""
        os.killpg(self.pid, signal.SIGKILL)

    def bury(self) -> None:
        """Wait for the end of a killed group's leader."""
        self._process.wait()


@dataclass(frozen=True)
class Count:
    """What became of the photos that were accepted. ``again``: photos begun more than once."""

    accepted: int
    answered: int
    lost: int
    doubled: int
    again: int


@dataclass
class Side:
    """What both sides have in common: a broker that writes every change to the disk, notes, workers, accepted ids."""

    name: ClassVar[str]
    app: ClassVar[str]

    folder: Path
    broker_url: str
    pool: str
    accepted: list[str] = field(default_factory=list)

    @property
    def notes(self) -> Path:
        """Where the workers write."""
        return self.folder / f"{self.name}-notes"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a worker."""
        return {"CONTRAST_BROKER": self.broker_url, "CONTRAST_NOTES": str(self.notes)}

    def start(self) -> Group:
        """Start a worker and wait until it says that it is ready."""
        group = Group(self.app, self.pool, self.environment, self.folder / f"{self.name}.log")
        try:
            until(lambda: str(group.pid) in notes.read(self.notes, notes.READY), "the worker is ready")
        except BaseException:
            group.kill()
            group.bury()
            raise
        return group

    def start_idle(self) -> Group:
        """Start a worker and wait until it waits in BRPOP; the queue must be empty."""
        group = self.start()
        until(self._is_waiting, "the worker waits for a message")
        return group

    def begun(self) -> Counter[str]:
        """Return how often each photo was begun."""
        return notes.read(self.notes, notes.BEGUN)

    def count(self) -> Count:
        """Hold the accepted photos against their answers."""
        answered = self.answered()
        return Count(
            accepted=len(self.accepted),
            answered=sum(1 for photo in self.accepted if answered[photo]),
            lost=sum(1 for photo in self.accepted if not answered[photo]),
            doubled=sum(1 for photo in self.accepted if answered[photo] > 1),
            again=sum(1 for times in self.begun().values() if times > 1),
        )

    def accept(self, seconds: float) -> str:
        """Take in a photo that takes so many seconds to answer, and return its id."""
        raise NotImplementedError

    def answered(self) -> Counter[str]:
        """Return how often each photo was answered."""
        raise NotImplementedError

    def is_over(self) -> bool:
        """Whether nothing is left that could still be answered."""
        raise NotImplementedError

    def _is_waiting(self) -> bool:
        with redis.Redis.from_url(self.broker_url) as broker:
            return any("b" in client["flags"] for client in broker.client_list())


@dataclass
class Stock(Side):
    """Stock Celery: the message is the photo."""

    name: ClassVar[str] = "stock"
    app: ClassVar[str] = "tests.chaos.stock_celery.stock"

    def __post_init__(self) -> None:
        self._sender = Celery("sender", broker=self.broker_url, set_as_current=False)

    def accept(self, seconds: float) -> str:
        """Publish one photo; it is accepted when the broker has answered."""
        photo = new_id().hex
        self._sender.send_task(ANSWER, (photo, seconds), queue=QUEUE, retry=False)
        self.accepted.append(photo)
        return photo

    def answered(self) -> Counter[str]:
        """Return how often each photo was answered, as the workers noted it."""
        return notes.read(self.notes, notes.ANSWERED)

    def left(self) -> tuple[int, int]:
        """Return how many messages the queue holds, and how many are in some worker's hands."""
        with redis.Redis.from_url(self.broker_url) as broker:
            return int(broker.llen(QUEUE)), int(broker.hlen("unacked"))

    def is_over(self) -> bool:
        """Whether nothing is left that could still be answered."""
        return self.left() == (0, 0)


@dataclass
class Ours(Side):
    """Our ledger: the message is a token. ``worker`` and ``web`` are the variables of such processes."""

    name: ClassVar[str] = "ours"
    app: ClassVar[str] = "tests.chaos.stock_celery.tokens"
    worker: dict[str, str] = field(default_factory=dict)
    web: dict[str, str] = field(default_factory=dict)
    owner_url: str = ""
    tenant: UUID = field(default_factory=new_id)

    def __post_init__(self) -> None:
        self._database = Database.open(Settings.load(self.web), "poxvisio_app")
        self._broker = Broker(Settings.load(self.web))

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a worker."""
        return {**super().environment, **self.worker}

    def accept(self, seconds: float) -> str:
        """Take one photo in as the web side does: a transaction, then a token at best effort."""
        photo = new_id().hex
        job = new_id()
        image = NewImage(new_id(), 0, None, None, f"contrast/{photo}/{seconds}", photo.encode(), 1)
        with self._database.transaction(self.tenant) as session:
            submit(session, NewJob(job, self.tenant, None, "normal", [image]))
        self.accepted.append(photo)
        self._broker.wake(["normal"])
        return photo

    def answered(self) -> Counter[str]:
        """Return how many results each photo has."""
        return Counter(
            {
                str(photo): int(str(results))
                for photo, results in self._rows(
                    "SELECT split_part(i.storage_key, '/', 2), count(r.image_id) FROM image i"
                    " LEFT JOIN result r ON r.image_id = i.id WHERE i.tenant_id = %s GROUP BY 1"
                )
            }
        )

    def is_over(self) -> bool:
        """Whether every job is closed."""
        return self._rows("SELECT count(*) FROM job WHERE tenant_id = %s AND closed_at IS NULL") == [(0,)]

    @contextmanager
    def swept(self) -> Iterator[None]:
        """Run the sweep beside."""
        database = Database.open(Settings.load(self.worker), "poxvisio_worker")
        broker = Broker(Settings.load(self.worker))
        upkeep = Upkeep(database, broker, seconds=_SWEEP_SECONDS)
        thread = threading.Thread(target=upkeep.run)
        thread.start()
        try:
            yield
        finally:
            upkeep.stop()
            thread.join()
            broker.close()
            database.close()

    def close(self) -> None:
        """Give connections back."""
        self._broker.close()
        self._database.close()

    def _rows(self, statement: str) -> list[tuple[object, ...]]:
        connection = psycopg2.connect(self.owner_url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, (str(self.tenant),))
                return cursor.fetchall()
        finally:
            connection.close()


@contextmanager
def broker_that_syncs(folder: Path) -> Iterator[str]:
    """Run a Valkey that has every write on the disk before it answers; gives its address."""
    server = EmbeddedValkey(folder)
    url = server.start()
    try:
        with redis.Redis.from_url(url) as broker:
            broker.config_set("appendfsync", "always")
            assert broker.config_get("appendonly", "appendfsync") == {"appendonly": "yes", "appendfsync": "always"}
        yield url
    finally:
        server.stop()
