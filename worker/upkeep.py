"""The sweep as a process: ``python -m worker.upkeep``.

Every round reaps, promotes, expires, wakes workers for what is ready, and changes which models serve. What may take
long, deleting photos above all, is done by a thread of its own (``worker/housekeeping.py``), so that no round waits for
it; so is the heartbeat. A fault ends the round, never the process.
"""

import signal
import sys
import threading
from types import FrameType

from shared import crash_points, heap
from shared.broker import Broker
from shared.bundle import load_bundle
from shared.database import Database
from shared.errors import BundleError, InvalidSetting, Unavailable
from shared.ledger.sweep import Sweep, sweep
from shared.logs import configure, logger
from shared.registry import changes
from shared.registry.changes import Named
from shared.settings import Settings
from shared.storage import Storage, open_storage
from worker.heartbeat import Heartbeat
from worker.housekeeping import Housekeeping

log = logger(__name__)


class Upkeep:
    """One process's rounds. Several may run; the sweep's lock spares them the same work."""

    def __init__(self, database: Database, broker: Broker, *, seconds: float, model: Named | None = None) -> None:
        self._database = database
        self._model = model
        self._broker = broker
        self._seconds = seconds
        self._stopping = threading.Event()
        self._was_away = False

    def stop(self) -> None:
        """End after the present round."""
        self._stopping.set()

    def run(self) -> None:
        """Sweep until asked to stop."""
        log.info("sweep_started", seconds=self._seconds)
        while not self._stopping.is_set():
            try:
                self.round()
                self._was_away = False
            except Unavailable as error:
                self._was_away = True
                log.warning("sweep_interrupted", error=str(error))
            except Exception:  # the edge of the process: one bad round must not be the last
                log.exception("sweep_failed")
            self._stopping.wait(self._seconds)

    def round(self) -> None:
        """Do one sweep and send tokens for what is ready, one for each unit and worker at most."""
        found = sweep(self._database, after_outage=self._was_away)
        if found is not None:
            _tell(found)
            self._broker.wake(lane for lane, units in found.ready.items() for _ in range(min(units, found.workers)))
        changes.make(self._database, self._model)


def _tell(found: Sweep) -> None:
    if found.reaped.total or found.promoted or found.expired or found.stopped:
        log.info(
            "swept",
            reaped=found.reaped.total,
            quarantined=found.reaped.quarantined,
            promoted=found.promoted,
            expired=found.expired,
            stopped=found.stopped,
        )


def _named(settings: Settings) -> Named | None:
    """Return the name of the bundle that ``MODEL`` names, for the events that tell of it."""
    try:
        bundle = load_bundle(settings.model)
    except BundleError as error:
        log.warning("no_default_model", problem=str(error))
        return None
    return Named(bundle.id, bundle.digest)


def _heartbeat(settings: Settings, database: Database, storage: Storage) -> Heartbeat:
    return Heartbeat(
        database,
        storage,
        Broker(settings).wake,
        default=settings.model,
        cache=settings.cache_dir,
        seconds=settings.heartbeat_seconds,
    )


def main() -> int:
    """Run the sweep, the housekeeping and the heartbeat until SIGTERM."""
    try:
        settings = Settings.load()
    except InvalidSetting as error:
        print(f"poxvisio sweep: {error}", file=sys.stderr)
        return 2
    configure(settings.log_level)
    crash_points.arm(settings.crash_point)
    database = Database.open(settings, "poxvisio_worker")
    upkeep = Upkeep(database, Broker(settings), seconds=settings.sweep_seconds, model=_named(settings))
    storage = open_storage(settings)
    beside: list[Housekeeping | Heartbeat] = [Housekeeping(database, storage, event_days=settings.event_days)]
    if settings.heartbeat_seconds:
        beside.append(_heartbeat(settings, database, storage))
    threads = [threading.Thread(target=one.run, name=type(one).__name__.lower()) for one in beside]

    def stop(_signal: int, _frame: FrameType | None) -> None:
        upkeep.stop()
        for one in beside:
            one.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    heap.settle()
    for thread in threads:
        thread.start()
    upkeep.run()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
