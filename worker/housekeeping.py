"""What must be tidied up, however long it takes: photos nobody needs, old keys and events, the audit of counters.

Each job's photos are deleted on their own: one that cannot be deleted now is tried again and holds up no other. Several
processes may do the same work at once; deleting twice is harmless. The photos of a deleted job are looked for at once,
and again an hour later, when no worker can still be at one of them and store its copy.
"""

import re
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from shared.database import Database
from shared.errors import StorageAway, Unavailable
from shared.ledger.sweep import disagreements
from shared.logs import logger
from shared.storage import Storage
from shared.storage.keys import INCOMING, copies_of, originals_of
from worker import retention

log = logger(__name__)

_PAUSE_SECONDS = 1.0
_MINUTE = 60.0
_HOUR = 3600.0
_ORPHANS_AFTER = timedelta(hours=24)
_KEYS_AT_ONCE = 1000
# What is left of a long list of old events is for the next minute: others wait for this thread.
_FORGETTING_SECONDS = 20.0
_JOB_ID = re.compile(r"[0-9a-f]{32}")

# In no fixed order: what cannot be deleted must not stand in front of the rest for ever.
_WITH_ORIGINALS = sa.text("""
    SELECT id, round, failed > 0 AS some_failed, cancelled + expired + failed > 0 AS some_unanswered FROM (
      SELECT id, round, failed, cancelled, expired FROM job
      WHERE closed_at IS NOT NULL AND originals_deleted_at IS NULL AND NOT keep_originals AND deleted_at IS NULL
      LIMIT 2000) AS closed
    ORDER BY random() LIMIT 100
""")
# A photo without a result is one that is being tried again since the look at its job.
_NEEDED_KEYS = sa.text("""
    SELECT i.storage_key FROM image i LEFT JOIN result r ON r.image_id = i.id
    WHERE i.job_id = :job AND (r.image_id IS NULL OR r.outcome = 'failed')
""")
_WITH_COPIES = sa.text("""
    SELECT i.id FROM image i LEFT JOIN result r ON r.image_id = i.id
    WHERE i.job_id = :job AND (r.image_id IS NULL OR r.has_copy)
""")
# In the order of ids, as everywhere.
_ORIGINALS_DELETED = sa.text("""
    WITH held AS MATERIALIZED (
      SELECT j.id FROM job j, unnest(CAST(:jobs AS uuid[]), CAST(:rounds AS int[])) AS x (id, round)
      WHERE j.id = x.id AND j.round = x.round AND j.closed_at IS NOT NULL ORDER BY j.id FOR NO KEY UPDATE OF j)
    UPDATE job SET originals_deleted_at = now() FROM held WHERE job.id = held.id
""")
_SPENT_ARCHIVES = sa.text("""
    SELECT job_id, storage_key FROM (
      SELECT job_id, storage_key FROM intake
      WHERE ended_at IS NOT NULL AND source_deleted_at IS NULL LIMIT 2000) AS ended
    ORDER BY random() LIMIT 100
""")
_ARCHIVE_DELETED = sa.text("UPDATE intake SET source_deleted_at = now() WHERE job_id = :job")
_TO_PURGE = sa.text("""
    SELECT id, purge_at FROM (SELECT id, purge_at FROM job WHERE purge_at <= now() LIMIT 2000) AS deleted
    ORDER BY random() LIMIT 100
""")
# Only what was looked for is done: another process may have been here meanwhile.
_PURGED = sa.text("""
    UPDATE job SET purged_at = coalesce(purged_at, now()),
      originals_deleted_at = coalesce(originals_deleted_at, now()),
      purge_at = CASE WHEN purge_at = deleted_at THEN deleted_at + interval '1 hour' END
    WHERE id = :job AND purge_at = :looked
""")
_OLD_KEYS = sa.text("""
    DELETE FROM idempotency_key
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency_key WHERE expires_at < now() LIMIT :many))
    RETURNING 1
""")
# What lies there of a job whose originals were deleted came later: from an expander that had lost its lease.
_KNOWN = sa.text("""
    SELECT id FROM job WHERE id = ANY (CAST(:jobs AS uuid[]))
      AND (originals_deleted_at IS NULL OR originals_deleted_at > now() - interval '1 hour'
           OR failed > 0 OR keep_originals)
""")


