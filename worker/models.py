"""The networks a worker has loaded, and which of them answers a unit.

What serves may change at any time. A claim brings the version of that along; where it is a new one a thread of its own
loads what is missing beside what answers, and then puts it in its place. A unit keeps the network it was given when it
was claimed, so that all its answers are one model's, and a network that cannot be loaded here replaces none that
answers. Jobs that ask for a model by its id wait, as they are, while it is loaded.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from shared.bundle import Bundle, load_bundle
from shared.database import Database
from shared.errors import BundleError, BundleMissing, DatabaseAway, Unavailable
from shared.ledger.claim import Claimed
from shared.logs import logger
from shared.registry import bundles, records, serving
from shared.registry.serving import NOTHING, Serving
from shared.storage import Storage
from worker.inference.classifier import Classifier
from worker.node_cache import Room, prune

log = logger(__name__)

# What could not be loaded is tried again after that; until then jobs that ask for it are put off.
_AGAIN_SECONDS: Final = 30.0
_DATABASE_SECONDS: Final = 1.0
_MOST_FRESH: Final = 2

Load = Callable[[Bundle], Classifier]


class ModelAway(Unavailable):
    """The model that a job asks for cannot be loaded here now. Retry later."""


class Choice(Protocol):
    """What the worker asks about networks."""

    def of(self, unit: Claimed) -> Classifier | None:
        """Return the network that answers this unit, None while it is being loaded; raises ``ModelAway``."""

    def wait(self, seconds: float) -> None:
        """Return when something was loaded, or failed to be, and after ``seconds`` in any case."""

    def shadow_of(self, unit: Claimed, image_id: UUID, bundle: Bundle) -> Classifier | None:
        """Return the shadow that looks at this photo, which ``bundle`` has answered; None where none does."""


class OneModel:
    """The one network of a worker that knows no register."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def of(self, unit: Claimed) -> Classifier | None:  # noqa: ARG002  # it answers everything
        """Return the network."""
        return self._classifier

    def wait(self, seconds: float) -> None:
        """Return at once: nothing is ever loaded."""

    def shadow_of(self, unit: Claimed, image_id: UUID, bundle: Bundle) -> Classifier | None:  # noqa: ARG002  # as above
        """Return None: there is no other."""
        return None


