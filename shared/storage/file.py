# ruff: noqa: D102 -- the methods keep the contract written in interface.py
# ruff: noqa: PTH104, PTH108, PTH116 -- a Path for every photo costs as much as what the system does
"""The photo storage in a folder: one file per object, written aside and renamed into place.

``finish`` only renames; ``settle`` asks the disk, several files at a time, so that the journal takes many photos with
one commit instead of one each.
"""

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from shared.errors import ObjectMissing, ObjectTooLarge, StorageAway
from shared.storage.interface import Item, Upload, checked_key, checked_prefix

_PARTS = ".parts"  # no key begins with a dot
_SYNCING = 16
_FEW = 8
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_WHY = {
    errno.ENOSPC: "The disk of the photo storage is full.",
    errno.EDQUOT: "The quota of the photo storage is used up.",
    errno.EACCES: "The photo storage may not be entered or written by this account.",
    errno.EPERM: "The photo storage may not be entered or written by this account.",
    errno.EROFS: "The photo storage is mounted read-only.",
    errno.EMFILE: "This process has too many files open to reach the photo storage.",
}


class FileStorage:
    """``Storage`` over the folder ``root``, which is made if it is not there.

    Several processes, also on several machines that mount the folder, may share it.
    """

    is_near = True

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        self._below = f"{self._root}/"
        self._syncing = ThreadPoolExecutor(_SYNCING, thread_name_prefix="sync")
        with _away():
            (self._root / _PARTS).mkdir(mode=0o750, parents=True, exist_ok=True)

    def create(self, key: str, *, limit: int) -> Upload:
        path = self._below + checked_key(key)
        with _away():
            return _FileUpload(key, limit, path, self._new_part())

    def settle(self, keys: Sequence[str]) -> None:
        paths = [self._below + checked_key(key) for key in keys]
        folders = {folder for above in {key.rpartition("/")[0] for key in keys} for folder in self._down_to(above)}
        with _away():
            _sync_all(paths) if len(paths) == 1 else self._sync(paths)
            # Of few folders nothing is left to write when the files are there: threads would take twice the time.
            _sync_all(sorted(folders)) if len(folders) <= _FEW else self._sync(sorted(folders))

    def put(self, key: str, data: bytes) -> None:
        path, part = self._below + checked_key(key), self._new_part()
        with _away():
            try:
                _write_all(part, data)
                _into_place(part, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part)
                raise

    def write(self, key: str, data: bytes) -> None:
        self.put(key, data)
        self.settle([key])

    def read(self, key: str, *, limit: int) -> bytes:
        path = self._path(key)
        with _away():
            try:
                with path.open("rb", buffering=0) as file:
                    if os.fstat(file.fileno()).st_size <= limit:
                        return file.read()
            except _NO_FILE:
                (self._root / _PARTS).stat()  # as in _opened
                raise ObjectMissing("The photo storage has no such object.") from None
        raise ObjectTooLarge(f"The object has more than {limit} bytes.")

    def read_into(self, key: str, room: memoryview) -> int:
        with _away():
            fd = self._opened(key)
            try:
                state = os.fstat(fd)
                size = state.st_size
                if not stat.S_ISREG(state.st_mode):
                    raise ObjectMissing("The photo storage has no such object.")
                if size > len(room):
                    raise ObjectTooLarge(f"The object has more than {len(room)} bytes.")
                filled = 0
                while filled < size and (got := os.readv(fd, [room[filled:size]])):
                    filled += got
            finally:
                os.close(fd)
        return filled

    def read_part(self, key: str, *, offset: int, length: int) -> bytes:
        with _away():
            fd = self._opened(key)
            try:
                return os.pread(fd, length, offset)
            finally:
                os.close(fd)

    def delete(self, keys: Iterable[str]) -> None:
        paths = [self._path(key) for key in keys]
        with _away():
            for path in paths:
                with suppress(*_NO_FILE):
                    path.unlink()
            for folder in {path.parent for path in paths}:
                self._prune(folder)

    def delete_prefix(self, prefix: str) -> None:
        if not prefix:
            raise ValueError("an empty prefix would delete everything")
        self.delete([item.key for item in self.list(prefix)])

    def list(self, prefix: str) -> Iterator[Item]:
        top = self._root / checked_prefix(prefix)
        with _away():
            for path in _files(top):
                with suppress(FileNotFoundError):  # deleted since the folder was read
                    state = path.stat()
                    modified = datetime.fromtimestamp(state.st_mtime, UTC)
                    yield Item(path.relative_to(self._root).as_posix(), state.st_size, modified)

    def tidy(self, older: float) -> int:
        removed = 0
        with _away():
            for part in (self._root / _PARTS).iterdir():
                with suppress(FileNotFoundError):
                    if part.stat().st_mtime < time.time() - older:
                        part.unlink()
                        removed += 1
        return removed

    def check(self) -> None:
        probe = self._root / _PARTS / uuid4().hex
        with _away():
            try:
                probe.write_bytes(b"\0" * 4096)  # a full disk still makes empty files
            finally:
                probe.unlink(missing_ok=True)

    def _opened(self, key: str) -> int:
        try:
            return os.open(self._below + checked_key(key), os.O_RDONLY | os.O_CLOEXEC)
        except _NO_FILE:
            (self._root / _PARTS).stat()  # else it is the folder that went away, and every photo with it for now
            raise ObjectMissing("The photo storage has no such object.") from None

    def _new_part(self) -> str:
        return f"{self._below}{_PARTS}/{uuid4().hex}"

    def _down_to(self, folder: str) -> Iterator[str]:
        """Return the root and all folders on the way to this one, which is among them."""
        while folder:
            yield self._below + folder
            folder = folder.rpartition("/")[0]
        yield str(self._root)

    def _sync(self, paths: Sequence[str]) -> None:
        """Ask the disk for all of them, several at a time; each thread has a share, since to hand one over is dear."""
        shares = [paths[place::_SYNCING] for place in range(min(_SYNCING, len(paths)))]
        for _ in self._syncing.map(_sync_all, shares):
            pass

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _prune(self, folder: Path) -> None:
        """Remove folders that became empty, so that old jobs leave no trace."""
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


class _FileUpload(Upload):
    def __init__(self, key: str, limit: int, path: str, part: str) -> None:
        super().__init__(key, limit)
        self._path, self._part = path, part
        self._file = os.fdopen(_new_file(part), "wb", buffering=1 << 16)

    def _keep(self, data: bytes) -> None:
        with _away():
            self._file.write(data)

    def _commit(self) -> None:
        with _away():
            self._file.close()
            _into_place(self._part, self._path)

    def _discard(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            os.unlink(self._part)


@contextmanager
def _away() -> Iterator[None]:
    """Turn the system's errors into ``StorageAway``."""
    try:
        yield
    except OSError as error:
        why = _WHY.get(error.errno or 0, f"The photo storage fails: {error.strerror or type(error).__name__}.")
        raise StorageAway(why) from error


def _new_file(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)


def _write_all(path: str, data: bytes) -> None:
    fd = _new_file(path)
    try:
        left = memoryview(data)
        while left:  # a disk that fills up takes a part first
            left = left[os.write(fd, left) :]
    finally:
        os.close(fd)


def _into_place(part: str, path: str) -> None:
    while True:
        try:
            os.rename(part, path)
        except FileNotFoundError:
            os.stat(part)  # still there: it is the first of its folder, or a delete has pruned that
            Path(path).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        else:
            return


def _files(folder: Path) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except _NO_FILE:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name != _PARTS:
                yield from _files(Path(entry.path))
        else:
            yield Path(entry.path)


def _sync_all(paths: Iterable[str]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
