"""Taking jobs in beside the network: a thread for archives and one for lists of addresses, each with one at a time.

Each takes turns of some seconds, so that one job of ten gigabytes does not make those behind it wait. What was under a
worker when it died, and has not got on since, is taken up between two drains, when this process holds no photos: it
can take nobody with it then. Only where the network never rests does it go on beside it in the end.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Final

from shared.crash_points import passing
from shared.database import Database
from shared.errors import DatabaseAway, ObjectMissing, StorageAway
from shared.ledger import intake as ledger
from shared.ledger.intake import Intake
from shared.logs import logger
from shared.settings import Settings
from shared.storage import Storage
from worker.backoff import backoff_seconds
from worker.expansion import Expansion
from worker.fetching import Fetching, NothingDue
from worker.leases import LeaseKeeper
from worker.turn import Interrupted, Turn
from worker.work import MAX_ATTEMPTS, PHOTO_MISSING, STORAGE_UNREACHABLE

log = logger(__name__)

KINDS: Final = ("archive", "urls")
_LOOK_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.25
_TURN_SECONDS: Final = 10.0
_WAKE_SECONDS: Final = 1.0
_SUSPECTS_WAIT_SECONDS: Final = 60.0


class Receiver:
    """What one process takes in. ``wake`` is told a lane in which there are photos to answer now."""

    def __init__(
        self, settings: Settings, database: Database, storage: Storage, holder: str, wake: Callable[[str], object]
    ) -> None:
        self._settings, self._database, self._storage = settings, database, storage
        self._holder = holder
        self._wake = wake
        self._keeper = LeaseKeeper(database, settings.lease_floor)
        self._stopping = threading.Event()
        self._news = {kind: threading.Event() for kind in KINDS}
        self._threads: list[threading.Thread] = []
        self._was_quiet = time.monotonic()
        self._looked_at = float("-inf")

    def start(self) -> None:
        """Begin to look for work."""
        for kind in KINDS:
            thread = threading.Thread(target=self._run, args=(kind,), name=f"receive {kind}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def look(self) -> None:
        """Look at once: a token came. Then take suspects up, since the caller holds no photos.

        Where tokens come one upon the other, as for single photos, some are left to the look that comes every second.
        """
        if time.monotonic() - self._looked_at < _PAUSE_SECONDS:
            return
        self._looked_at = time.monotonic()
        for event in self._news.values():
            event.set()
        try:
            while not self._stopping.is_set() and self.work_once(KINDS, suspect=True):
                pass
        except DatabaseAway as error:
            log.warning("suspects_left", error=str(error))
        except Exception:  # as in the threads: its lease runs out, and the photos of others must not wait for it
            log.exception("receiving_failed")
        self._was_quiet = time.monotonic()

    def stop(self) -> None:
        """Ask for an end after the present entry; called from a signal handler, so it only sets flags."""
        self._stopping.set()

    def close(self) -> None:
        """Give everything back."""
        self.stop()
        for thread in self._threads:
            thread.join()
        self._keeper.close()

    def work_once(self, kinds: tuple[str, ...] = KINDS, *, suspect: bool = False) -> bool:
        """Take the first intake a turn further, and return whether there was one. Raises ``DatabaseAway``."""
        claimed_at = time.monotonic()
        with self._database.transaction() as session:
            intake = ledger.claim(
                session, self._holder, lease_seconds=self._keeper.seconds, kinds=kinds, suspect=suspect
            )
        if intake is None:
            return False
        passing("worker.receiving")
        self._keeper.add([intake], claimed_at)
        try:
            self._take_further(intake)
        finally:
            self._keeper.drop([intake])
        return True

    def _take_further(self, intake: Intake) -> None:
        log.info("receiving", job=str(intake.job_id), attempt=intake.attempt, photos=intake.total)
        try:
            is_done = self._run_turn(intake)
        except Interrupted:
            log.warning("receiving_interrupted", job=str(intake.job_id))
            # Where the lease was lost this finds nothing to give back.
            self._settle(lambda: self._pass_on(intake))
        except NothingDue as wait:
            seconds = wait.seconds
            self._settle(lambda: self._postpone(intake, seconds))
        except DatabaseAway:
            self._settle(lambda: self._pass_on(intake))
            raise
        except ObjectMissing:
            self._settle(lambda: self._give_up(intake, PHOTO_MISSING))
        except StorageAway as error:
            log.warning("receiving_put_off", job=str(intake.job_id), error=str(error))
            self._settle(lambda: self._put_off(intake))
        else:
            log.info("received" if is_done else "turn_over", job=str(intake.job_id))
            if not is_done:
                self._settle(lambda: self._pass_on(intake))

    def _run_turn(self, intake: Intake) -> bool:
        end = time.monotonic() + _TURN_SECONDS
        woken_at = 0.0

        def appended() -> None:
            nonlocal woken_at
            passing("worker.appended")
            if time.monotonic() - woken_at > _WAKE_SECONDS:
                woken_at = time.monotonic()
                self._wake(intake.lane)

        turn = Turn(
            holds=lambda: self._keeper.holds(intake),
            # A suspect that got on is none any more, and goes on beside the network.
            goes_on=lambda: not (self._stopping.is_set() or intake.crashes or time.monotonic() > end),
            appended=appended,
            must_end=self._stopping.is_set,
        )
        if intake.archive is None:
            return Fetching(self._settings, self._database, self._storage, intake=intake, turn=turn).run()
        expansion = Expansion(
            self._settings, self._database, self._storage, intake=intake, archive=intake.archive, turn=turn
        )
        return expansion.run()

    def _settle(self, act: Callable[[], None]) -> None:
        """Tell the ledger how a turn ended; where it cannot be told, the lease runs out."""
        try:
            act()
        except DatabaseAway as error:
            log.warning("intake_left_to_its_lease", error=str(error))

    def _pass_on(self, intake: Intake) -> None:
        with self._database.transaction() as session:
            ledger.pass_on(session, intake)

    def _put_off(self, intake: Intake) -> None:
        if intake.attempt >= MAX_ATTEMPTS:
            self._give_up(intake, STORAGE_UNREACHABLE)
            return
        self._postpone(intake, backoff_seconds(intake.attempt, random.random()))  # noqa: S311  # jitter

    def _postpone(self, intake: Intake, seconds: float) -> None:
        with self._database.transaction() as session:
            ledger.postpone(session, intake, seconds)

    def _give_up(self, intake: Intake, reason: str) -> None:
        log.error("intake_given_up", job=str(intake.job_id), reason=reason)
        with self._database.transaction() as session:
            ledger.give_up(session, intake, reason)

    def _run(self, kind: str) -> None:
        while not self._stopping.is_set():
            try:
                worked = self.work_once((kind,)) or self._take_late_suspects(kind)
            except DatabaseAway as error:
                log.warning("receiving_waits", error=str(error))
                worked = False
            except Exception:  # the edge of a thread: one bad job must not be the last; its lease runs out
                log.exception("receiving_failed")
                worked = False
            if not worked:
                self._news[kind].wait(_LOOK_SECONDS)
                self._news[kind].clear()

    def _take_late_suspects(self, kind: str) -> bool:
        is_late = time.monotonic() - self._was_quiet > _SUSPECTS_WAIT_SECONDS
        return is_late and self.work_once((kind,), suspect=True)
