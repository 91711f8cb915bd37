"""The frames that a worker and its decoding child exchange: two lengths, a small JSON object, raw bytes."""

import json
import struct
from typing import Any, BinaryIO

LENGTHS = struct.Struct("!II")
MAX_HEAD = 1 << 16


def pack_head(head: dict[str, Any], body: int) -> bytes:
    """The beginning of a frame that carries ``body`` raw bytes."""
    packed = json.dumps(head, separators=(",", ":")).encode()
    return LENGTHS.pack(len(packed), body) + packed


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame, or ``None`` where the stream ends."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    head_size, body_size = LENGTHS.unpack(lengths)
    head, body = stream.read(head_size), stream.read(body_size)
    if len(head) + len(body) < head_size + body_size:
        return None
    return json.loads(head), body


def write_frame(stream: BinaryIO, head: dict[str, Any], *parts: bytes) -> None:
    """Write a frame at once and flush it."""
    stream.write(pack_head(head, sum(map(len, parts))))
    stream.writelines(parts)
    stream.flush()
