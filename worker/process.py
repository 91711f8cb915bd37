"""What one pool child holds: the loaded network, its connections, and the row that tells others how it fares.

Where the bundle is missing or altered the child lives on and says so; jobs wait, and it looks again.
"""

import os
import threading
import time
from functools import partial

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.broker import Broker
from shared.bundle import Bundle
from shared.database import Database
from shared.errors import BundleError, DatabaseAway, StorageAway
from shared.logs import logger
from shared.settings import Settings
from shared.storage import Storage, open_storage
from shared.vocabulary import LANES
from worker.classification import Classification
from worker.company import Company
from worker.examiner import Examiner
from worker.holder import holder_name, release_dead
from worker.inference.classifier import Classifier
from worker.models import Models
from worker.node_cache import Room
from worker.pace import Pace
from worker.people import People
from worker.photos import PhotoReader
from worker.receiver import Receiver
from worker.shadow import Shadow
from worker.tokens import Tokens

log = logger(__name__)

_REPORT_SECONDS = 2.0
# A worker that takes many small jobs changes its state many times a second.
_PAUSE_SECONDS = 0.25
_RELOAD_SECONDS = 5.0
_PEOPLE_SECONDS = 0.25

_REPORT = sa.text("""
    INSERT INTO worker_node (name, state, bundle_id, bundle_digest, engine, images_per_second, problem)
    VALUES (:name, :state, :bundle, :digest, :engine, :rate, :problem)
    ON CONFLICT (name) DO UPDATE SET state = excluded.state, bundle_id = excluded.bundle_id,
      bundle_digest = excluded.bundle_digest, engine = excluded.engine, images_per_second = excluded.images_per_second,
      problem = excluded.problem, last_seen = now()
""")
# Whether more than it holds waits for it, which models serve, and whether one is to be examined.
_LOOK = sa.text("""
    SELECT EXISTS (SELECT FROM unit WHERE state = 'ready' AND kind = 'images') AS more,
      coalesce((SELECT version FROM model_serving), 0) AS serving,
      EXISTS (SELECT FROM model WHERE state = 'checking' AND (lease_until IS NULL OR lease_until < now())) AS unchecked
""")
_FORGET = sa.text("DELETE FROM worker_node WHERE name = :name OR last_seen < now() - interval '1 day'")


