"""Archives that are sent as they are: as a body, and as what a receipt must say of them."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from cli.multipart import chunks
from cli.photos import Photo

SUFFIX: Final = ".zip"
NOTHING: Final = hashlib.sha256(b"").hexdigest()
_SYSTEMS_OWN: Final = frozenset({".DS_Store", "Thumbs.db"})
_CHUNK: Final = 1 << 20


def is_archive(photo: Photo) -> bool:
    """Return whether a file is to be sent as an archive of photos."""
    return photo.path.suffix.lower() == SUFFIX


class ArchiveBody:
    """An ``application/zip`` body; it may be iterated again, for a retry, and is hashed on its way."""

    def __init__(self, archive: Photo, priority: str | None, sent: Callable[[int], None] = lambda _: None) -> None:
        self._archive, self._sent = archive, sent
        query = f"?file_name={quote(archive.name.rpartition('/')[2], safe='')}"
        self.path = "/v1/jobs" + query + (f"&priority={priority}" if priority else "")
        self.digests: list[str] = []

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the body."""
        return {"Content-Type": "application/zip", "Content-Length": str(self._archive.size)}

    def __iter__(self) -> Iterator[bytes]:
        """Yield the archive; ``sent`` is told the bytes that are through so far."""
        digest = hashlib.sha256()
        through = 0
        self._sent(through)
        for chunk in chunks(self._archive):
            digest.update(chunk)
            yield chunk
            through += len(chunk)
            self._sent(through)
        self.digests = [digest.hexdigest()]


def unaccounted(archive: Photo, digest: str, entries: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Return how many entries an archive has that take a place in its job, and which of them a receipt leaves out.

    An entry that was refused unread has the fingerprint of nothing. An archive that was refused whole, or not expanded
    to its end, is an entry itself, with its own fingerprint: what lies behind that one is accounted for by it.
    """
    held = list(_entries(archive))
    stands_for_rest = next((place for place, entry in enumerate(entries) if entry["sha256"] == digest), None)
    if stands_for_rest is not None:
        held = held[:stands_for_rest]
    missing = [
        name
        for place, (name, content) in enumerate(held)
        if place >= len(entries)
        or entries[place]["sha256"] not in (content, NOTHING)
        or (entries[place]["sha256"] != content and entries[place].get("outcome", "rejected") != "rejected")
    ]
    return len(held) + (stands_for_rest is not None), missing


def _entries(archive: Photo) -> Iterator[tuple[str, str | None]]:
    """Yield the name and the SHA-256 of each entry that takes a place; None for what cannot be read."""
    try:
        with zipfile.ZipFile(archive.path) as file:
            for info in file.infolist():
                parts = info.filename.split("/")
                if not (info.is_dir() or parts[0] == "__MACOSX" or parts[-1] in _SYSTEMS_OWN):
                    yield info.filename, _digest(file, info)
    except (zipfile.BadZipFile, OSError):
        return


def _digest(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> str | None:
    digest = hashlib.sha256()
    try:
        with file.open(info) as entry:
            while chunk := entry.read(_CHUNK):
                digest.update(chunk)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError, zlib.error):
        return None
    return digest.hexdigest()
