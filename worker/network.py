"""Micro-batches on their way through the network: two at once, so that it never waits for what becomes of an answer."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from shared.bundle import Bundle
from shared.ledger.claim import ClaimedImage
from shared.logs import logger
from worker.inference.answers import Answer
from worker.inference.classifier import Classifier
from worker.photos import Decoded
from worker.work import Work

log = logger(__name__)

_AT_ONCE = 2
_SECONDS = 0.1
_LEAST_TURNS = 2


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded photo on its way into the network."""

    work: Work
    image: ClaimedImage
    decoded: Decoded


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network made of a micro-batch, from when to when (monotonic seconds); milliseconds are a photo's."""

    bundle: Bundle
    began: float
    ended: float
    found: list[tuple[Photo, Answer | Exception, float]]


def batch_size(photos_per_second: float, *, threads: int, most: int) -> int:
    """How many photos to put in at once: about 100 ms of work, since longer batches only make others wait.

    As many for each of the engine's threads: with a photo over, threads wait for the one that has it, and a photo alone
    is computed by all of them, which costs a twelfth more. Two at least: a thread that reads the network's weights for
    one photo at a time takes a thirtieth more. ``most`` is the limit whatever the threads.
    """
    turns = max(_LEAST_TURNS, round(photos_per_second * _SECONDS / threads))
    return min(most, turns * threads)


def by_network(photos: Sequence[Photo]) -> Iterator[tuple[Classifier, Sequence[Photo]]]:
    """Part a micro-batch by the networks that answer its units: almost always there is one."""
    together: dict[Classifier, list[Photo]] = {}
    for photo in photos:
        if photo.work.classifier is None:
            raise ValueError("a photo is read when its network is known")
        together.setdefault(photo.work.classifier, []).append(photo)
    yield from together.items()


class Network:
    """The networks with two threads before them; its user is one thread alone."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="network")
        self._under_way: deque[Future[Seen]] = deque()

    def put(self, classifier: Classifier, photos: Sequence[Photo]) -> None:
        """Put a micro-batch into one of them."""
        self._under_way.append(self._threads.submit(_look, classifier, photos))

    def seen(self, *, all_of_it: bool = False) -> Iterator[Seen]:
        """Yield what came out, in the order it was put in, until one micro-batch is left under way, or none."""
        while len(self._under_way) > (0 if all_of_it else _AT_ONCE - 1):
            yield self._under_way.popleft().result()

    @property
    def is_busy(self) -> bool:
        """Whether any micro-batch is under way."""
        return not all(batch.done() for batch in self._under_way)

    def ready(self) -> Iterator[Seen]:
        """Yield what has come out already, in the order it was put in."""
        while self._under_way and self._under_way[0].done():
            yield self._under_way.popleft().result()

    def wait(self, seconds: float) -> bool:
        """Wait for so long, or until the next micro-batch is out; return whether there was any to wait for."""
        if not self._under_way:
            return False
        wait([self._under_way[0]], seconds)
        return True

    def drop(self) -> None:
        """Wait for what is under way, and forget it."""
        wait(self._under_way)
        self._under_way.clear()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()


def _look(classifier: Classifier, photos: Sequence[Photo]) -> Seen:
    began = time.monotonic()
    found = _answers(classifier, photos)
    return Seen(classifier.bundle, began, time.monotonic(), found)


def _answers(classifier: Classifier, photos: Sequence[Photo]) -> list[tuple[Photo, Answer | Exception, float]]:
    """Return what the network says of each photo; a batch that fails is halved to the one that breaks it.

    An answer that could not be had is the error that came instead.
    """
    started = time.monotonic()
    try:
        answers = classifier.classify(
            np.stack([photo.decoded.pixels for photo in photos]), [photo.decoded.quality for photo in photos]
        )
    except Exception as error:  # noqa: BLE001  # engines raise what they like; the photo gets an outcome either way
        if len(photos) > 1:
            middle = len(photos) // 2
            return _answers(classifier, photos[:middle]) + _answers(classifier, photos[middle:])
        log.error("network_failed", job=str(photos[0].work.unit.job_id), error=type(error).__name__)
        return [(photos[0], error, 0.0)]
    each = round((time.monotonic() - started) * 1000 / len(photos), 2)
    return [(photo, answer, each) for photo, answer in zip(photos, answers, strict=True)]
