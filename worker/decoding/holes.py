"""Zeroed stretches inside a JPEG, which its decoder takes for picture.

A disk or a transfer that loses data leaves zeros. Huffman codes fall back into step after them, so a decoder often sees
nothing wrong, while everything below has another colour. But a run of zero bits means the first symbol of each table
again and again, and for nearly every photo's tables that is no picture a camera takes: either it means no flat blocks,
or it means the ends of blocks one by one in a scan whose table has codes for many ends at once.
"""

import re
import struct

import numpy as np

_HOLE = bytes(32)
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_DHT, _SOS, _EOI = 0xC4, 0xDA, 0xD9
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_MAX_MARKERS = 4096
_RUN_OF_ZEROS = 15
_TABLE_HEAD = 17  # class and number, then how many codes there are of each length

_Tables = dict[int, bytes]
"""The symbols of each Huffman table, shortest code first, by class and number as in T.81, B.2.4.2."""


def has_hole(data: bytes | memoryview) -> bool:
    """Whether a Huffman-coded scan holds 32 zero bytes that its tables have no use for."""
    if not _may_hold(data):
        return False
    data = bytes(data)
    if data.find(_HOLE) < 0:
        return False
    tables: _Tables = {}
    frame, pos = 0, 2
    for _ in range(_MAX_MARKERS):
        found = _MARKER.search(data, pos)
        if not found or data[found.end() - 1] == _EOI:
            return False
        marker, start = data[found.end() - 1], found.end()
        length = int.from_bytes(data[start : start + 2], "big")
        body, pos = data[start + 2 : start + length], start + length
        if marker == _DHT:
            tables |= _symbols(body)
        elif marker in _SEQUENTIAL or marker == _PROGRESSIVE:
            frame = marker
        elif marker == _SOS and frame:
            end = _MARKER.search(data, pos)
            if data.find(_HOLE, pos, end.start() if end else len(data)) >= 0 and not _zeros_fit(frame, body, tables):
                return True
    return False


def _may_hold(data: bytes | memoryview) -> bool:
    """Whether one of its words of eight bytes is zero, as three at least are in a hole; an eighth of searching it."""
    return len(data) >= len(_HOLE) and not np.frombuffer(data, np.uint64, len(data) // 8).min()


def _symbols(body: bytes) -> _Tables:
    """Read the tables of a segment. The code of the first symbol is all zeros."""
    tables: _Tables = {}
    while len(body) > _TABLE_HEAD:
        count = sum(body[1:_TABLE_HEAD])
        tables[body[0]] = body[_TABLE_HEAD : _TABLE_HEAD + count]
        body = body[_TABLE_HEAD + count :]
    return tables


def _zeros_fit(frame: int, scan: bytes, tables: _Tables) -> bool:
    """Whether zeros mean flat blocks in this scan (T.81, F.1.2 and G.1.2)."""
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count:
        return False
    used = [(scan[2 + 2 * n] >> 4, 0x10 | scan[2 + 2 * n] & 0x0F) for n in range(count)]
    first, _, bits = struct.unpack_from("BBB", scan, 1 + 2 * count)
    if frame in _SEQUENTIAL:
        return all(tables.get(dc, b"")[:1] == tables.get(ac, b"")[:1] == b"\0" for dc, ac in used)
    if first == 0:
        # A refinement is plain bits, and the same one for a whole flat area.
        return bits >> 4 > 0 or all(tables.get(dc, b"")[:1] == b"\0" for dc, _ in used)
    return all(_ends_fit(tables.get(ac, b"")) for _, ac in used)


def _ends_fit(symbols: bytes) -> bool:
    """Whether an encoder with these symbols writes the ends of many flat blocks as zeros, one end after the other."""
    ends = [symbol >> 4 for symbol in symbols if not symbol & 0x0F and symbol >> 4 != _RUN_OF_ZEROS]
    return symbols[:1] == b"\0" and not any(ends)  # else it counts them
