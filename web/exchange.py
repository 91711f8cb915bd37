"""Makes the limits of several web processes one: through Valkey, twice a second, beside the requests.

Each process adds what it let through to a sum in Valkey and takes what others added out of its own buckets. So all of
them together let through a policy's rate in the long run, and at worst one burst more for each further process.
While Valkey is away, or where the broker is none of its kind, each process holds the limits by itself: then the bound
is a policy's rate and burst times the number of web processes. No request waits for any of this.
"""

import threading
from collections.abc import Sequence
from typing import Final

import redis

from shared.logs import logger
from shared.settings import Settings
from shared.valkey import open_valkey
from web.rates import Rates

_SECONDS: Final = 0.5
_AWAY_SECONDS: Final = 2.0
_SOCKET_SECONDS: Final = 1.0
# A sum nobody adds to is of no use when every bucket is full again.
_KEPT_SECONDS: Final = 3600
_PREFIX: Final = "poxvisio:rate:"

log = logger(__name__)


class Exchange:
    """Tells and hears for buckets of one process, on a thread of its own once there is something to tell."""

    def __init__(self, rates: Sequence[Rates], settings: Settings, *, seconds: float = _SECONDS) -> None:
        self._rates = [each for each in rates if each.policies]
        self._seconds = seconds
        self._valkey = open_valkey(settings.broker_url.get_secret_value(), _SOCKET_SECONDS)
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._exchanging = threading.Lock()
        self._thread: threading.Thread | None = None
        # Whether the limits are held together with others; empty before the first try.
        self.is_shared: bool | None = None

    def begin(self) -> None:
        """Start exchanging unless that was done, or there is nothing to exchange through."""
        if self._thread is not None or self._valkey is None or not self._rates:
            return
        with self._starting:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="rates", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop, and give the connection back."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * _SOCKET_SECONDS)
        if self._valkey is not None:
            self._valkey.close()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds if self.is_shared is not False else _AWAY_SECONDS):
            try:
                self.exchange()
            except Exception:  # the edge of a thread: one bad round must not be the last
                log.exception("rates_failed")
                self.is_shared = False

    def exchange(self) -> None:
        """Tell and hear once, one thread after the other; what could not be told is told with the next round."""
        with self._exchanging:
            self._exchange()

    def _exchange(self) -> None:
        to_tell = [(rates, *bucket) for rates in self._rates for bucket in rates.to_tell()]
        if not to_tell or self._valkey is None:
            return
        pipeline = self._valkey.pipeline(transaction=False)
        for _, policy, whose, taken in to_tell:
            name = f"{_PREFIX}{policy.name}:{whose}"
            pipeline.incrby(name, taken)
            pipeline.expire(name, _KEPT_SECONDS)
        try:
            answers = pipeline.execute()
        except (redis.RedisError, OSError) as error:
            if self.is_shared is not False:
                log.warning("rates_held_alone", error=type(error).__name__)
            self.is_shared = False
            return
        for (rates, policy, whose, taken), total in zip(to_tell, answers[::2], strict=True):
            rates.hear(policy, whose, taken, int(total))
        if not self.is_shared:
            log.info("rates_shared")
        self.is_shared = True
