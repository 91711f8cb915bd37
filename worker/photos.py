"""Photos for the network: fetched from the storage and decoded ahead, in order of completion.

Fetching waits, so it has threads; decoding works and may meet a hostile file, so it has child processes (``Popen``,
since children of a Celery pool may not use ``multiprocessing``), each held by one thread. How far ahead is bounded by
number and by bytes, whatever the photos are.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count as counting
from queue import PriorityQueue, SimpleQueue
from types import TracebackType
from typing import Any, Self

from shared.errors import ObjectMissing, ObjectTooLarge, StorageAway
from shared.processors import processors
from shared.settings import Settings
from shared.storage import Storage
from worker.decoding.decoder import Decoder, DecoderAway
from worker.decoding.outcomes import REASONS, UNREADABLE, Decoded, Limits, Outcome, Rejected, Unreadable

__all__ = ["REASONS", "UNREADABLE", "Decoded", "Outcome", "PhotoReader", "Rejected", "Request", "Unreadable"]

_FETCHERS = 8
_BYTES_AHEAD = 128 << 20
_END = 2
_FIRST_BATCH = 2


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
class _Reading:
    """One call of ``read``: where its outcomes go, and whether anyone still wants them."""

    answers: SimpleQueue[tuple[Request, Outcome | BaseException]] = field(default_factory=SimpleQueue)
    is_urgent: bool = False
    is_over: bool = False


@dataclass(order=True, slots=True)
class _Job:
    """A fetched photo for the decoding children: urgent ones first, the others in turn, the end last of all."""

    rank: int
    turn: int
    what: tuple[_Reading, Request, bytes] | None = field(compare=False)


class PhotoReader:
    """Reads photos through long-lived decoding children; one for a process, threads may share it.

    ``seconds`` is the time a child may take over one file. ``batch``, which the caller may change at any time, is how
    many photos it takes at once: reading runs two of these ahead. Children are started when first needed.
    """

    def __init__(self, settings: Settings, storage: Storage, *, seconds: float = 10.0) -> None:
        self._storage = storage
        self._seconds = seconds
        self._limits = Limits(settings.max_photo_bytes, settings.max_photo_pixels, settings.copy_side)
        children = settings.decoders or processors()
        self._children = children
        self.batch = _FIRST_BATCH
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")
        self._fetched: PriorityQueue[_Job] = PriorityQueue()
        self._turns = counting()
        self._decoders = [Decoder(self._limits, seconds=seconds) for _ in range(children)]
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """The decoding children that run now."""
        return [pid for decoder in self._decoders if (pid := decoder.pid)]

    @property
    def confinement(self) -> str:
        """What holds the children: ``seccomp``, or ``limits only: `` and why; empty before the first has started."""
        return next((decoder.confinement for decoder in self._decoders if decoder.confinement), "")

    def read(self, requests: Iterable[Request], *, urgent: bool = False) -> Iterator[tuple[Request, Outcome]]:
        """Yield every request with its outcome, whichever is done first; urgent ones are decoded before all others.

        ``requests`` is drawn from as there is room, in the caller's thread. A caller that stops early should close
        the iterator; what is still under way is then dropped.
        """
        self._begin()
        reading = _Reading(is_urgent=urgent)
        coming = iter(requests)
        following = next(coming, None)
        count = size = 0
        try:
            while following or count:
                ahead = 2 * (self.batch + self._children)
                while following and count < ahead and (not count or size + following.size <= _BYTES_AHEAD):
                    count, size = count + 1, size + following.size
                    self._fetchers.submit(self._fetch, reading, following)
                    following = next(coming, None)
                request, answer = reading.answers.get()
                count, size = count - 1, size - request.size
                if isinstance(answer, BaseException):
                    raise answer
                yield request, answer
        finally:
            reading.is_over = True

    def close(self) -> None:
        """End the children and the threads. Nobody may be reading any more."""
        with self._lock:
            self._is_closed = True
        self._fetchers.shutdown(cancel_futures=True)
        for _ in self._threads:
            self._fetched.put(_Job(_END, next(self._turns), None))
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("this reader is closed")
            while len(self._threads) < len(self._decoders):
                # These live as long as the reader: a child ends with the thread that started it.
                decoder = self._decoders[len(self._threads)]
                thread = threading.Thread(target=self._decode, args=(decoder,), name="decode", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _fetch(self, reading: _Reading, request: Request) -> None:
        if reading.is_over:
            return
        try:
            got = self._get(request)
        except BaseException as error:  # noqa: BLE001 -- the edge of a thread: the reader of the photo must hear of it
            got = error
        if isinstance(got, bytes):
            self._fetched.put(_Job(int(not reading.is_urgent), next(self._turns), (reading, request, got)))
        else:
            reading.answers.put((request, got))

    def _get(self, request: Request) -> bytes | Rejected | Unreadable | BaseException:
        most = self._limits.max_bytes
        if request.size == 0:
            return Rejected("empty", REASONS["empty"])
        if request.size > most:
            return Rejected("too_large", f"The file has {request.size} bytes; {most} are the limit.")
        try:
            data = self._storage.read(request.key, limit=request.size)
        except ObjectMissing as error:
            return Unreadable("photo_missing", str(error))
        except StorageAway as error:
            return Unreadable("storage_unreachable", str(error))
        except ObjectTooLarge:
            data = b""
        if len(data) == request.size and (not request.sha256 or hashlib.sha256(data).digest() == request.sha256):
            return data
        return Unreadable("bytes_changed", UNREADABLE["bytes_changed"])

    def _decode(self, decoder: Decoder) -> None:
        try:
            while (job := self._fetched.get().what) is not None:
                reading, request, data = job
                del job
                if reading.is_over:
                    continue
                answer: Outcome | BaseException
                try:
                    answer = decoder.decode(data)
                except DecoderAway as error:
                    answer = Unreadable("decoder_unavailable", str(error))
                except BaseException as error:  # noqa: BLE001 -- as above
                    answer = error
                del data
                reading.answers.put((request, answer))
        finally:
            decoder.close()
