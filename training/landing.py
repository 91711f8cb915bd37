"""Owns how folders and files of training come into being: under a temporary name first, then in place or nowhere."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.errors import DataRefused

# What a place says that cannot be written to: a file where a folder must be, the reverse, a disk that only reads.
_REFUSALS: Final = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT,
        errno.ENAMETOOLONG, errno.EBUSY,
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


def refuse_foreign(folder: Path, own: Iterable[str]) -> None:
    """Raises `DataRefused` where the folder holds anything but what `replace_all` may take the place of."""
    if folder.exists() and not folder.is_dir():
        raise DataRefused(f"{folder} is there and is no folder: give another name")
    if folder.is_dir() and (others := sorted({path.name for path in folder.iterdir()} - set(own))):
        raise DataRefused(f"{folder} holds {others[0]}, which would be lost: give a new folder, or take that away")


def replace_all(folders: Mapping[Path, Mapping[str, bytes]], files: Mapping[Path, bytes]) -> None:
    """Puts whole folders (name in the folder: content) and files in the place of what stood there, as one set.

    1. What a killed predecessor left goes, or goes back where nothing has taken its place.
    2. Everything is written under temporary names, to the disk: a fault until here changes nothing.
    3. Renames alone, one after the other: old and new are never found in one folder. Whoever is killed between two of
       them leaves some places old and some new, each whole, and whoever repeats the call makes them all new.
    """
    places = {folder.resolve(): content for folder, content in folders.items()}
    parts: dict[Path, Path] = {}
    try:
        for folder, content in places.items():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _tidy(folder)
            part = parts[folder] = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
            for name, data in content.items():
                _write(part / name, data)
            part.chmod(0o755)
        for file, data in files.items():
            parts[file] = _partial(file)
            _write(parts[file], data)
        for place, part in parts.items():
            _exchange(part, place)
    finally:
        for place, part in parts.items():
            shutil.rmtree(part, ignore_errors=True)
            if place in files:
                part.unlink(missing_ok=True)
    for folder in places:
        shutil.rmtree(_before(folder), ignore_errors=True)


def _before(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.before")


def _tidy(folder: Path) -> None:
    before = _before(folder)
    if before.is_dir() and not folder.exists():
        before.rename(folder)
    for left in (before, *folder.parent.glob(f".{folder.name}.*.part")):
        shutil.rmtree(left, ignore_errors=True)


def _exchange(part: Path, place: Path) -> None:
    """Rename `part` to `place`; a folder that is there goes aside: nothing takes a full one's name."""
    if not place.is_dir():
        part.replace(place)
        return
    before = _before(place)
    place.rename(before)
    try:
        part.rename(place)
    except OSError:
        before.rename(place)
        raise


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
    partial = _partial(path)
    try:
        _write(partial, content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
