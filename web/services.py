"""The collaborators of a web process: built once, passed on, never looked up at import."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from flask import current_app

from shared.announcing import Announcing
from shared.broker import Broker
from shared.bundle import CARD, Bundle, load_bundle
from shared.database import Database
from shared.errors import BundleError
from shared.hints import Hearing
from shared.ledger import backlog
from shared.ledger.backlog import Backlog
from shared.settings import Settings
from shared.signing import Keyring
from shared.storage import Storage, open_storage
from web import news
from web.exchange import Exchange
from web.known_keys import KnownKeys
from web.news import Answered, AnswerOf, AsKnown, Change, News, Reader
from web.places import Places
from web.rates import Policy, Rates
from web.watch import Watch

ROLE: Final = "poxvisio_app"
_LOOK_AGAIN: Final = 2.0
_READ_AGAIN: Final = 1.0
# JSON, and what is still read after a refusal, come in at once unless somebody means harm.
_DOCUMENTS: Final = 32
_MINUTE: Final = 60
# Seconds between two looks for a tenant whose clients wait for news, soon after some came and long after.
_NEWS_SHORTEST: Final = 0.05
_NEWS_LONGEST: Final = 0.5


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


def _halved(places: int) -> Places:
    """Return so many places, half of them for one tenant, and nobody waits for one."""
    return Places(places, 0, of_tenant=max(1, places // 2), waiting=0)


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
            return self._found and self._found.older(self._clock() - self._looked)


@dataclass(frozen=True)
class Services:
    """Everything a request may need. Threads share it."""

    settings: Settings
    database: Database
    storage: Storage
    broker: Broker
    announcing: Announcing
    keyring: Keyring
    model: ServedModel
    waiting: Places
    watch: Watch[AnswerOf, Answered]
    hearing: Hearing
    changes: Watch[AsKnown, Change]
    feed: Watch[Reader, News]
    uploads: Places
    streams: Places
    event_streams: Places
    documents: Places
    gauge: Gauge
    rates: Rates
    exchange: Exchange
    refused: Rates
    opened_links: Rates
    open_doors: Rates
    known_keys: KnownKeys

    @classmethod
    def open(cls, settings: Settings, database: Database | None = None) -> "Services":
        """Build the collaborators that the settings describe; none is contacted but a storage folder.

        ``database`` is used in place of the one that the settings name, and closed with the others.
        """
        database = database or Database.open(settings, ROLE)
        watch: Watch[AnswerOf, Answered] = Watch(news.Answers(database).look, named=lambda wish: wish.job)
        rates = Rates(
            [
                Policy("key", settings.key_rate, settings.rate_seconds),
                Policy("tenant", settings.tenant_rate, settings.rate_seconds),
            ]
        )
        # Apart from the key's own: whoever has a link must not be able to use up what its maker may ask.
        opened_links = Rates([Policy("link", settings.key_rate, settings.rate_seconds)])
        return cls(
            settings=settings,
            database=database,
            storage=open_storage(settings),
            broker=Broker(settings),
            announcing=Announcing(settings),
            keyring=Keyring.from_settings(settings),
            model=ServedModel(settings.model),
            waiting=_halved(settings.max_waiting_clients),
            watch=watch,
            hearing=Hearing(settings, watch.hint),
            changes=Watch(partial(news.of_jobs, database), shortest=_NEWS_SHORTEST),
            feed=Watch(partial(news.for_readers, database), shortest=_NEWS_SHORTEST, longest=_NEWS_LONGEST),
            uploads=Places(settings.max_uploads, settings.max_slow_uploads),
            documents=Places(_DOCUMENTS, 0, of_tenant=_DOCUMENTS // 2, waiting=0),
            streams=Places(settings.max_streams, 0, of_tenant=max(1, settings.max_streams // 2), waiting=16),
            event_streams=_halved(settings.max_event_streams),
            gauge=Gauge(database),
            rates=rates,
            exchange=Exchange([rates, opened_links], settings),
            refused=Rates([Policy("address", settings.refused_keys / _MINUTE, _MINUTE)]),
            opened_links=opened_links,
            open_doors=Rates([Policy("address", settings.address_rate, settings.rate_seconds)]),
            known_keys=KnownKeys(),
        )

    def end_waiting(self) -> None:
        """Answer whoever waits, end the streams of events, and let nobody wait any more."""
        for watch in (self.watch, self.changes, self.feed):
            watch.end()

    def close(self) -> None:
        """Give connections back."""
        self.end_waiting()
        self.exchange.close()
        self.hearing.close()
        self.database.close()
        self.broker.close()
        self.announcing.close()


def services() -> Services:
    """Return the collaborators of the application that serves this request."""
    found: Services = current_app.extensions["poxvisio"]
    return found
