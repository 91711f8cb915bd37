"""A JSON list of photos as it comes in: base64 goes decoded into the storage, and what is left is a small document.

The document is the one that was sent with every ``images[].content`` emptied; it is parsed as any other. So a request
of gigabytes takes no more memory than its names and addresses.
"""

import binascii
import json
import re
from typing import Final

from web.asking import pointer
from web.intake.body import Body
from web.intake.reception import Reception
from web.problems import BROKEN_BODY, INVALID_OPTIONS, TOO_LARGE, Problem

# Enough for 50,000 photos with an address, a name and a custom_id each.
_MOST_REST: Final = 64 * 1024 * 1024
_LONGEST_KEY: Final = 1024
_STRUCTURE: Final = re.compile(rb'["{}\[\],:]')
_IN_STRING: Final = re.compile(rb'["\\]')
_LONGEST_ESCAPE: Final = 6
_IN_IMAGE: Final = [b"{", b"[", b"{"]


class _Base64:
    """Decodes one JSON string of base64 (RFC 4648, section 4) piece by piece into the reception."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._escaped = b""
        self._left = b""
        self._has_ended = False

    def feed(self, raw: bytes) -> None:
        """Take some bytes of the string as they stand in the document; raises ``ValueError``."""
        text = self._escaped + raw
        self._escaped = b""
        if b"\\" in text:
            # An escape may be cut by the end of a piece.
            last = text.rfind(b"\\", -_LONGEST_ESCAPE)
            if last >= 0 and len(text) - last < (_LONGEST_ESCAPE if text[last + 1 : last + 2] in (b"", b"u") else 2):
                text, self._escaped = text[:last], text[last:]
            text = json.loads(b'"' + text + b'"').encode("ascii")
        text = self._left + text
        whole = len(text) // 4 * 4
        self._left = text[whole:]
        self._decode(text[:whole])

    def finish(self) -> None:
        """Say that the string has ended; raises ``ValueError``."""
        if self._left or self._escaped:
            raise ValueError("its length is no multiple of four")

    def _decode(self, text: bytes) -> None:
        if not text:
            return
        if self._has_ended:
            raise ValueError("something follows the padding")
        self._has_ended = text.endswith(b"=")
        self._reception.write(binascii.a2b_base64(text, strict_mode=True))


class ListReader:
    """Reads one JSON body into a reception. Use it once."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._rest = bytearray()
        self._open: list[bytes] = []
        self._keys: list[bytes] = []
        self._expects_key = False
        self._string: bytearray | None = None
        self._is_escape = False
        self._content: _Base64 | None = None
        self._index = -1
        self._has_content = False

    def read(self, body: Body) -> bytes:
        """Return the document without its photos; raises ``Problem`` and ``StorageAway``."""
        while piece := body.read():
            place = 0
            while place < len(piece):
                place = self._in_string(piece, place) if self._string is not None else self._between(piece, place)
                if len(self._rest) > _MOST_REST:
                    raise Problem(TOO_LARGE, "What the list says besides its photos is too large.")
        if self._string is not None:
            raise Problem(BROKEN_BODY, "The JSON cannot be read.")
        return bytes(self._rest)

    def _between(self, piece: bytes, place: int) -> int:
        found = _STRUCTURE.search(piece, place)
        if found is None:
            self._rest += piece[place:]
            return len(piece)
        end = found.end()
        self._rest += piece[place:end]
        mark = found.group()
        if mark == b'"':
            self._begin_string()
        elif mark in b"{[":
            self._enter(mark)
        elif mark in b"}]":
            if self._open:
                self._open.pop()
                self._keys.pop()
            self._expects_key = False
        elif mark == b",":
            self._expects_key = self._open[-1:] == [b"{"]
        else:
            self._expects_key = False
        return end

    def _enter(self, mark: bytes) -> None:
        self._open.append(mark)
        self._keys.append(b"")
        self._expects_key = mark == b"{"
        if self._open == _IN_IMAGE and self._keys[0] == b"images":
            self._index += 1
            self._has_content = False

    def _begin_string(self) -> None:
        self._string = bytearray()
        is_content = (
            not self._expects_key
            and self._open == _IN_IMAGE
            and self._keys[0] == b"images"
            and self._keys[2] == b"content"
        )
        if not is_content:
            return
        if self._has_content:
            raise self._wrong("is given twice")
        self._has_content = True
        self._reception.begin(None, ordinal=self._index)
        self._content = _Base64(self._reception)

    def _in_string(self, piece: bytes, place: int) -> int:
        """Take what belongs to the open string, and return where it goes on, or what follows it."""
        start = place
        while True:
            if self._is_escape:
                place += 1
                self._is_escape = False
            found = _IN_STRING.search(piece, place)
            if found is None:
                self._take(piece[start:])
                return len(piece)
            place = found.end()
            if found.group() == b'"':
                self._take(piece[start : place - 1])
                self._end_string()
                return place
            self._is_escape = True
            if place == len(piece):
                self._take(piece[start:])
                return place

    def _take(self, raw: bytes) -> None:
        if self._content is None:
            self._rest += raw
            if self._expects_key and self._string is not None and len(self._string) <= _LONGEST_KEY:
                self._string += raw
            return
        try:
            self._content.feed(raw)
        except ValueError:
            raise self._wrong("is no base64") from None

    def _end_string(self) -> None:
        self._rest += b'"'
        if self._content is not None:
            try:
                self._content.finish()
            except ValueError:
                raise self._wrong("is no base64") from None
            self._reception.finish()
            self._content = None
        elif self._expects_key and self._string is not None and self._keys:
            self._keys[-1] = _unescaped(bytes(self._string))
        self._string = None

    def _wrong(self, detail: str) -> Problem:
        where = pointer(("images", self._index, "content"))
        return Problem(
            INVALID_OPTIONS, "An option is wrong; see errors.", errors=[{"detail": detail, "pointer": where}]
        )


def _unescaped(key: bytes) -> bytes:
    """Return a key as it is meant: it may be written with escapes."""
    if b"\\" not in key:
        return key
    try:
        return str(json.loads(b'"' + key + b'"')).encode("utf-8", "surrogatepass")
    except ValueError:
        return key
