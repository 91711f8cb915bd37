"""The contract of a photo storage: what every backend promises, and the parts of it they share."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,7}}")


@dataclass(frozen=True, slots=True)
class Stored:
    """What an upload turned out to be. ``sha256`` and ``size`` cover every byte, also those above the limit."""

    key: str
    sha256: bytes
    size: int
    kept: bool


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a listing; ``size`` in bytes, ``modified`` aware."""

    key: str
    size: int
    modified: datetime


class Upload(ABC):
    """Takes one object in, piece by piece, hashing and counting as it goes.

    As a context manager it aborts unless ``finish`` was reached. Not for two threads at once.
    """

    def __init__(self, key: str, limit: int) -> None:
        self.key = key
        self.size = 0
        self._limit = limit
        self._hash = hashlib.sha256()
        self._open = True

    def write(self, data: bytes) -> int:
        """Take ``data`` and return its length. Bytes above the limit are hashed and counted, but not kept.

        Raises ``StorageAway``; the upload is aborted then.
        """
        if not self._open:
            raise ValueError("this upload has ended")
        self._hash.update(data)
        fitted = self.size <= self._limit
        self.size += len(data)
        try:
            if self.size <= self._limit:
                self._keep(data)
            elif fitted:
                self._discard()
        except BaseException:
            self.abort()
            raise
        return len(data)

    def finish(self) -> Stored:
        """Put the object under its key, replacing what was there; it is durable after ``Storage.settle``.

        An upload that exceeded its limit leaves nothing behind. Raises ``StorageAway``.
        """
        if not self._open:
            raise ValueError("this upload has ended")
        kept = self.size <= self._limit
        try:
            if kept:
                self._commit()
        except BaseException:
            self.abort()
            raise
        self._open = False
        return Stored(self.key, self._hash.digest(), self.size, kept)

    def abort(self) -> None:
        """Forget the upload. Does nothing after ``finish`` or an earlier ``abort``."""
        if self._open:
            self._open = False
            self._discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    @abstractmethod
    def _keep(self, data: bytes) -> None:
        """Hold on to ``data``."""

    @abstractmethod
    def _commit(self) -> None:
        """Put what was kept under the key."""

    @abstractmethod
    def _discard(self) -> None:
        """Drop what was kept; may be called twice, and never raises ``StorageAway``."""


class Storage(Protocol):
    """Objects under keys of our own making; threads may share one storage.

    Keys are up to eight segments joined by slashes, each of letters, digits, ``_``, ``-`` and ``.``; anything else is
    a ``ValueError``, since a key never comes from outside. Every failure of the backend is ``StorageAway``.
    """

    @property
    def is_near(self) -> bool:
        """Whether reading is a matter of a disk, and not of a network that many requests at once are better for."""

    def create(self, key: str, *, limit: int) -> Upload:
        """Begin an upload of which at most ``limit`` bytes are kept."""

    def settle(self, keys: Sequence[str]) -> None:
        """Return once the uploads of these keys are durable; each is asked for once, before the database commits.

        For uploads that this process finished and kept; few calls with many keys cost less than many calls. Raises
        ``StorageAway`` if one of them is not there.
        """

    def put(self, key: str, data: bytes) -> None:
        """Store ``data`` under ``key`` without hashing it; durable after ``settle``, like a finished upload."""

    def write(self, key: str, data: bytes) -> None:
        """Store ``data`` under ``key``, durable on return."""

    def read(self, key: str, *, limit: int) -> bytes:
        """The whole object. Raises ``ObjectMissing``, or ``ObjectTooLarge`` if it has more than ``limit`` bytes."""

    def read_into(self, key: str, room: memoryview) -> int:
        """Lay the whole object down at the beginning of ``room`` and return how many bytes it has.

        Raises ``ObjectMissing``, or ``ObjectTooLarge`` if there is no room for it.
        """

    def read_part(self, key: str, *, offset: int, length: int) -> bytes:
        """``length`` bytes of an object from ``offset`` on, fewer where it ends. Raises ``ObjectMissing``."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove these objects; those that are not there are no error."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove everything below the folder of keys ``prefix``, with or without its last slash."""

    def list(self, prefix: str) -> Iterator[Item]:
        """Everything below the folder of keys ``prefix`` (empty: everything), in no promised order."""

    def tidy(self, older: float) -> int:
        """Remove what uploads that died more than ``older`` seconds ago left behind; return how many there were."""

    def check(self) -> None:
        """Raise ``StorageAway`` unless the storage answers within a few seconds."""


def checked_key(key: str) -> str:
    """The key itself. Raises ``ValueError`` if it is not one of ours."""
    if not _KEY.fullmatch(key) or ".." in key:
        raise ValueError("not a storage key")
    return key


def checked_prefix(prefix: str) -> str:
    """The prefix with its last slash, or the empty one. Raises ``ValueError`` if it is not one of ours."""
    return f"{checked_key(prefix.removesuffix('/'))}/" if prefix else ""
