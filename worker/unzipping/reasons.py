"""Why an archive, or an entry of one, is refused; every reason is one that a user sees."""

from dataclasses import dataclass

from shared.errors import PoxVisioError

REASONS = {
    # of the archive
    "archive_damaged": "The file is no zip archive, or its directory is cut off or contradicts itself.",
    "archive_split": "The archive is one of several volumes; send it in one file.",
    "archive_empty": "There is no photo in the archive.",
    "archive_too_many_entries": "The archive has more entries than a job may have photos.",
    # of an entry, told from the directory
    "encrypted": "The entry is encrypted.",
    "special_file": "The entry is a link or a device, no file.",
    "unsupported_method": "The entry is compressed in a way other than deflate.",
    "bad_name": "The entry's name leads out of the archive, or holds what no file name should.",
    "duplicate_name": "Another entry before it has the same name.",
    "nested_archive": "The entry is an archive itself; send its photos in the outer one.",
    "too_large": "The entry has more bytes than a photo may have.",
    "too_dense": "The entry grows more than any photo does when it is expanded.",
    "header_damaged": "What the directory says of the entry contradicts itself.",
    "overlapping": "The entry shares its bytes with another one, or with the directory.",
    "archive_expands_too_far": "The entries before it have used up what one archive may expand to.",
    # of an entry, told while it is read
    "header_mismatch": "The entry's own header says something else than the directory.",
    "size_mismatch": "The entry has more or fewer bytes than the directory says.",
    "checksum_mismatch": "The entry's bytes are not those that were packed.",
    "data_damaged": "The entry's compressed bytes are damaged or cut off.",
}


class ArchiveRefused(PoxVisioError):
    """Nothing can be taken out of the archive; asking again changes nothing."""

    def __init__(self, reason: str) -> None:
        """``reason`` is a key of ``REASONS``."""
        super().__init__(REASONS[reason])
        self.reason = reason


class EntryRefused(ArchiveRefused):
    """One entry cannot be taken out of the archive; the others may."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold: photos, bytes of one, bytes of all when expanded, and how much an entry may grow."""

    photos: int
    photo_bytes: int
    expanded_bytes: int
    growth: int = 200

    @property
    def entries(self) -> int:
        """How many entries are looked at: macOS adds one of its own to each file."""
        return 2 * self.photos + 1000
