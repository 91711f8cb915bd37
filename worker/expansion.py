"""Expanding one archive: entry by entry into the storage, batch by batch into the ledger, from where it stands.

Runs in a thread of the worker and not in a confined child, unlike decoding: the reader of the directory is Python, what
is inflated is bounded on both sides, and a child would see every byte of ten gigabytes twice more for it.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from shared.database import Database, new_id
from shared.ledger.intake import Intake, Taken, append, known_digests
from shared.ledger.receiving import Archive
from shared.ledger.submit import NewImage
from shared.logs import logger
from shared.names import entry_name
from shared.settings import Settings
from shared.storage import Storage
from shared.storage.keys import original_key
from worker.turn import Interrupted, Turn
from worker.unzipping.contents import read_entry
from worker.unzipping.directory import read_directory
from worker.unzipping.judging import Judged, judge
from worker.unzipping.reasons import ArchiveRefused, EntryRefused, Limits

log = logger(__name__)

NOTHING: Final = hashlib.sha256(b"").digest()
_WINDOW: Final = 4 << 20
_BATCH: Final = 128
_BATCH_SECONDS: Final = 0.5


class StoredArchive:
    """An archive in the storage, read through a window: entries that follow each other are read once."""

    def __init__(self, storage: Storage, archive: Archive) -> None:
        self._storage, self._key, self.size = storage, archive.storage_key, archive.bytes
        self._window, self._start = b"", 0

    def read_at(self, offset: int, length: int) -> bytes:
        """Return that many bytes from there on; fewer only where the archive ends."""
        length = max(0, min(length, self.size - offset))
        within = offset - self._start
        if not 0 <= within <= len(self._window) - length:
            self._window = self._storage.read_part(self._key, offset=offset, length=max(length, _WINDOW))
            self._start, within = offset, 0
        return self._window[within : within + length]


class Expansion:
    """One archive on its way into its job."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        storage: Storage,
        *,
        intake: Intake,
        archive: Archive,
        turn: Turn,
    ) -> None:
        self._limits = Limits(settings.max_photos, settings.max_photo_bytes, settings.max_expanded_bytes)
        self._database, self._storage = database, storage
        self._intake, self._archive, self._turn = intake, archive, turn
        self._source = StoredArchive(storage, archive)
        self._known: dict[bytes, UUID] = {}

    def run(self) -> bool:
        """Expand until the end, which returns True, or until the turn is over.

        Raises ``Interrupted``, ``StorageAway``, ``ObjectMissing`` and ``DatabaseAway``; what was appended stays.
        """
        try:
            entries = judge(read_directory(self._source, self._limits), self._limits)
        except ArchiveRefused as error:
            log.info("archive_refused", job=str(self._intake.job_id), reason=error.reason)
            self._append([self._refused_whole(error.reason)], done=True)
            return True
        if self._intake.total:
            with self._database.transaction() as session:
                self._known = known_digests(session, self._intake.job_id)
        ordinal = self._intake.total
        for batch in self._batches(entries, ordinal):
            ordinal += len(batch)
            self._storage.settle([item.image.storage_key for item in batch if item.outcome is None])
            self._append(batch, done=ordinal == len(entries))
            if ordinal < len(entries) and not self._turn.goes_on():
                return False
        return True

    def _batches(self, entries: Sequence[Judged], first: int) -> Iterator[list[Taken]]:
        """Yield what became of the entries; small batches at first, so that the network has work at once."""
        # An entry under which a worker died before stands alone, so that those before it count.
        most = 1 if self._intake.crashes else _BATCH // 4
        batch: list[Taken] = []
        started = time.monotonic()
        for ordinal in range(first, len(entries)):
            if not self._turn.holds():
                raise Interrupted
            batch.append(self._take(ordinal, entries[ordinal]))
            is_late = time.monotonic() - started >= _BATCH_SECONDS or not self._turn.goes_on()
            if len(batch) >= most or is_late or ordinal == len(entries) - 1:
                yield batch
                most = 1 if self._intake.crashes else _BATCH
                batch, started = [], time.monotonic()

    def _take(self, ordinal: int, judged: Judged) -> Taken:
        name = entry_name(judged.entry.name)
        key = original_key(self._intake.job_id, ordinal)
        if judged.reason is not None:
            return refused(ordinal, name, key, judged.reason)
        try:
            with self._storage.create(key, limit=judged.entry.size) as upload:
                for piece in read_entry(self._source, judged):
                    upload.write(piece)
                stored = upload.finish()
        except EntryRefused as error:
            return refused(ordinal, name, key, error.reason)
        image = NewImage(new_id(), ordinal, name, None, key, stored.sha256, stored.size)
        original = self._known.setdefault(stored.sha256, image.id) if stored.size else image.id
        return Taken(image, duplicate_of=original if original != image.id else None)

    def _refused_whole(self, reason: str) -> Taken:
        """Return the one entry that stands for an archive of which nothing can be taken."""
        archive = self._archive
        key = original_key(self._intake.job_id, self._intake.total)
        image = NewImage(new_id(), self._intake.total, archive.name, None, key, archive.sha256, archive.bytes)
        return Taken(image, outcome="rejected", reason=reason)

    def _append(self, batch: Sequence[Taken], *, done: bool) -> None:
        self._turn.commit(self._database, lambda session: append(session, self._intake, batch, done=done))


def refused(ordinal: int, name: str | None, key: str, reason: str, **fields: str | None) -> Taken:
    """Return an entry that has its answer: no byte of it was kept."""
    image = NewImage(new_id(), ordinal, name, fields.get("custom_id"), key, NOTHING, 0)
    return Taken(image, outcome=fields.get("outcome") or "rejected", reason=reason)
