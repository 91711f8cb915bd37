"""What a worker and its decoding child tell each other: a size; then two lengths and a small JSON object.

The sizes are of what lies in the inbox and the outbox. With the first one goes whether processors are idle, so that the
child may use two.
"""

import json
import struct
from typing import Any, BinaryIO

REQUEST = struct.Struct("!I?")
LENGTHS = struct.Struct("!II")
MAX_HEAD = 1 << 16


def read_request(stream: BinaryIO) -> tuple[int, bool] | None:
    """The size of the next file and whether processors are idle, or ``None`` where the stream ends."""
    packed = stream.read(REQUEST.size)
    if len(packed) != REQUEST.size:
        return None
    size, is_alone = REQUEST.unpack(packed)
    return size, is_alone


def write_frame(stream: BinaryIO, head: dict[str, Any], size: int = 0) -> None:
    """Write an answer at once and flush it; ``size`` is that of what lies in the outbox."""
    packed = json.dumps(head, separators=(",", ":")).encode()
    stream.write(LENGTHS.pack(len(packed), size) + packed)
    stream.flush()