class Models:
    """The networks of one worker; threads may share it. ``start`` loads what is live, and then a thread follows."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        *,
        default: Path,
        cache: Path,
        kept: int,
        load: Load,
        room: Room | None = None,
    ) -> None:
        self._database, self._storage = database, storage
        self._default, self._cache, self._kept, self._load = default, cache, kept, load
        self._room = room
        self._lock = threading.Lock()
        #: By digest, the one used longest ago first.
        self._loaded: dict[str, Classifier] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._wanted: set[str] = set()
        # Loaded because a job asked for them, which has not taken them yet: they are not let go of before.
        self._fresh: set[str] = set()
        self._serving: Serving = NOTHING
        self._live: Classifier | None = None
        self._canary: Classifier | None = None
        self._shadow: Classifier | None = None
        #: What keeps this worker from serving what it should; None where it does.
        self.problem: str | None = None
        self._wake = threading.Event()
        self._news = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="models", daemon=True)

    @property
    def live(self) -> Classifier:
        """The network that answers jobs which ask for none."""
        if self._live is None:
            raise RuntimeError("ask after start")
        return self._live

    @property
    def serving(self) -> Serving:
        """What served when this worker last looked."""
        return self._serving

    def start(self) -> None:
        """Load what is live; raises ``BundleError``, ``StorageAway``, ``DatabaseAway``, and what engines raise."""
        with self._database.transaction() as session:
            now = serving.read(session)
        self._live = self._get(now.live)
        self._serving = now
        self._wake.set()  # for a canary, and to look what the node holds
        self._thread.start()

    def heed(self, version: int) -> None:
        """Look what serves now unless this version was seen; costs nothing where it was."""
        if version != self._serving.version:
            self._wake.set()

    def of(self, unit: Claimed) -> Classifier | None:
        """Return the network that answers this unit, None while it is being loaded; raises ``ModelAway``."""
        self.heed(unit.serving)
        if unit.model is not None:
            return self._asked_for(unit.model)
        canary = self._canary
        if canary is not None and self._serving.is_for_canary(unit.job_id):
            return canary
        return self.live

    def shadow_of(self, unit: Claimed, image_id: UUID, bundle: Bundle) -> Classifier | None:
        """Return the shadow of an answer of the live model, for its share of photos."""
        shadow = self._shadow
        if shadow is None or unit.model is not None or bundle.digest != self.live.bundle.digest:
            return None
        return shadow if self._serving.is_for_shadow(image_id) else None

    def wait(self, seconds: float) -> None:
        """Return when something was loaded, or failed to be, and after ``seconds`` in any case."""
        self._news.wait(seconds)
        self._news.clear()

    def close(self) -> None:
        """End the thread after what it loads now."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _asked_for(self, model_id: str) -> Classifier | None:
        with self._lock:
            for digest, classifier in self._loaded.items():
                if classifier.bundle.id == model_id:
                    self._loaded[digest] = self._loaded.pop(digest)  # used last
                    self._fresh.discard(digest)
                    return classifier
            failed_at, why = self._failed.get(model_id, (float("-inf"), ""))
            if time.monotonic() - failed_at < _AGAIN_SECONDS:
                raise ModelAway(why)
            self._wanted.add(model_id)
        self._wake.set()
        return None

    def _follow(self) -> None:
        """Load what is missing whenever there is news; the body of the thread."""
        pause: float | None = None
        while not self._closing.is_set():
            self._wake.wait(pause)
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                pause = None if self._catch_up() else _AGAIN_SECONDS
            except DatabaseAway:
                pause = _DATABASE_SECONDS
            except Exception:  # the edge of a thread: what answers goes on answering
                log.exception("models_not_followed")
                pause = _AGAIN_SECONDS
            self._news.set()

    def _catch_up(self) -> bool:
        """Load what serves and what jobs ask for; return whether all of it is there."""
        with self._database.transaction() as session:
            now = serving.read(session)
        live = self._tried(now.live)
        if live is not None:
            self._live = live
        canary = self._tried(now.canary) if now.canary is not None else None
        shadow = self._tried(now.shadow) if now.shadow is not None else None
        # In this order: a canary that is no longer one must not be given the share of the next.
        self._canary, self._shadow, self._serving = None, None, now
        self._canary, self._shadow = canary, shadow
        self._bring_wanted()
        self._forget()
        self._prune()
        missing = live is None or (canary is None and now.canary is not None)
        missing = missing or (shadow is None and now.shadow is not None)
        if not missing:
            self.problem = None
        return not missing

    def _tried(self, digest: str | None) -> Classifier | None:
        """Return the network, or None with the reason in ``problem``: whatever answers goes on."""
        try:
            return self._get(digest)
        except (BundleError, Unavailable) as error:
            self.problem = f"{digest[:12] if digest else 'the bundle of MODEL'} is not served here: {error}"
        except Exception as error:  # engines raise what they like
            self.problem = f"{digest[:12] if digest else 'MODEL'} is not served here: {type(error).__name__}"
            log.exception("model_not_loaded")
        log.error("model_not_served", digest=digest, problem=self.problem)
        return None

    def _bring_wanted(self) -> None:
        """Load the models that jobs ask for by their ids."""
        with self._lock:
            wanted = sorted(self._wanted)
        for model_id in wanted:
            try:
                self._get_by_id(model_id)
            except DatabaseAway:
                raise
            except (BundleError, Unavailable) as error:
                self._note_failure(model_id, str(error))
            except Exception as error:  # engines raise what they like
                log.exception("model_not_loaded", model=model_id)
                self._note_failure(model_id, f"the engine does not start: {type(error).__name__}")
            with self._lock:
                self._wanted.discard(model_id)

    def _note_failure(self, model_id: str, why: str) -> None:
        log.error("model_not_loaded", model=model_id, problem=why)
        with self._lock:
            self._failed[model_id] = (time.monotonic(), why)

    def _get_by_id(self, model_id: str) -> None:
        with self._database.transaction() as session:
            digest = records.digest_of(session, model_id)
        if digest is None and load_bundle(self._default).id != model_id:
            raise BundleMissing(f"There is no model {model_id} any more.")
        classifier = self._get(digest)
        with self._lock:
            self._fresh.add(classifier.bundle.digest)

    def _get(self, digest: str | None) -> Classifier:
        """Return the network of this digest, of the bundle that ``MODEL`` names for None, loaded where it is not."""
        if digest is not None and digest in self._loaded:
            return self._loaded[digest]
        bundle = load_bundle(self._default) if digest is None else bundles.fetch(self._storage, digest, self._cache)
        if bundle.digest in self._loaded:
            return self._loaded[bundle.digest]
        began = time.monotonic()
        classifier = self._load(bundle)
        with self._lock:
            self._loaded[bundle.digest] = classifier
        engine = f"{classifier.engine.name} {classifier.engine.precision}"
        took = round(time.monotonic() - began, 2)
        log.info("network_ready", model=bundle.id, digest=bundle.digest, engine=engine, seconds=took)
        return classifier

    def _prune(self) -> None:
        """Delete from the node's disk what nothing asks for; a fault of that keeps nothing from answering."""
        if self._room is None:
            return
        with self._database.transaction() as session:
            needed = records.needed(session)
        with self._lock:
            needed |= set(self._loaded)
        if gone := prune(self._cache, needed, self._room):
            log.info("models_pruned", digests=gone)

    def _forget(self) -> None:
        """Let go of what was used longest ago; what serves stays, and so does what is answering a unit now."""
        with self._lock:
            if len(self._loaded) > self._kept + _MOST_FRESH:
                self._fresh.clear()  # of jobs that were cancelled meanwhile
            for digest in list(self._loaded):
                if len(self._loaded) <= self._kept:
                    return
                if self._loaded[digest] not in (self._live, self._canary, self._shadow) and digest not in self._fresh:
                    del self._loaded[digest]
