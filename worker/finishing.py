"""Finishing units in a thread of their own: their working copies are stored, then they are completed under their fence.

The network goes on meanwhile. Whoever hands over waits once two are unfinished: memory stays bounded. Of a unit of few
photos that is all there is, since somebody waits for it, copies are stored ahead, while the network still looks at the
photos; that of a photo the network then fails at is deleted again. One that outlives its lease is looked for once the
job is closed (``housekeeping.py``).
"""

import contextlib
import time
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final
from uuid import UUID

from shared.crash_points import passing
from shared.database import Database
from shared.errors import DatabaseAway, StorageAway
from shared.hints import Hinting
from shared.ledger.complete import complete
from shared.logs import logger
from shared.storage import Storage
from shared.storage.keys import copy_key
from worker.leases import LeaseKeeper
from worker.work import Work

log = logger(__name__)

_UNFINISHED: Final = 2
_AHEAD: Final = 2
_AGAIN_SECONDS: Final = 0.5


class Finisher:
    """Stores and completes what is whole, and hints at what that closed; ``answered`` counts the results written."""

    def __init__(self, database: Database, storage: Storage, keeper: LeaseKeeper, hinting: Hinting) -> None:
        self._database = database
        self._storage = storage
        self._keeper = keeper
        self._hinting = hinting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finisher")
        self._ahead = ThreadPoolExecutor(_AHEAD, thread_name_prefix="copies")
        self._under_way: deque[Future[None]] = deque()
        self.answered = 0

    def store_ahead(self, work: Work, image_id: UUID, copy: bytes) -> None:
        """Begin to store the working copy of a photo that has no answer yet."""
        key = copy_key(work.unit.job_id, image_id)
        work.stored_ahead[image_id] = self._ahead.submit(self._store, key, copy)

    def put(self, works: Sequence[Work]) -> None:
        """Take whole units, and those that were lost; wait where too many are unfinished."""
        self._under_way.append(self._thread.submit(self._finish, works))
        self._wait(_UNFINISHED)

    def finish(self) -> None:
        """Wait until everything is finished; raises what broke the thread."""
        self._wait(0)

    def settle(self) -> None:
        """Wait until everything is finished, whatever went wrong with it."""
        while self._under_way:
            if error := self._under_way.popleft().exception():
                log.error("finisher_failed", error=type(error).__name__)

    def close(self) -> None:
        """End the thread when it has finished."""
        self._thread.shutdown()
        self._ahead.shutdown()
        self._hinting.close()

    def _wait(self, allowed: int) -> None:
        while len(self._under_way) > allowed:
            self._under_way.popleft().result()

    def _finish(self, works: Sequence[Work]) -> None:
        """Store working copies, then complete the units that are still ours."""
        ours = [work for work in works if work.is_whole and self._keeper.holds(work.unit)]
        self._drop_copies(ours, [work.stored_ahead.keys() - work.copies.keys() for work in ours])
        try:
            self._store_copies(ours)
        except StorageAway as error:
            log.warning("copies_not_stored", error=str(error))
            self._drop_copies(ours, [work.copies.keys() for work in ours])
            ours = [work.without_copies() for work in ours]
        passing("worker.copied")
        self._complete(ours)
        self._keeper.drop(work.unit for work in works)

    def _store_copies(self, works: Sequence[Work]) -> None:
        keys = []
        for work in works:
            for image_id, copy in work.copies.items():
                if ahead := work.stored_ahead.get(image_id):
                    ahead.result()
                    continue
                key = copy_key(work.unit.job_id, image_id)
                self._storage.put(key, copy)
                keys.append(key)
        if keys:
            self._storage.settle(keys)

    def _store(self, key: str, copy: bytes) -> None:
        self._storage.put(key, copy)
        self._storage.settle([key])

    def _drop_copies(self, works: Sequence[Work], photos: Sequence[Collection[UUID]]) -> None:
        """Forget copies that may be there or under way: their photos are looked at again, or stand without."""
        chosen = [(work, photo) for work, of_work in zip(works, photos, strict=True) for photo in of_work]
        wait([ahead for work, photo in chosen if (ahead := work.stored_ahead.get(photo))])
        with contextlib.suppress(StorageAway):
            self._storage.delete(copy_key(work.unit.job_id, photo) for work, photo in chosen)

    def _complete(self, works: Sequence[Work]) -> None:
        """Complete the units, again and again while the database is away and the leases hold."""
        while works:
            leases = self._keeper.leases(work.unit for work in works)
            outcomes = [outcome for work in works for outcome in work.outcomes]
            deferred = [item for work in works for item in work.deferred]
            try:
                with self._database.transaction() as session:
                    done = complete(session, leases, outcomes, deferred)
                    passing("worker.completing")
            except DatabaseAway:
                time.sleep(_AGAIN_SECONDS)
                works = [work for work in works if self._keeper.holds(work.unit)]
                continue
            passing("worker.completed")
            self._hinting.tell(done.closed)
            self.answered += done.written
            log.info("units_completed", units=len(done.units), lost=len(works) - len(done.units), images=done.written)
            return
