"""File names from outside: data to show, never a path."""

import re
import unicodedata
from typing import Final

LONGEST: Final = 200
_SEPARATORS: Final = re.compile(r"[/\\]")
_DROPPED: Final = ("Cc", "Cf", "Cs", "Co", "Cn")


def entry_name(given: str) -> str | None:
    """Return the name of a file in an archive, with the folders that tell it from others of its name.

    Cleaned as ``display_name`` does; a longer one loses its beginning.
    """
    parts = [part for part in map(display_name, _SEPARATORS.split(given)) if part]
    name = "/".join(parts)
    return ("…" + name[1 - LONGEST :] if len(name) > LONGEST else name) or None


def display_name(given: str | None) -> str | None:
    """Return the last component of a file name, without control or direction characters, 200 characters at most.

    A longer one keeps its ending. None where nothing is left.
    """
    last = _SEPARATORS.split(given or "")[-1]
    if not (last.isascii() and last.isprintable()):  # most names need no look at every character
        kept = "".join(character for character in last if unicodedata.category(character) not in _DROPPED)
        last = unicodedata.normalize("NFC", kept)
    name = " ".join(last.split())
    if len(name) > LONGEST:
        stem, dot, ending = name.rpartition(".")
        tail = dot + ending if stem and len(ending) <= 10 else ""  # noqa: PLR2004  # a longer ending is no file type
        name = name[: LONGEST - len(tail) - 1] + "…" + tail
    return name or None
