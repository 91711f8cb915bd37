"""Photos for the network: fetched from the storage and decoded ahead, in order of completion.

Decoding works and may meet a hostile file, so it has child processes (``Popen``, since children of a Celery pool may
not use ``multiprocessing``), each held by one thread (``worker/feeding.py``), which also fetches from a storage that is
near. Fetching over a network waits, so it has threads of its own. How far ahead is bounded by number and by bytes,
whatever the photos are.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from shared.processors import processors
from shared.settings import Settings
from shared.storage import Storage
from worker.ahead import Ahead
from worker.decoding.decoder import Decoder
from worker.decoding.outcomes import REASONS, UNREADABLE, Decoded, Limits, Outcome, Rejected, Unreadable
from worker.feeding import Feeder, Job, Lay, Reading, Request, Waiting

__all__ = ["REASONS", "UNREADABLE", "Decoded", "Outcome", "PhotoReader", "Rejected", "Request", "Unreadable"]

_FETCHERS = 8
_BYTES_AHEAD = 128 << 20
_FIRST_BATCH = 2


class PhotoReader:
    """Reads photos through long-lived decoding children; one for a process, threads may share it.

    ``seconds`` is the time a child may take over one file. ``batch``, which the caller may change at any time, is how
    many photos it takes at once: reading runs two of these ahead. Children are started when first needed, and stand
    back behind all that is more urgent. ``for_people`` makes a reader of one child that does not; ``people`` is such a
    one, which reads ahead.
    """

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        *,
        seconds: float = 10.0,
        for_people: bool = False,
        people: "PhotoReader | None" = None,
    ) -> None:
        self._storage = storage
        self._seconds = seconds
        self._limits = Limits(settings.max_photo_bytes, settings.max_photo_pixels, settings.copy_side)
        children = 1 if for_people else settings.decoders or processors()
        self._children = children
        self.batch = _FIRST_BATCH
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")
        self._is_for_people = for_people
        self._waiting: Waiting = SimpleQueue()
        self._people = people or self
        self._ahead: Ahead | None = None
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

    def warm_up(self) -> None:
        """Start a child for people's photos before the first one comes."""
        self._begin()

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        """Yield every request with its outcome, whichever is done first.

        ``requests`` is drawn from as there is room, in the caller's thread. A caller that stops early should close
        the iterator; what is still under way is then dropped.
        """
        self._begin()
        reading = Reading()
        coming = iter(requests)
        following = next(coming, None)
        count = size = 0
        try:
            while following or count:
                ahead = 2 * (self.batch + self._children)
                while following and count < ahead and (not count or size + following.size <= _BYTES_AHEAD):
                    count, size = count + 1, size + following.size
                    self._begin_with(reading, following, is_alone=count == 1)
                    following = next(coming, None)
                request, answer = reading.answers.get()
                count, size = count - 1, size - request.size
                if isinstance(answer, BaseException):
                    raise answer
                yield request, answer
        finally:
            reading.is_over = True

    def look_ahead(self, request: Request) -> None:
        """Begin to decode a photo that may be asked for in a moment, in place of the last such one."""
        self.forget()
        self._people.warm_up()
        ahead = Ahead(request)
        self._people.send(ahead, request, is_alone=True)
        with self._lock:
            self._ahead = ahead

    @property
    def looks_ahead(self) -> bool:
        """Whether a photo is decoded, or is being decoded, that nobody has asked for yet."""
        return self._ahead is not None

    def forget(self) -> None:
        """Keep nothing of a photo that nobody asked for."""
        with self._lock:
            ahead, self._ahead = self._ahead, None
        if ahead:
            ahead.is_over = True

    def close(self) -> None:
        """End the children and the threads. Nobody may be reading any more."""
        with self._lock:
            self._is_closed = True
        self._fetchers.shutdown(cancel_futures=True)
        for _ in self._threads:
            self._waiting.put(None)
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
                feeder = Feeder(decoder, self._waiting, first=self._is_for_people)
                thread = threading.Thread(target=feeder.run, name="decode", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _begin_with(self, reading: Reading, request: Request, *, is_alone: bool) -> None:
        """Have a photo fetched and decoded, unless that was begun before it was asked for."""
        send = partial(self.send, reading, request, is_alone=is_alone)
        with self._lock:
            ahead = self._ahead if self._ahead and self._ahead.is_of(request) else None
            if ahead:
                self._ahead = None
        if ahead:
            ahead.give(reading, request, otherwise=send)
        else:
            send()

    def send(self, reading: Reading, request: Request, *, is_alone: bool) -> None:
        """Have a photo fetched and decoded; its outcome comes to the reading."""
        most = self._limits.max_bytes
        if request.size == 0:
            reading.tell(request, Rejected("empty", REASONS["empty"]))
        elif request.size > most:
            detail = f"The file has {request.size} bytes; {most} are the limit."
            reading.tell(request, Rejected("too_large", detail))
        elif self._storage.is_near:
            self._waiting.put(Job(reading, request, partial(self._storage.read_into, request.key), is_alone))
        else:
            self._fetchers.submit(self._fetch, reading, request, is_alone)

    def _fetch(self, reading: Reading, request: Request, is_alone: bool) -> None:
        lay: Lay
        if reading.is_over:
            return
        try:
            lay = partial(_copy, self._storage.read(request.key, limit=request.size))
        except BaseException as error:  # noqa: BLE001 -- the edge of a thread: the reader of the photo must hear of it
            lay = partial(_fail, error)
        self._waiting.put(Job(reading, request, lay, is_alone))


def _copy(data: bytes, room: memoryview) -> int:
    room[: len(data)] = data
    return len(data)


def _fail(error: BaseException, _: memoryview) -> int:
    raise error
