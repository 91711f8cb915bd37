"""Making photos durable while later ones of the same request still arrive.

One thread a request asks the storage for all that came while its last question was under way: the disk gets few
questions, and hardly any is left when the last photo is there.
"""

from concurrent.futures import Future, ThreadPoolExecutor

from shared.storage import Storage

# What makes a question worth its thread and the folders' part of it; a request of a few photos is settled at its end.
_PHOTOS = 64
_BYTES = 16 << 20


class Settling:
    """The objects of one request on their way to being durable. Not for two threads."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: list[str] = []
        self._bytes = 0
        self._thread: ThreadPoolExecutor | None = None
        self._asked: Future[None] | None = None

    def add(self, key: str, size: int) -> None:
        """Take on an object that is whole; raises ``StorageAway`` where an earlier one could not be made durable."""
        self._waiting.append(key)
        self._bytes += size
        if len(self._waiting) < _PHOTOS and self._bytes < _BYTES:
            return
        if self._asked:
            if not self._asked.done():
                return
            self._asked.result()
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="settle")
        self._asked = self._thread.submit(self._storage.settle, self._waiting)
        self._waiting, self._bytes = [], 0

    def finish(self) -> None:
        """Return once every object is durable; raises ``StorageAway`` where one of them is not."""
        try:
            if self._asked:
                self._asked.result()
            if self._waiting:
                self._storage.settle(self._waiting)
                self._waiting = []
        finally:
            self.stop()

    def stop(self) -> None:
        """Wait for the question under way, whatever its answer: what it asks about may be deleted after this."""
        if self._thread:
            self._thread.shutdown()
