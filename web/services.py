"""The collaborators of a web process: built once, passed on, never looked up at import."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flask import current_app

from shared.broker import Broker
from shared.bundle import CARD, Bundle, load_bundle
from shared.database import Database
from shared.errors import BundleError
from shared.ledger import backlog
from shared.ledger.backlog import Backlog
from shared.settings import Settings
from shared.signing import Keyring
from shared.storage import Storage, open_storage

ROLE: Final = "poxvisio_app"
_LOOK_AGAIN: Final = 2.0
_READ_AGAIN: Final = 1.0
# Of a pace: the first look at four fifths of the usual time, then a look every twentieth of the time that has passed.
_EARLY: Final = 0.8
_STEP: Final = 0.05
_LEARNING: Final = 0.3
_SHORTEST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.25


class ServedModel:
    """The bundle that the settings name, verified when it changes; a missing one is looked for again."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._seen: tuple[int, int] | None = None
        self._bundle: Bundle | None = None
        self._problem: BundleError | None = None

    def bundle(self) -> Bundle:
        """Return the bundle; raises ``BundleMissing`` or ``BundleAltered``."""
        with self._lock:
            if self._clock() - self._looked >= _LOOK_AGAIN:
                self._look()
            if self._bundle is None:
                raise self._problem or BundleError("no bundle was looked for")
            return self._bundle

    def _look(self) -> None:
        self._looked = self._clock()
        try:
            state = (self._path / CARD).stat()
            seen = (state.st_mtime_ns, state.st_ino)
        except OSError:
            seen = None
        if seen is not None and seen == self._seen and self._bundle is not None:
            return
        try:
            self._bundle, self._problem = load_bundle(self._path), None
        except BundleError as error:
            self._bundle, self._problem = None, error
        self._seen = seen


class Seats:
    """Places for requests that take long."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._changed = threading.Condition()
        self.taken = 0

    def take(self, patience: float = 0.0) -> bool:
        """Take a place if there is one, or one is left within so many seconds."""
        with self._changed:
            free = self._changed.wait_for(lambda: self.taken < self._places, patience)
            self.taken += free
            return free

    def leave(self) -> None:
        """Give the place back."""
        with self._changed:
            self.taken -= 1
            self._changed.notify()


class Pace:
    """How long answers take of late: who waits for one looks just before it should come, and often from then on.

    Looks in vain cost CPU that the network needs, late ones cost the caller time.
    """

    def __init__(self) -> None:
        self._usual = 0.0

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to sleep before each look.

        None is longer than a quarter of a second: what is usual may have been a crowd that is gone.
        """
        waited = 0.0
        while True:
            due = _EARLY * self._usual - waited
            pause = min(max(_SHORTEST_PAUSE, due if due > 0 else _STEP * waited), _LONGEST_PAUSE)
            yield pause
            waited += pause

    def learn(self, seconds: float, looks: int) -> None:
        """Remember how long an answer took; one that was there at the first look came sooner than anybody knows."""
        self._usual = _EARLY * seconds if looks == 1 else self._usual + _LEARNING * (seconds - self._usual)


class Gauge:
    """What waits in all, asked of the database about once a second and not for every request."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._found: Backlog | None = None

    def read(self) -> Backlog | None:
        """Return what was counted last, None where nothing is known; raises ``DatabaseAway``."""
        with self._lock:
            if self._clock() - self._looked >= _READ_AGAIN:
                with self._database.transaction() as session:
                    self._found = backlog.look(session)
                self._looked = self._clock()
            return self._found


@dataclass(frozen=True)
class Services:
    """Everything a request may need. Threads share it."""

    settings: Settings
    database: Database
    storage: Storage
    broker: Broker
    keyring: Keyring
    model: ServedModel
    waiting: Seats
    answers: Pace
    uploads: Seats
    gauge: Gauge

    @classmethod
    def open(cls, settings: Settings) -> "Services":
        """Build the collaborators that the settings describe; none is contacted but a storage folder."""
        database = Database.open(settings, ROLE)
        return cls(
            settings=settings,
            database=database,
            storage=open_storage(settings),
            broker=Broker(settings),
            keyring=Keyring.from_settings(settings),
            model=ServedModel(settings.model),
            waiting=Seats(settings.max_waiting_clients),
            answers=Pace(),
            uploads=Seats(settings.max_uploads),
            gauge=Gauge(database),
        )

    def close(self) -> None:
        """Give connections back."""
        self.database.close()
        self.broker.close()


def services() -> Services:
    """Return the collaborators of the application that serves this request."""
    found: Services = current_app.extensions["poxvisio"]
    return found
