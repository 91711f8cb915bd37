"""Word through Valkey of a photo that is about to be queued, so that a worker with nothing to do begins to decode it.

Its job is being written meanwhile, which takes as long as half of that. The word promises nothing: the ledger alone
says what is to be answered, and a worker uses what it decoded for a claimed photo of the same key, size and digest and
for no other. A lost word costs that time, as does one that a worker heard and another claimed the photo. One waits at
most, and not for long: whoever becomes idle later has no use for it.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import redis

from shared.logs import logger
from shared.settings import Settings
from shared.storage.interface import checked_key
from shared.valkey import open_valkey

#: The list on which the word lies until a worker takes it.
ANNOUNCED_KEY: Final = "poxvisio:announced"
_SECONDS: Final = 0.25
_REST_SECONDS: Final = 10.0
_MILLISECONDS: Final = 100
_TELL: Final = """
    if redis.call('LLEN', KEYS[1]) == 0 then
      redis.call('LPUSH', KEYS[1], ARGV[1])
      redis.call('PEXPIRE', KEYS[1], ARGV[2])
    end
"""
_FIXED: Final = struct.Struct("!Q32s")

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Announced:
    """A photo that is stored: its key, its size in bytes and its SHA-256."""

    key: str
    size: int
    sha256: bytes

    def packed(self) -> bytes:
        """Return it as it goes through Valkey."""
        return _FIXED.pack(self.size, self.sha256) + self.key.encode()

    @classmethod
    def unpack(cls, said: bytes) -> "Announced | None":
        """Return what was said; None of what nobody of ours says."""
        try:
            size, sha256 = _FIXED.unpack_from(said)
            return cls(checked_key(said[_FIXED.size :].decode()), size, sha256)
        except (struct.error, ValueError):
            return None


class Announcing:
    """The end that tells; threads share it."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._valkey = open_valkey(settings.broker_url.get_secret_value(), _SECONDS)
        self._tell = self._valkey.register_script(_TELL) if self._valkey else None
        self._clock = clock
        self._rests_until = float("-inf")

    def tell(self, photo: Announced) -> bool:
        """Say that this photo is about to be queued; return whether it was said. May delay little, and never fails."""
        if self._tell is None or self._clock() < self._rests_until:
            return False
        try:
            self._tell(keys=[ANNOUNCED_KEY], args=[photo.packed(), _MILLISECONDS])
        except redis.exceptions.NoPermissionError:
            log.warning("scripts_refused", why="photos are not announced, and answered a little later")
            self._tell = None
            return False
        except (redis.RedisError, OSError) as error:
            log.warning("announcement_lost", error=type(error).__name__)
            self._rests_until = self._clock() + _REST_SECONDS
            return False
        return True

    def close(self) -> None:
        """Give the connection back."""
        if self._valkey is not None:
            self._valkey.close()
