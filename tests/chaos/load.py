"""Clients that send jobs as long as their block runs, and try again under the same key until they are told yes."""

import functools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import httpx

from tests.chaos.running import Service, job_of
from tests.chaos.samples import JPEGS
from tests.chaos.senders import GIVING, Senders

_ARCHIVES: Final = 0.2
_LISTS: Final = 0.1
_CANCELLED: Final = 0.06


@dataclass(frozen=True, slots=True)
class Sent:
    """A job as the client knows it: accepted under its key, with these photos, perhaps cancelled."""

    key: str
    photos: tuple[bytes, ...]
    cancelled: bool


@dataclass
class Load:
    """Clients in front of a service.

    ``most_waiting`` photos are under way at once, as far as ``results`` tells how many are answered, so that the load
    follows what the service can do. One job in five is an archive, one in ten a list of addresses where there are
    ``senders``; one in twenty is cancelled right after it was accepted. ``answers`` counts what the clients were told,
    by status.
    """

    service: Service
    samples: Sequence[bytes]
    seed: int
    results: Callable[[], int]
    clients: int = 3
    most_photos: int = 8
    most_waiting: int = 60
    senders: Senders | None = None
    jobs: dict[UUID, Sent] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"client{number}", daemon=True)
            for number in range(self.clients)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Send nothing new; what was begun is tried until it is taken in."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    @property
    def photos(self) -> int:
        """How many photos were accepted."""
        with self._lock:
            return sum(len(sent.photos) for sent in self.jobs.values())

    def _run(self, number: int) -> None:
        try:
            self._send_on(number)
        except Exception as error:  # the edge of a thread: a client that breaks must not be taken for a quiet one
            with self._lock:
                self.broken.append(f"client {number} broke: {error!r}")
            raise

    def _send_on(self, number: int) -> None:
        chance = random.Random(f"{self.seed} client {number}")
        turn, before = 0, self.results()
        while not self._ending.is_set():
            if self.photos - (self.results() - before) >= self.most_waiting:
                self._ending.wait(0.05)
                continue
            turn += 1
            key = f"chaos-{self.seed}-{number}-{turn}"
            draw, count = chance.random(), chance.randint(1, self.most_photos)
            if draw < _ARCHIVES:
                photos = tuple(chance.choices(JPEGS, k=count))
                self._send(key, photos, functools.partial(self.service.post_archive, photos, key))
            elif draw < _ARCHIVES + _LISTS and self.senders is not None:
                self._send(key, *self._list(self.senders, chance, key, count))
            else:
                photos = tuple(chance.choices(self.samples, k=count))
                cancels = chance.random() < _CANCELLED
                self._send(key, photos, functools.partial(self.service.post, photos, key), cancels=cancels)

    def _list(
        self, senders: Senders, chance: random.Random, key: str, count: int
    ) -> tuple[tuple[bytes, ...], Callable[[], httpx.Response]]:
        """Return the photos of a list, and how to send it; some of its servers give them at the second try only."""
        places = chance.choices(range(len(JPEGS)), k=count)
        kinds = chance.choices([*GIVING, "good", "good", "good"], k=count)
        addresses = [
            senders.url(kind, place, f"{key}-{n}") for n, (kind, place) in enumerate(zip(kinds, places, strict=True))
        ]
        return tuple(JPEGS[place] for place in places), functools.partial(self.service.post_addresses, addresses, key)

    def _send(
        self, key: str, photos: tuple[bytes, ...], post: Callable[[], httpx.Response], *, cancels: bool = False
    ) -> None:
        while True:
            answer = self._told(post)
            if answer is not None and answer.status_code == 202:
                break
            if answer is not None and answer.status_code not in {409, 429, 503}:
                with self._lock:
                    self.broken.append(f"{key} was answered {answer.status_code}: {answer.text}")
            time.sleep(0.2 if answer is None else min(1.0, float(answer.headers.get("Retry-After", 1))))
        job = job_of(answer)
        with self._lock:
            if job in self.jobs:
                self.broken.append(f"{key} and {self.jobs[job].key} were given one job")
            self.jobs[job] = Sent(key, photos, cancels)
        if cancels:
            self._cancel(job)

    def _cancel(self, job: UUID) -> None:
        while True:
            with self.service.client() as client:
                answer = self._told(lambda: client.post(f"/v1/jobs/job_{job.hex}/cancel"))
            if answer is not None and answer.status_code in {200, 202, 409}:
                return
            time.sleep(0.2)

    def _told(self, ask: Callable[[], httpx.Response]) -> httpx.Response | None:
        answer = None
        try:
            answer = ask()
            told = str(answer.status_code)
        except httpx.TransportError as error:
            told = type(error).__name__
        with self._lock:
            self.answers[told] += 1
        return answer
