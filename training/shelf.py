"""Owns the copy of a fetched data set in the service's storage, for the next machine and for when Kaggle is away.

The archive lies under its SHA-256 and the record of the data set names it; the record is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.errors import DataRefused, ObjectMissing
from shared.storage import Storage

_FOLDER: Final = "datasets"
_PIECE: Final = 8 << 20
_LARGEST_RECORD: Final = 64 << 10
_NEEDED: Final = ("sha256", "bytes", "licence", "source", "etag", "data_set")

Show = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Shelf:
    """The data sets that a storage keeps."""

    storage: Storage

    def record(self, name: str) -> dict[str, Any] | None:
        """What is known of the copy of a data set; None where there is none. Raises StorageAway."""
        try:
            found = json.loads(self.storage.read(_record_key(name), limit=_LARGEST_RECORD))
        except (ObjectMissing, ValueError):
            return None
        return found if isinstance(found, dict) and all(key in found for key in _NEEDED) else None

    def take(self, record: Mapping[str, Any], archive: Path, show: Show) -> None:
        """Copies the archive to a file. Raises DataRefused where it is not the one of the record, StorageAway."""
        try:
            digest = self._copied(record, archive, show)
        except BaseException:  # half an archive is of no use to anybody
            archive.unlink(missing_ok=True)
            raise
        if digest != record["sha256"]:
            archive.unlink()
            raise DataRefused(f"the copy of {record['data_set']} in the storage is damaged or gone")

    def _copied(self, record: Mapping[str, Any], archive: Path, show: Show) -> str:
        seen, held, total = hashlib.sha256(), 0, int(record["bytes"])
        with archive.open("wb") as file, show(total) as advance:
            while held < total:
                try:
                    piece = self.storage.read_part(_archive_key(record), offset=held, length=min(_PIECE, total - held))
                except ObjectMissing:
                    break
                if not piece:
                    break
                file.write(piece)
                seen.update(piece)
                held += len(piece)
                advance(held)
        return seen.hexdigest()

    def put(self, record: Mapping[str, Any], archive: Path) -> None:
        """Keeps an archive whose record says its SHA-256 and its size. Raises StorageAway."""
        key = _archive_key(record)
        with archive.open("rb") as file, self.storage.create(key, limit=int(record["bytes"])) as upload:
            while piece := file.read(_PIECE):
                upload.write(piece)
            upload.finish()
        self.storage.settle([key])
        self.storage.write(_record_key(str(record["data_set"])), json.dumps(dict(record), indent=2).encode())


def _record_key(name: str) -> str:
    return f"{_FOLDER}/{name}/record.json"


def _archive_key(record: Mapping[str, Any]) -> str:
    return f"{_FOLDER}/{record['data_set']}/{record['sha256']}.zip"
