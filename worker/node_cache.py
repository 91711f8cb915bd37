"""What a node keeps of models on its disk, copies of bundles and compiled engines, within a number and a size.

Processes of one node share it. What was used longest ago goes first; what was used a moment ago stays, since another
process may be loading it, and so does a folder whose lock somebody holds. A copy goes by a rename, so that no half of
one is ever found under its name; whoever wants it again brings it again.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_ENGINES: Final = re.compile(r"[0-9a-f]{16}")
_LOCK: Final = "lock"
_SHORT: Final = 16
_PARTS_AFTER: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Room:
    """What a node has for models: their number, their bytes, and the seconds for which what was used stays."""

    models: int
    bytes: int
    seconds: float = 600.0


@dataclass(slots=True)
class _Kept:
    """What there is of one model: its copy and the folder of its engines, bytes, and when it was used (Unix time)."""

    bundle: Path | None = None
    engines: Path | None = None
    size: int = 0
    used: float = 0.0


def prune(cache: Path, needed: Collection[str], room: Room) -> list[str]:
    """Delete what is beyond the room and return the first 16 digits of each digest; ``needed`` digests always stay."""
    _drop_parts(cache / "bundles")
    found = _found(cache)
    stays = {digest[:_SHORT] for digest in needed}
    left, size = len(found), sum(kept.size for kept in found.values())
    young = time.time() - room.seconds
    gone = []
    for short, kept in sorted(found.items(), key=lambda item: item[1].used):
        if left <= room.models and size <= room.bytes:
            break
        if short in stays or kept.used > young or not _delete(kept):
            continue
        left, size = left - 1, size - kept.size
        gone.append(short)
    return gone


def _found(cache: Path) -> dict[str, _Kept]:
    found: defaultdict[str, _Kept] = defaultdict(_Kept)
    for folder in _folders(cache / "bundles", _DIGEST):
        kept = found[folder.name[:_SHORT]]
        kept.bundle = folder
        _add(kept, folder, folder)
    for folder in _folders(cache, _ENGINES):
        if any(inner.is_dir() for inner in folder.iterdir()):
            kept = found[folder.name]
            kept.engines = folder
            _add(kept, folder, folder / _LOCK)
    return dict(found)


def _folders(parent: Path, named: re.Pattern[str]) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from [path for path in parent.iterdir() if named.fullmatch(path.name) and path.is_dir()]


def _add(kept: _Kept, folder: Path, touched: Path) -> None:
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            kept.size += path.stat().st_size if path.is_file() else 0
    with contextlib.suppress(FileNotFoundError):
        kept.used = max(kept.used, touched.stat().st_mtime)


def _delete(kept: _Kept) -> bool:
    """Delete what there is of a model; False where somebody is at its engines, and all of it stays."""
    if kept.engines is None:
        _drop(kept.bundle)
        return True
    with (kept.engines / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # The lock itself stays: whoever waits for it must not get one that nobody else knows.
        for inner in kept.engines.iterdir():
            if inner.is_dir():
                shutil.rmtree(inner, ignore_errors=True)
    _drop(kept.bundle)
    return True


def _drop(bundle: Path | None) -> None:
    if bundle is None:
        return
    going = bundle.with_name(f".part-gone-{bundle.name}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        bundle.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def _drop_parts(bundles: Path) -> None:
    """Delete what a killed process left half brought or half deleted."""
    before = time.time() - _PARTS_AFTER
    with contextlib.suppress(FileNotFoundError):
        for part in bundles.glob(".part-*"):
            if part.stat().st_mtime < before:
                shutil.rmtree(part, ignore_errors=True)
