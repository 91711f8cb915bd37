r"""Multipart syntax (RFC 2046, section 5.1.1; RFC 7578) as a stream: bytes in pieces, parts out, nothing remembered.

Our own, because Werkzeug 3.1.9's decoder gives a photo one byte too many when a piece ends inside the closing delimiter
(``\r\n--boundary-`` and then ``-``): rare, but its SHA-256 would be another one than the sender's.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from werkzeug.http import parse_options_header

_LONGEST_HEAD: Final = 16 * 1024
_LONGEST_PREAMBLE: Final = 64 * 1024
_LONGEST_PADDING: Final = 256
_CLOSING: Final = b"--"
_BREAK: Final = b"\r\n"


class Malformed(ValueError):
    """The bytes are no multipart body, or end before it does."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A part begins; ``name`` and ``file_name`` as its Content-Disposition says, None where it does not."""

    name: str | None
    file_name: str | None


@dataclass(frozen=True, slots=True)
class Data:
    """Some bytes of the part."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The part is whole."""


Event = Begin | Data | End


class Envelope:
    """Takes a body apart at its boundary. Use it once."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        # The first delimiter may open the body: the line break before it is lent.
        self._buffer = bytearray(b"\r\n")

    def events(self, pieces: Iterable[bytes]) -> Iterator[Event]:
        """Return the parts of a body that comes in pieces, none of them empty; raises ``Malformed``."""
        source = iter(pieces)
        preamble = 0
        for skipped in self._until_delimiter(source):
            preamble += len(skipped)
            if preamble > _LONGEST_PREAMBLE:
                raise Malformed("the preamble is too long")
        while self._opens_part(source):
            yield self._head(source)
            # A part without content may share the empty line's break with its delimiter.
            for data in self._until_delimiter(source, lent=len(_BREAK)):
                yield Data(data)
            yield End()
        for _ in source:
            pass  # the epilogue says nothing (RFC 2046)

    def _until_delimiter(self, source: Iterator[bytes], lent: int = 0) -> Iterator[bytes]:
        """Return what stands before the next delimiter, which is taken too, without the first ``lent`` bytes."""
        tail = len(self._delimiter) - 1
        looked = 0
        while (found := self._buffer.find(self._delimiter, looked)) < 0:
            if len(self._buffer) > tail + lent:
                yield self._take(len(self._buffer) - tail, lent)
                lent = 0
            looked = max(len(self._buffer) - tail, 0)
            self._more(source)
        if found > lent:
            yield self._take(found, lent)
            found = 0
        del self._buffer[: found + len(self._delimiter)]

    def _opens_part(self, source: Iterator[bytes]) -> bool:
        """Return whether the delimiter just taken opens a part; the last one closes the body."""
        while len(self._buffer) < len(_CLOSING):
            self._more(source)
        if self._buffer.startswith(_CLOSING):
            return False
        if self._line(source, _BREAK, _LONGEST_PADDING).strip(b" \t"):
            raise Malformed("a delimiter is followed by something else")
        return True

    def _head(self, source: Iterator[bytes]) -> Begin:
        # A part without headers begins with the empty line itself: its first break is the delimiter's.
        for line in self._line(source, _BREAK + _BREAK, _LONGEST_HEAD).decode("utf-8", "replace").split("\r\n"):
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-disposition":
                options = parse_options_header(value.strip())[1]
                return Begin(options.get("name"), options.get("filename"))
        return Begin(None, None)

    def _line(self, source: Iterator[bytes], end: bytes, longest: int) -> bytes:
        """Return what stands before ``end``, which is taken too but for its last break."""
        while (found := self._buffer.find(end, 0, longest)) < 0:
            if len(self._buffer) > longest:
                raise Malformed("the headers of a part are too long")
            self._more(source)
        line = self._take(found)
        del self._buffer[: len(end) - len(_BREAK)]
        return line

    def _take(self, length: int, without: int = 0) -> bytes:
        """Take so many bytes and return them, ``without`` the first few."""
        with memoryview(self._buffer) as view:
            data = view[without:length].tobytes()
        del self._buffer[:length]  # moves no bytes: a bytearray drops its front in place
        return data

    def _more(self, source: Iterator[bytes]) -> None:
        piece = next(source, b"")
        if not piece:
            raise Malformed("the body ends before its closing delimiter")
        self._buffer += piece