class WorkerProcess:
    """The inside of a pool child."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database.open(settings, "poxvisio_worker")
        self._holder = holder_name()
        self._classification: Classification | None = None
        self._people: People | None = None
        self._receiver: Receiver | None = None
        self._broker = Broker(settings)
        self._tokens = Tokens(settings)
        self._parent = os.getppid()
        self._models: Models | None = None
        self._examiner: Examiner | None = None
        self._state = "starting"
        self._problem: str | None = None
        self._tried_at = 0.0
        self._pace = Pace()
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._reporter = threading.Thread(target=self._report_on, name="reporter", daemon=True)

    def start(self) -> None:
        """Release what a dead predecessor held, then load the network."""
        try:
            release_dead(self._database)
        except DatabaseAway:
            log.warning("release_skipped")
        self._reporter.start()
        self._load()
        self._report()

    def drain(self) -> None:
        """Answer photos until nothing is ready and no token has come for a while."""
        while not self._stopping.is_set():
            self._drain()
            # Another worker can do more with a token where there is no network here, and a child whose parent is gone
            # hears of nothing any more, not even that it should stop.
            if self._classification is None or os.getppid() != self._parent or not self._listen(self._classification):
                return

    def _listen(self, classification: Classification) -> bool:
        """Return whether a token came within some seconds; what is announced meanwhile is decoded ahead."""
        is_told = self._tokens.take(classification.look_ahead)
        if not is_told:
            classification.forget()
        return is_told

    def _drain(self) -> None:
        """Answer photos until nothing is ready; do nothing where there is no network to answer with."""
        if self._receiver is not None:
            self._receiver.look()
        classification = self._loaded()
        if classification is not None:
            self._enter("busy")
            try:
                classification.drain()
            finally:
                self._enter("ready")

    def stop(self) -> None:
        """Ask the running drain to end; called from a signal handler, so it only sets flags."""
        self._stopping.set()
        self._tokens.stop()
        if self._receiver is not None:
            self._receiver.stop()
        if self._classification is not None:
            self._classification.stop()
        if self._people is not None:
            self._people.stop()

    def close(self) -> None:
        """Give everything back."""
        self.stop()
        self._changed.set()  # not in stop(): a signal may come while the drain holds this flag's lock
        if self._reporter.is_alive():
            self._reporter.join()  # or it would write the row again that goes below
        if self._receiver is not None:
            self._receiver.close()
        if self._people is not None:
            self._people.close()
        if self._classification is not None:
            self._classification.close()
        if self._models is not None:
            self._models.close()
        if self._examiner is not None:
            self._examiner.close()
        try:
            with self._database.transaction() as session:
                session.execute(_FORGET, {"name": self._holder})
        except DatabaseAway:
            log.warning("node_not_forgotten")
        self._broker.close()
        self._tokens.close()
        self._database.close()

    def _loaded(self) -> Classification | None:
        if self._classification is None and time.monotonic() - self._tried_at > _RELOAD_SECONDS:
            self._load()
            self._report()
        return self._classification

    def _load(self) -> None:
        self._tried_at = time.monotonic()
        settings = self._settings
        try:
            storage = open_storage(settings)
            self._receive(storage)
            self._examiner = self._examiner or Examiner(settings, self._database, storage)
            models = Models(
                self._database,
                storage,
                default=settings.model,
                cache=settings.cache_dir,
                kept=settings.engines_kept,
                load=self._network_of,
                room=Room(settings.models_cached, settings.model_cache_bytes),
            )
            models.start()
        except (BundleError, StorageAway, DatabaseAway) as error:
            self._state, self._problem = "setup failed", str(error)
            log.error("setup_failed", problem=str(error))
            return
        except Exception as error:  # engines raise what they like; the child says so and tries again
            self._state, self._problem = "setup failed", f"the engine does not start: {type(error).__name__}"
            log.exception("setup_failed")
            return
        self._begin(storage, models)
        self._models = models
        self._state, self._problem = "ready", None

    def _begin(self, storage: Storage, models: Models) -> None:
        settings, database, company = self._settings, self._database, Company()
        shadow = Shadow(database, models)
        make = partial(
            Classification,
            settings=settings,
            database=database,
            storage=storage,
            models=models,
            company=company,
            shadow=shadow,
        )
        people = PhotoReader(settings, storage, for_people=True)
        aside = make(photos=people, holder=holder_name("people"), people_only=True)
        tokens = Tokens(settings, lanes=LANES[:1], seconds=_PEOPLE_SECONDS)
        self._people = People(database, aside, tokens, lambda: self._broker.wake(LANES[:1]))
        self._people.start()
        photos = PhotoReader(settings, storage, people=people)
        self._classification = make(photos=photos, holder=self._holder, beside=self._people)

    def _network_of(self, bundle: Bundle) -> Classifier:
        settings = self._settings
        return Classifier.load(
            bundle,
            engine=settings.engine,
            precision=settings.precision,
            threads=settings.engine_threads,
            cache=settings.cache_dir,
        )

    def _receive(self, storage: Storage) -> None:
        """Begin to take jobs in, which needs no network."""
        if self._receiver is None:
            broker = self._broker
            self._receiver = Receiver(
                self._settings, self._database, storage, self._holder, wake=lambda lane: broker.wake([lane])
            )
            self._receiver.start()

    def _report_on(self) -> None:
        measured_at = time.monotonic()
        while not self._stopping.wait(_PAUSE_SECONDS):
            is_due = not self._changed.wait(max(0.0, measured_at + _REPORT_SECONDS - time.monotonic()))
            self._changed.clear()
            if self._stopping.is_set():
                return
            try:
                self._report(measure=is_due)
            except Exception:  # the edge of a thread: one bad report must not be the last
                log.exception("report_failed")
            if is_due:
                measured_at = time.monotonic()

    def _enter(self, state: str) -> None:
        """Be in another state; it is reported from the reporter's thread, since a photo may be waiting."""
        self._state = state
        self._changed.set()

    def _report(self, *, measure: bool = False) -> None:
        network = self._models.live if self._models is not None else None
        engine = f"{network.engine.name} {network.engine.precision}" if network else None
        try:
            with self._database.transaction(lasting=False) as session:
                if measure:
                    self._look(session)
                session.execute(
                    _REPORT,
                    {
                        "name": self._holder,
                        "state": self._state,
                        "bundle": network.bundle.id if network else None,
                        "digest": network.bundle.digest if network else None,
                        "engine": engine,
                        "rate": self._pace.rate or (self._classification and self._classification.images_per_second),
                        "problem": self._problem or (self._models and self._models.problem),
                    },
                )
        except DatabaseAway:
            log.warning("report_missed")

    def _look(self, session: Session) -> None:
        """See what has changed meanwhile: an idle worker claims nothing that could tell it."""
        found = session.execute(_LOOK).one()
        if self._classification is not None:
            is_full = self._state == "busy" and found.more
            answered = self._classification.answered + (self._people.answered if self._people is not None else 0)
            self._pace.look(time.monotonic(), answered, is_full=is_full)
        if self._models is not None:
            self._models.heed(found.serving)
        if found.unchecked and self._examiner is not None:
            self._examiner.begin()
