"""Photos as they arrive: each is written to storage while it is hashed, and forgotten if the request fails."""

import hashlib
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from shared.errors import StorageAway
from shared.logs import logger
from shared.names import display_name
from shared.storage import Storage, Stored
from shared.storage.keys import archive_key, original_key
from web.intake.durability import Settling
from web.problems import TOO_MANY_PHOTOS, Problem

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """One photo that has arrived whole; ``sha256`` and ``size`` cover every byte of it."""

    ordinal: int
    name: str | None
    storage_key: str
    sha256: bytes
    size: int


class Sink(Protocol):
    """Where the bytes of one photo go."""

    def write(self, data: bytes) -> int:
        """Take some bytes."""

    def finish(self) -> Stored:
        """Say what the photo turned out to be."""

    def abort(self) -> None:
        """Forget the photo."""


class _HashOnly:
    """Measures a photo that need not be kept: the request was answered before."""

    def __init__(self, key: str) -> None:
        self._key, self._hash, self._size = key, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._size += len(data)
        return len(data)

    def finish(self) -> Stored:
        return Stored(self._key, self._hash.digest(), self._size, kept=False)

    def abort(self) -> None:
        """Nothing was kept."""


class Reception:
    """Takes in the photos of one job, in order. Not for two threads."""

    def __init__(self, storage: Storage, job_id: UUID, *, max_photos: int, max_photo_bytes: int, keep: bool) -> None:
        self._storage = storage
        self._job_id = job_id
        self._max_photos = max_photos
        self._max_photo_bytes = max_photo_bytes
        self._keep = keep
        self._sink: Sink | None = None
        self._name: str | None = None
        self._stored: list[str] = []
        self._settling = Settling(storage)
        self._ordinal = 0
        self._is_archive = False
        self.photos: list[Received] = []
        self.archive: Received | None = None

    def begin(self, name: str | None, *, ordinal: int | None = None) -> None:
        """Begin a photo, the next one unless its place is given.

        Raises ``Problem`` (413) when there are too many, and ``StorageAway``.
        """
        self._ordinal = len(self.photos) if ordinal is None else ordinal
        if self._ordinal >= self._max_photos:
            raise Problem(TOO_MANY_PHOTOS, f"A job may have {self._max_photos} photos at most.")
        self._open(name, original_key(self._job_id, self._ordinal), self._max_photo_bytes)

    def begin_archive(self, name: str | None, limit: int) -> None:
        """Begin the one archive that is all there is; raises ``StorageAway``."""
        self._is_archive = True
        self._open(name, archive_key(self._job_id), limit)

    def _open(self, name: str | None, key: str, limit: int) -> None:
        self._name = display_name(name)
        self._sink = self._storage.create(key, limit=limit) if self._keep else _HashOnly(key)

    def write(self, data: bytes) -> None:
        """Take some bytes of the photo begun last; raises ``StorageAway``."""
        if self._sink is None:
            raise ValueError("no photo was begun")
        self._sink.write(data)

    def finish(self) -> None:
        """End the photo begun last. One above the size limit is not kept: it will be answered ``rejected``."""
        if self._sink is None:
            raise ValueError("no photo was begun")
        stored = self._sink.finish()
        self._sink = None
        if stored.kept:
            self._stored.append(stored.key)
            self._settling.add(stored.key, stored.size)
        received = Received(self._ordinal, self._name, stored.key, stored.sha256, stored.size)
        if self._is_archive:
            self.archive = received
        else:
            self.photos.append(received)

    def drop(self) -> None:
        """Forget the photo begun last: it turned out to be none."""
        if self._sink is not None:
            self._sink.abort()
            self._sink = None

    def settle(self) -> None:
        """Return once every photo is durable; raises ``StorageAway``, also for what failed while others arrived."""
        self._settling.finish()

    def discard(self) -> None:
        """Delete whatever was stored. What storage does not let go of now, the sweep finds: no row names it."""
        self.drop()
        self._settling.stop()
        try:
            self._storage.delete(self._stored)
        except StorageAway:
            log.warning("discard_left_to_sweep", job=self._job_id.hex, objects=len(self._stored))
