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

    def tell(self, request: Request, answer: Outcome | BaseException) -> None:
        """Take what became of a photo."""
        self.answers.put((request, answer))


# Lays a photo down in the given room and returns its bytes' number, or raises what the storage raises.
Lay = Callable[[memoryview], int]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A photo for whichever child is free first. One that ``is_alone``, with none beside it, may use two processors."""

    reading: Reading
    request: Request
    lay: Lay
    is_alone: bool


# None is the end of one child.
Waiting = SimpleQueue[Job | None]


class Feeder:
    """Feeds one child until the end comes out of the queue; ``run`` is for a thread of its own.

    With ``first`` it and its child come before all that stands back, and the child is started at once.
    """

    def __init__(self, decoder: Decoder, waiting: Waiting, *, first: bool = False) -> None:
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
                if not job.reading.is_over:
                    job.reading.tell(job.request, self._answer(job))
                del job  # it may hold a photo that came over a network
        finally:
            self._decoder.close()

    def _answer(self, job: Job) -> Outcome | BaseException:
        try:
            wrong = self._lay(job.request, job.lay)
            return wrong or self._decoder.decode_laid(job.request.size, is_alone=job.is_alone)
        except DecoderAway as error:
            return Unreadable("decoder_unavailable", str(error))
        except BaseException as error:  # noqa: BLE001 -- the edge of a thread: whoever reads must hear of it
            return error

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
