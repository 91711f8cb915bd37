"""Owns how folders and files of training come into being: under a temporary name first, then in place or nowhere."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.errors import DataRefused

# What a place says that cannot be written to: a file where a folder must be, the reverse, a disk that only reads.
_REFUSALS: Final = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT,
        errno.ENAMETOOLONG,
    }
)  # fmt: skip


def refuse_occupied(folder: Path) -> None:
    """Raises `DataRefused` unless the folder is absent or empty."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DataRefused(f"{folder} is there and is no folder: give another name")
    if folder.is_dir() and next(folder.iterdir(), None) is not None:
        raise DataRefused(f"{folder} is not empty: nothing in it is touched; give a new or an empty folder")


@contextmanager
def landing(folder: Path) -> Iterator[Path]:
    """Give the block an empty folder beside `folder`, which takes its place when the block ends well.

    Whatever ends it otherwise, Ctrl-C among it, leaves nothing behind. A full disk is told as `DataRefused`.
    """
    refuse_occupied(folder)
    with telling_of_the_disk(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            temporary.replace(folder)  # POSIX puts a folder in the place of an empty one
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def telling_of_the_disk(place: Path) -> Iterator[None]:
    """Turn what the disk refuses below `place` into `DataRefused` with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataRefused(f"the disk is full at {place.parent}: make room there, or give another folder") from error
        if error.errno in _REFUSALS:
            raise DataRefused(
                f"{error.filename or place} cannot be used: {error.strerror}; give another place"
            ) from error
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name, to the disk, and then in its place: it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
