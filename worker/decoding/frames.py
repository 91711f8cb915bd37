"""What a worker and its decoding child tell each other: a size; then two lengths, a small JSON object and raw bytes."""

import json
import struct
from typing import Any, BinaryIO

REQUEST = struct.Struct("!I")
LENGTHS = struct.Struct("!II")
MAX_HEAD = 1 << 16


def read_request(stream: BinaryIO) -> int | None:
    """The size of the next file, or ``None`` where the stream ends."""
    packed = stream.read(REQUEST.size)
    return int(REQUEST.unpack(packed)[0]) if len(packed) == REQUEST.size else None


def write_frame(stream: BinaryIO, head: dict[str, Any], *parts: bytes) -> None:
    """Write an answer at once and flush it."""
    packed = json.dumps(head, separators=(",", ":")).encode()
    stream.write(LENGTHS.pack(len(packed), sum(map(len, parts))) + packed)
    stream.writelines(parts)
    stream.flush()
