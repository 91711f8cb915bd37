"""Hints through Valkey that jobs have their answers: whoever waits for one looks at once, and not when it is due.

A hint says nothing that the database does not. One that is lost, or all of them where Valkey is away or the broker is
none of its kind, costs the time until the next look. It goes out after the commit and may delay little: where Valkey
does not answer at once, there are none for a while.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final
from uuid import UUID

import redis

from shared.logs import logger
from shared.settings import Settings
from shared.valkey import open_valkey

_CHANNEL: Final = "poxvisio:closed"
_SECONDS: Final = 0.25
_REST_SECONDS: Final = 10.0
_LISTENING_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 2.0
_ID_BYTES: Final = 16
# A sweep may close many at once; the rest is found without hints.
_MOST: Final = 1000

log = logger(__name__)


class Hinting:
    """The end that tells. Not for two threads."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._valkey = open_valkey(settings.broker_url.get_secret_value(), _SECONDS)
        self._clock = clock
        self._rests_until = float("-inf")

    def tell(self, jobs: Sequence[UUID]) -> bool:
        """Say that these jobs are closed, once that is committed; return whether it was said."""
        if self._valkey is None or not jobs or self._clock() < self._rests_until:
            return False
        try:
            self._valkey.publish(_CHANNEL, b"".join(job.bytes for job in jobs[:_MOST]))
        except (redis.RedisError, OSError) as error:
            log.warning("hint_lost", error=type(error).__name__)
            self._rests_until = self._clock() + _REST_SECONDS
            return False
        return True

    def close(self) -> None:
        """Give the connection back."""
        if self._valkey is not None:
            self._valkey.close()


class Hearing:
    """The end that is told, on a thread of its own once it has begun; ``heard`` is given the jobs."""

    def __init__(self, settings: Settings, heard: Callable[[Collection[UUID]], None]) -> None:
        self._valkey = open_valkey(settings.broker_url.get_secret_value(), _AGAIN_SECONDS)
        self._heard = heard
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        # Whether Valkey has taken us on as a listener; what was said before is not heard.
        self.listens = threading.Event()

    def begin(self) -> None:
        """Start to listen unless that was done, or there is nothing to listen to."""
        if self._thread is not None or self._valkey is None:
            return
        with self._starting:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="hints", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop, and give the connection back."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * _LISTENING_SECONDS)
        if self._valkey is not None:
            self._valkey.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError) as error:
                log.warning("hints_unheard", error=type(error).__name__)
            except Exception:  # the edge of a thread: one bad message must not be the last
                log.exception("hints_failed")
            self.listens.clear()
            self._stopping.wait(_AGAIN_SECONDS)

    def _listen(self) -> None:
        assert self._valkey is not None  # noqa: S101  # begin() starts no thread without it
        with self._valkey.pubsub() as channel:  # type: ignore[no-untyped-call]  # redis leaves it untyped
            channel.subscribe(_CHANNEL)
            while not self._stopping.is_set():
                message: dict[str, Any] | None = channel.get_message(timeout=_LISTENING_SECONDS)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self.listens.set()
                elif message["type"] == "message":
                    self._heard(_jobs(message["data"]))


def _jobs(said: bytes) -> list[UUID]:
    """Return the jobs of a message; none of one that somebody else sent."""
    if len(said) % _ID_BYTES:
        return []
    return [UUID(bytes=said[place : place + _ID_BYTES]) for place in range(0, len(said), _ID_BYTES)]
