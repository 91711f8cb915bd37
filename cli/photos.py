"""Which files a command line means: folders, patterns and single files, in an order that does not change."""

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import Refused

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".heic", ".heif"})
_CHUNK: Final = 1 << 20


class NoPhotos(Refused):
    """What was named holds no photo."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A file to send, and the name that results and receipts will call it by."""

    path: Path
    name: str
    size: int


def find_photos(arguments: Sequence[str]) -> list[Photo]:
    """Return the photos that folders, patterns and files name, each once, sorted by name.

    A folder stands for the images anywhere below it, known by their suffix; hidden files are no photos. A file named
    itself is taken whatever it is called. Names are relative to the folder where one folder is all that was named, else
    to the nearest folder that holds every file: so ``verify FOLDER`` finds them again, and no two are alike. Raises
    ``NoPhotos`` where an argument names nothing.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        taken = list(_named_by(argument))
        if not taken:
            raise NoPhotos(f"there is no photo in {argument}" if Path(argument).exists() else f"there is no {argument}")
        found.update(dict.fromkeys(taken))
    only = Path(arguments[0]) if len(arguments) == 1 else None
    root = _absolute(only) if only and only.is_dir() else Path(os.path.commonpath([path.parent for path in found]))
    photos = [Photo(path, path.relative_to(root).as_posix(), path.stat().st_size) for path in found]
    return sorted(photos, key=lambda photo: photo.name)


def listing(folder: Path, also: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return path -> SHA-256 in hex of the photos below a folder, and of files called as in ``also``.

    Paths are relative to the folder, with "/" between their parts.
    """
    paths = sorted(_images_below(folder, also))
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex, without holding it in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _named_by(argument: str) -> Iterator[Path]:
    path = Path(argument)
    if path.is_dir():
        yield from map(_absolute, _images_below(path))
    elif path.is_file():
        yield _absolute(path)
    else:
        for match in sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute pattern
            if Path(match).is_file():
                yield _absolute(Path(match))


def _images_below(folder: Path, also: frozenset[str] = frozenset()) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            wanted = name in also or (not name.startswith(".") and path.suffix.lower() in SUFFIXES)
            if wanted and path.is_file():
                yield path


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and names would lead elsewhere
