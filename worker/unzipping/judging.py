"""What the directory alone says against an entry, and which entries are nobody's photos.

Every entry that is not passed over takes a place in the job, refused or not. The places depend on the directory and on
nothing else, so that whoever goes on with an archive counts as the one before did.
"""

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from worker.unzipping.directory import Directory, Entry
from worker.unzipping.reasons import ArchiveRefused, Limits

STORED, DEFLATED = 0, 8
_AES: Final = 99
_ENCRYPTED: Final = 0x2041  # encrypted, strongly encrypted, directory encrypted
_HEADER: Final = 30
_SLACK: Final = 1024
_LONGEST_NAME: Final = 3000
_EMPTY_DEFLATED: Final = 2
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_SYSTEMS_OWN: Final = frozenset({".DS_Store", "Thumbs.db"})
_ARCHIVES: Final = frozenset({".zip", ".jar", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst"})


@dataclass(frozen=True, slots=True)
class Judged:
    """An entry that takes a place in the job; ``reason`` says why it is refused, ``end`` where its bytes must end."""

    entry: Entry
    reason: str | None
    end: int


def judge(directory: Directory, limits: Limits) -> list[Judged]:
    """Return the entries that take a place, each with what is known against it; raises ``ArchiveRefused``.

    Directories and what operating systems leave in folders take none.
    """
    ends = _ends(directory)
    overlapping = _overlapping(directory, ends)
    seen: set[str] = set()
    judged: list[Judged] = []
    expanded = 0
    for place, entry in enumerate(directory.entries):
        if _is_passed_over(entry):
            continue
        reason = _against(entry, limits)
        if reason is None and place in overlapping:
            reason = "overlapping"
        if reason is None and entry.name in seen:
            reason = "duplicate_name"
        seen.add(entry.name)
        if reason is None:
            expanded += entry.size
            if expanded > limits.expanded_bytes:
                reason = "archive_expands_too_far"
        judged.append(Judged(entry, reason, ends[place]))
    if not judged:
        raise ArchiveRefused("archive_empty")
    if len(judged) > limits.photos:
        raise ArchiveRefused("archive_too_many_entries")
    return judged


def _is_passed_over(entry: Entry) -> bool:
    if entry.name.endswith("/"):
        # A directory that has content is a file in disguise, and takes its place.
        return entry.size == 0 and entry.packed <= _EMPTY_DEFLATED
    parts = entry.name.split("/")
    return parts[0] == "__MACOSX" or parts[-1] in _SYSTEMS_OWN


def _against(entry: Entry, limits: Limits) -> str | None:
    """Return the reason to refuse an entry that it gives by itself."""
    kind = stat.S_IFMT(entry.mode)
    path = PurePosixPath(entry.name)
    found = (
        ("encrypted", entry.flags & _ENCRYPTED or entry.method == _AES),
        ("special_file", kind not in (0, stat.S_IFREG)),
        ("unsupported_method", entry.method not in (STORED, DEFLATED)),
        ("bad_name", not _is_name(entry.name, path)),
        ("nested_archive", path.suffix.lower() in _ARCHIVES),
        ("header_damaged", not entry.is_sound or (entry.method == STORED and entry.size != entry.packed)),
        ("too_large", entry.size > limits.photo_bytes),
        ("too_dense", entry.size > entry.packed * limits.growth + _SLACK),
    )
    return next((reason for reason, is_so in found if is_so), None)


def _is_name(name: str, path: PurePosixPath) -> bool:
    return (
        0 < len(name) <= _LONGEST_NAME
        and name.isprintable()
        and "\ufffd" not in name
        and "\\" not in name
        and not name.endswith("/")
        and not path.is_absolute()
        and ".." not in path.parts
        and not _DRIVE.match(name)
    )


def _ends(directory: Directory) -> list[int]:
    """Return for each entry where the next one begins, or the directory: its bytes must end before."""
    starts = sorted({entry.offset for entry in directory.entries if entry.is_sound})
    following = dict(zip(starts, [*starts[1:], directory.start], strict=True)) if starts else {}
    return [following.get(entry.offset, 0) for entry in directory.entries]


def _overlapping(directory: Directory, ends: Sequence[int]) -> set[int]:
    """Return the places of entries that begin where another does, or are too long for the room they have."""
    first: dict[int, int] = {}
    found: set[int] = set()
    for place, (entry, end) in enumerate(zip(directory.entries, ends, strict=True)):
        if not entry.is_sound:
            continue
        if entry.offset in first:
            found |= {place, first[entry.offset]}
        first.setdefault(entry.offset, place)
        if entry.offset + _HEADER + len(entry.raw_name) + entry.packed > min(end, directory.start):
            found.add(place)
    return found
