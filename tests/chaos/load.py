"""Clients that send jobs as long as their block runs, and try again under the same key until they are told yes."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from uuid import UUID

import httpx

from tests.chaos.running import Service, job_of
from tests.chaos.samples import JPEGS


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
    follows what the service can do. One job in five is an archive; one in twenty is cancelled right after it was
    accepted. ``answers`` counts what the clients were told, by status.
    """

    service: Service
    samples: Sequence[bytes]
    seed: int
    results: Callable[[], int]
    clients: int = 3
    most_photos: int = 8
    most_waiting: int = 60
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
            is_archive = chance.random() < 0.2
            photos = tuple(chance.choices(JPEGS if is_archive else self.samples, k=chance.randint(1, self.most_photos)))
            cancels = chance.random() < 0.05 and not is_archive
            self._send(f"chaos-{self.seed}-{number}-{turn}", photos, cancels=cancels, is_archive=is_archive)

    def _send(self, key: str, photos: tuple[bytes, ...], *, cancels: bool, is_archive: bool) -> None:
        post = self.service.post_archive if is_archive else self.service.post
        while True:
            answer = self._told(lambda: post(photos, key))
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
