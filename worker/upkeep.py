"""The sweep as a process, and the housekeeping that goes with it: ``python -m worker.upkeep``.

Every round reaps, promotes, expires and wakes workers for what is ready. Every minute it audits closed jobs, deletes
originals that are no longer needed and forgets old idempotency keys. Faults of a part end the round, never the process.
"""

import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from types import FrameType
from uuid import UUID

import sqlalchemy as sa

from shared.broker import Broker
from shared.database import Database
from shared.errors import InvalidSetting, Unavailable
from shared.ledger.sweep import disagreements, sweep
from shared.logs import configure, logger
from shared.settings import Settings
from shared.storage import Storage, open_storage

log = logger(__name__)

_HOUSEKEEPING_SECONDS = 60.0
_ORPHANS_AFTER = timedelta(hours=24)

_WITH_ORIGINALS = sa.text("""
    SELECT id, failed FROM job
    WHERE closed_at IS NOT NULL AND originals_deleted_at IS NULL AND NOT keep_originals ORDER BY closed_at LIMIT 200
""")
_FAILED_KEYS = sa.text("""
    SELECT i.storage_key FROM result r JOIN image i ON i.id = r.image_id WHERE r.job_id = :job AND r.outcome = 'failed'
""")
_ORIGINALS_DELETED = sa.text("UPDATE job SET originals_deleted_at = now() WHERE id = :job")
_OLD_KEYS = sa.text("""
    DELETE FROM idempotency_key
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency_key WHERE expires_at < now() LIMIT 1000))
""")


class Upkeep:
    """One process's rounds. Several may run; the sweep's lock lets one work at a time."""

    def __init__(self, settings: Settings, database: Database, storage: Storage, broker: Broker) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._broker = broker
        self._stopping = threading.Event()
        self._housekept_at = 0.0
        self._tidied_at = time.monotonic()

    def stop(self) -> None:
        """End after the present round."""
        self._stopping.set()

    def run(self) -> None:
        """Sweep until asked to stop."""
        log.info("sweep_started", seconds=self._settings.sweep_seconds)
        while not self._stopping.is_set():
            try:
                self.round()
            except Unavailable as error:
                log.warning("sweep_interrupted", error=str(error))
            self._stopping.wait(self._settings.sweep_seconds)

    def round(self) -> None:
        """Do one sweep, send tokens for what is ready, and now and then keep house."""
        found = sweep(self._database)
        if found is not None:
            if found.reaped.total or found.promoted or found.expired or found.stopped:
                log.info(
                    "swept",
                    reaped=found.reaped.total,
                    quarantined=found.reaped.quarantined,
                    promoted=found.promoted,
                    expired=found.expired,
                    stopped=found.stopped,
                )
            self._broker.wake(lane for lane, units in found.ready.items() for _ in range(min(units, found.workers)))
            self._delete_originals()
        if time.monotonic() - self._housekept_at > _HOUSEKEEPING_SECONDS:
            self._housekept_at = time.monotonic()
            self._keep_house()

    def _keep_house(self) -> None:
        with self._database.transaction() as session:
            for job in disagreements(session):
                log.error("counts_disagree", job=str(job))
            session.execute(_OLD_KEYS)
            session.execute(sa.text("SELECT make_attempt_partitions()"))
        if time.monotonic() - self._tidied_at > _ORPHANS_AFTER.total_seconds() / 24:
            self._tidied_at = time.monotonic()
            self._delete_orphans()

    def _delete_originals(self) -> None:
        """Delete the originals of closed jobs, but for photos that failed: these may be tried again."""
        with self._database.transaction() as session:
            closed = session.execute(_WITH_ORIGINALS).all()
        for job, failed in closed:
            self._delete_originals_of(job, keep_failed=failed > 0)

    def _delete_originals_of(self, job: UUID, *, keep_failed: bool) -> None:
        folder = f"incoming/{job.hex}"
        if keep_failed:
            with self._database.transaction() as session:
                kept = set(session.execute(_FAILED_KEYS, {"job": job}).scalars())
            self._storage.delete([item.key for item in self._storage.list(folder) if item.key not in kept])
        else:
            self._storage.delete_prefix(folder)
        with self._database.transaction() as session:
            session.execute(_ORIGINALS_DELETED, {"job": job})

    def _delete_orphans(self) -> None:
        """Delete stored photos that no job names: their request died between storing and committing."""
        self._storage.tidy(_ORPHANS_AFTER.total_seconds())
        before = datetime.now(UTC) - _ORPHANS_AFTER
        old = {item.key.split("/")[1] for item in self._storage.list("incoming") if item.modified < before}
        if not old:
            return
        with self._database.transaction() as session:
            known = set(
                session.execute(
                    sa.text("SELECT id FROM job WHERE id = ANY (CAST(:jobs AS uuid[]))"), {"jobs": sorted(old)}
                ).scalars()
            )
        orphans = old - {job.hex for job in known}
        for job in orphans:
            self._storage.delete_prefix(f"incoming/{job}")
        if orphans:
            log.info("orphans_deleted", jobs=len(orphans))


def main() -> int:
    """Run the sweep until SIGTERM."""
    try:
        settings = Settings.load()
    except InvalidSetting as error:
        print(f"poxvisio sweep: {error}", file=sys.stderr)
        return 2
    configure(settings.log_level)
    upkeep = Upkeep(settings, Database.open(settings, "poxvisio_worker"), open_storage(settings), Broker(settings))

    def stop(_signal: int, _frame: FrameType | None) -> None:
        upkeep.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    upkeep.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
