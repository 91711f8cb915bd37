"""One decoding child and the thread that feeds it.

A photo from a disk is copied once, from the system's cache into the child's inbox, and hashed there, right before the
child reads it: laid down earlier it would have left the processor's caches by then, since the network's weights go
through them again and again. It is handed from one thread to the next only when it is decoded.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from shared.errors import ObjectMissing, ObjectTooLarge, StorageAway
from shared.priority import stand_back
from worker.decoding.decoder import Decoder, DecoderAway
from worker.decoding.outcomes import UNREADABLE, Outcome, Unreadable


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A photo to read: its key, its size in bytes as taken in, and whatever the caller wants back with it.

    With ``sha256`` given the bytes are held against it, which costs a few per cent of a decode.
    """

    key: str
    size: int
    context: Any = None
    sha256: bytes | None = None


@dataclass(slots=True, eq=False)
class Reading:
    """One call for photos: where its outcomes go, and whether anyone still wants them."""

    answers: SimpleQueue[tuple[Request, Outcome | BaseException]] = field(default_factory=SimpleQueue)
    is_over: bool = False


# Lays a photo down in the given room and returns its bytes' number, or raises what the storage raises.
Lay = Callable[[memoryview], int]


# A photo for whichever child is free first; None is the end of one of them.
Job = tuple[Reading, Request, Lay] | None


class Feeder:
    """Feeds one child until the end comes out of the queue; ``run`` is for a thread of its own.

    With ``first`` it and its child come before all that stands back, and the child is started at once.
    """

    def __init__(self, decoder: Decoder, waiting: SimpleQueue[Job], *, first: bool = False) -> None:
        self._decoder = decoder
        self._waiting = waiting
        self._is_first = first

    def run(self) -> None:
        """Have photo after photo decoded, and tell each one's reading what became of it."""
        try:
            if self._is_first:
                self._decoder.warm_up()
            else:
                stand_back()
            while (job := self._waiting.get()) is not None:
                reading, request, lay = job
                del job
                if reading.is_over:
                    continue
                answer: Outcome | BaseException
                try:
                    answer = self._lay(request, lay) or self._decoder.decode_laid(request.size)
                except DecoderAway as error:
                    answer = Unreadable("decoder_unavailable", str(error))
                except BaseException as error:  # noqa: BLE001 -- the edge of a thread: whoever reads must hear of it
                    answer = error
                del lay
                reading.answers.put((request, answer))
        finally:
            self._decoder.close()

    def _lay(self, request: Request, lay: Lay) -> Unreadable | None:
        """Lay a photo down and hold it against what was taken in; return what is wrong with it."""
        with self._decoder.inbox.room(request.size) as room:
            try:
                size = lay(room)
            except ObjectMissing as error:
                return Unreadable("photo_missing", str(error))
            except StorageAway as error:
                return Unreadable("storage_unreachable", str(error))
            except ObjectTooLarge:
                size = -1
            if size == request.size and (not request.sha256 or hashlib.sha256(room).digest() == request.sha256):
                return None
        return Unreadable("bytes_changed", UNREADABLE["bytes_changed"])