class Housekeeping:
    """One process's tidying up."""

    def __init__(self, database: Database, storage: Storage, *, event_days: int = 30) -> None:
        self._database = database
        self._storage = storage
        self._event_days = event_days
        self._stopping = threading.Event()
        self._due = {
            self.audit: 0.0,
            self.forget_old_keys: 0.0,
            self.forget_old_events: 0.0,
            self.delete_orphans: time.monotonic() + _HOUR,
        }

    def stop(self) -> None:
        """End after the present step."""
        self._stopping.set()

    def run(self) -> None:
        """Tidy up until asked to stop."""
        while not self._stopping.wait(_PAUSE_SECONDS):
            try:
                self.delete_archives()
                self.delete_originals()
                self.purge()
                self._do_what_is_due()
            except Unavailable as error:
                log.warning("housekeeping_interrupted", error=str(error))
            except Exception:  # the edge of a thread: one bad round must not be the last
                log.exception("housekeeping_failed")

    def _do_what_is_due(self) -> None:
        for step, due in self._due.items():
            if time.monotonic() >= due:
                self._due[step] = time.monotonic() + (_HOUR if step == self.delete_orphans else _MINUTE)
                step()

    def audit(self) -> None:
        """Look for closed jobs whose counters and results disagree; make room for the attempts of months to come."""
        with self._database.transaction() as session:
            for job in disagreements(session):
                log.error("counts_disagree", job=str(job))
            session.execute(sa.text("SELECT make_attempt_partitions()"))

    def forget_old_keys(self) -> None:
        """Forget idempotency keys whose time is over."""
        deleted = _KEYS_AT_ONCE
        while deleted == _KEYS_AT_ONCE and not self._stopping.is_set():
            with self._database.transaction() as session:
                deleted = len(session.execute(_OLD_KEYS, {"many": _KEYS_AT_ONCE}).all())

    def forget_old_events(self) -> None:
        """Forget events that nobody is owed any more when their time is over, with their deliveries and attempts."""
        days, end = self._event_days, time.monotonic() + _FORGETTING_SECONDS
        with self._database.transaction() as session:
            waiting = retention.tenants(session, days)
        forgotten = 0
        # Tenants take turns: one that has millions of them stands in nobody's way.
        while waiting and time.monotonic() < end and not self._stopping.is_set():
            tenant = waiting.pop(0)
            with self._database.transaction() as session:
                gone = retention.forget(session, tenant, days)
            forgotten += gone
            if gone:
                waiting.append(tenant)
        with self._database.transaction() as session:
            endpoints = retention.forget_one_offs(session, days)
        if forgotten or endpoints:
            log.info("events_forgotten", events=forgotten, endpoints=endpoints)

    def delete_archives(self) -> None:
        """Delete archives that are expanded, or never will be, whatever is kept of their photos."""
        with self._database.transaction() as session:
            ended = session.execute(_SPENT_ARCHIVES).all()
        for intake in ended:
            if self._stopping.is_set():
                return
            try:
                if intake.storage_key is not None:
                    self._storage.delete([intake.storage_key])
            except StorageAway as error:
                log.warning("archive_not_deleted", job=str(intake.job_id), error=str(error))
                continue
            with self._database.transaction() as session:
                session.execute(_ARCHIVE_DELETED, {"job": intake.job_id})

    def delete_originals(self) -> None:
        """Delete the originals of closed jobs, but for photos that failed: these may be tried again."""
        with self._database.transaction() as session:
            closed = list(session.execute(_WITH_ORIGINALS))
        while closed and not self._stopping.is_set():
            # One statement for all that a second's work has done: most jobs are of one photo.
            deleted, end = [], time.monotonic() + _PAUSE_SECONDS
            while closed and not self._stopping.is_set() and time.monotonic() < end:
                job = closed.pop()
                try:
                    self._delete_originals_of(job.id, keep_failed=job.some_failed)
                    if job.some_unanswered:
                        self._delete_stray_copies(job.id)
                except StorageAway as error:
                    log.warning("originals_not_deleted", job=str(job.id), error=str(error))
                else:
                    deleted.append(job)
            if not deleted:
                continue
            with self._database.transaction() as session:
                done = {"jobs": [str(job.id) for job in deleted], "rounds": [job.round for job in deleted]}
                session.execute(_ORIGINALS_DELETED, done)

    def _delete_originals_of(self, job: UUID, *, keep_failed: bool) -> None:
        if not keep_failed:
            self._storage.delete_prefix(originals_of(job))
            return
        with self._database.transaction() as session:
            kept = set(session.execute(_NEEDED_KEYS, {"job": job}).scalars())
        self._storage.delete([item.key for item in self._storage.list(originals_of(job)) if item.key not in kept])

    def _delete_stray_copies(self, job: UUID) -> None:
        """Delete working copies that were stored just before their photo was cancelled, expired or given up."""
        # What is stored is listed first: what a new round stores after that is not deleted.
        stored = [item.key for item in self._storage.list(copies_of(job))]
        with self._database.transaction() as session:
            named = {image.hex for image in session.execute(_WITH_COPIES, {"job": job}).scalars()}
        self._storage.delete([key for key in stored if key.rpartition("/")[2].removesuffix(".jpg") not in named])

    def purge(self) -> None:
        """Delete all photos and working copies of jobs that were deleted."""
        with self._database.transaction() as session:
            deleted = session.execute(_TO_PURGE).all()
        for job in deleted:
            if self._stopping.is_set():
                return
            try:
                self._storage.delete_prefix(originals_of(job.id))
                self._storage.delete_prefix(copies_of(job.id))
            except StorageAway as error:
                log.warning("deleted_job_not_purged", job=str(job.id), error=str(error))
                continue
            with self._database.transaction() as session:
                session.execute(_PURGED, {"job": job.id, "looked": job.purge_at})

    def delete_orphans(self) -> None:
        """Delete stored photos that no job names: their request died between storing and committing."""
        self._storage.tidy(_ORPHANS_AFTER.total_seconds())
        before = datetime.now(UTC) - _ORPHANS_AFTER
        folders = {item.key.split("/")[1] for item in self._storage.list(INCOMING) if item.modified < before}
        old = sorted(folder for folder in folders if _JOB_ID.fullmatch(folder))
        if not old:
            return
        with self._database.transaction() as session:
            known = {job.hex for job in session.execute(_KNOWN, {"jobs": old}).scalars()}
        orphans = [UUID(hex=folder) for folder in old if folder not in known]
        for job in orphans:
            self._storage.delete_prefix(originals_of(job))
        if orphans:
            log.info("orphans_deleted", jobs=len(orphans))
