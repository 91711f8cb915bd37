"""Taking the next token in the pool child itself, for some seconds after it has worked.

Celery brings a token through its parent process, which takes some milliseconds that a person with one photo waits for.
A child that has just worked is the likeliest to be needed next, so it listens where tokens lie (kombu keeps a queue of
Redis as a list) before it says to Celery that it is done: until then its parent takes none. A token carries nothing, so
nothing is lost with one. Where the broker is no Valkey or Redis, or does not answer, tokens come through Celery alone.

Here it also hears of a photo whose job is still being written (``shared/announcing.py``).
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import redis

from shared.announcing import ANNOUNCED_KEY, Announced
from shared.broker import KEY_PREFIX
from shared.logs import logger
from shared.settings import Settings
from shared.valkey import open_valkey
from shared.vocabulary import LANES

_SECONDS: Final = 3.0
# Who waits hears nothing else, not even that it should stop.
_AT_ONCE_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 1.5
_REST_SECONDS: Final = 10.0

log = logger(__name__)


class Tokens:
    """The tokens of some lanes, the most urgent first. Not for two threads, but for ``stop``."""

    def __init__(
        self,
        settings: Settings,
        *,
        lanes: Sequence[str] = LANES,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queues = [KEY_PREFIX + lane for lane in lanes]
        self._valkey = open_valkey(settings.broker_url.get_secret_value(), _AT_ONCE_SECONDS + _PATIENCE_SECONDS)
        self._seconds, self._clock = seconds, clock
        self._rests_until = float("-inf")
        self._stopping = threading.Event()

    @property
    def is_listening(self) -> bool:
        """Whether a token would be heard of here: there is a Valkey, and it answers."""
        return self._valkey is not None and self._clock() >= self._rests_until

    def take(self, hear: Callable[[Announced], None] | None = None) -> bool:
        """Return whether a token came within some seconds; at once where there can be none, or ``stop`` was called.

        Meanwhile ``hear`` is told of photos that are announced.
        """
        if self._valkey is None or not self.is_listening:
            return False
        end = self._clock() + self._seconds
        try:
            while not self._stopping.is_set() and (left := end - self._clock()) > 0:
                queues = [ANNOUNCED_KEY, *self._queues] if hear else self._queues
                taken: Any = self._valkey.brpop(queues, timeout=min(left, _AT_ONCE_SECONDS))
                if taken and hear and taken[0] == ANNOUNCED_KEY.encode():
                    if photo := Announced.unpack(taken[1]):
                        hear(photo)
                elif taken:
                    return True
        except (redis.RedisError, OSError) as error:
            log.warning("tokens_unheard", error=type(error).__name__)
            self._rests_until = self._clock() + _REST_SECONDS
        return False

    def stop(self) -> None:
        """Let nobody wait any more; a signal handler may call it."""
        self._stopping.set()

    def close(self) -> None:
        """Give the connection back."""
        if self._valkey is not None:
            self._valkey.close()
