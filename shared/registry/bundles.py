"""Bundles in the storage, below ``models/<digest>/``, and each node's copy of those it serves.

A bundle is verified whole on its way in and again whenever it is loaded, also from a node's own copy. A copy appears
under its name all at once, so that a process that was killed in between leaves nothing that could be mistaken for one.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from shared.bundle import CARD, LARGEST_REPORT, REPORT, SEALED, Bundle, load_bundle
from shared.errors import BundleAltered, BundleMissing, ObjectMissing
from shared.logs import logger
from shared.storage import Storage

log = logger(__name__)

FILES: Final = (CARD, *SEALED)
_PIECE: Final = 8 << 20


def bundle_key(digest: str, name: str) -> str:
    """Return where a file of a bundle lies in the storage."""
    return f"models/{digest}/{name}"


def store(storage: Storage, bundle: Bundle) -> int:
    """Put a verified bundle into the storage, durably, and return its bytes; raises ``StorageAway``.

    Its report goes along where it has one, in the place of an earlier one: whoever trusts the files need not trust it.
    What is written is what was verified: a file that changed meanwhile raises ``BundleAltered`` and is not put there.
    """
    listed, keys, total = bundle.card["files"], [], 0
    for name in FILES:
        file = bundle.file(name)
        with storage.create(bundle_key(bundle.digest, name), limit=file.stat().st_size) as upload:
            with file.open("rb") as stream:
                while piece := stream.read(_PIECE):
                    upload.write(piece)
            total += upload.size
            stored = upload.finish()
        if not stored.kept or (name in SEALED and stored.sha256.hex() != listed[name]):
            raise BundleAltered(f"{name} changed while it was stored: publish the bundle again.")
        keys.append(stored.key)
    storage.settle(keys)
    if (report := bundle.file(REPORT)).is_file():
        storage.write(_report_key(bundle.digest), report.read_bytes())
    return total


def report_of(storage: Storage, digest: str) -> bytes | None:
    """Return the report that came with a published bundle, None where none did; raises ``StorageAway``."""
    try:
        return storage.read(_report_key(digest), limit=LARGEST_REPORT)
    except ObjectMissing:
        return None


def _report_key(digest: str) -> str:
    return bundle_key(digest, Path(REPORT).name)


def fetch(storage: Storage, digest: str, cache: Path) -> Bundle:
    """Return the bundle of this digest from the node's copy, or bring it there first.

    Raises ``BundleMissing`` or ``BundleAltered`` where the storage has no such bundle, ``StorageAway``.
    """
    folder = cache / "bundles" / digest
    if found := _whole(folder, digest):
        os.utime(folder)  # what was used last is let go of last
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        for name in FILES:
            _bring(storage, bundle_key(digest, name), part / name)
        arrived = load_bundle(part)
        if arrived.digest != digest:
            raise BundleAltered(f"What the storage has under models/{digest[:12]}... is another bundle: publish again.")
        _put_in_place(part, folder, digest)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return load_bundle(folder)


def _whole(folder: Path, digest: str) -> Bundle | None:
    try:
        found = load_bundle(folder)
    except BundleMissing:
        return None
    except BundleAltered as error:
        log.warning("bundle_copy_altered", digest=digest, problem=str(error))
        return None
    return found if found.digest == digest else None


def _bring(storage: Storage, key: str, file: Path) -> None:
    offset = 0
    with file.open("wb") as stream:
        while True:
            try:
                piece = storage.read_part(key, offset=offset, length=_PIECE)
            except ObjectMissing:
                raise BundleMissing(f"The storage lacks {key}: publish the bundle again.") from None
            stream.write(piece)
            offset += len(piece)
            if len(piece) < _PIECE:
                return


def _put_in_place(part: Path, folder: Path, digest: str) -> None:
    """Rename the whole folder; a copy that another process put there meanwhile is as good, an altered one goes."""
    for _ in range(2):
        try:
            part.rename(folder)
        except OSError:
            if _whole(folder, digest):
                return
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return
    raise BundleMissing(f"{folder} can neither be used nor replaced: remove it.")
