"""How often somebody may ask: token buckets of this process, and the header fields that tell what is left.

A bucket holds what may come at once and fills at the policy's rate. It is arithmetic in memory under one lock: a
request asks neither the database nor Valkey, so that limits hold, and cost the same, when those are away. What other
web processes hand out is taken from the same bucket a moment later (``web/exchange.py``).
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

# Beyond so many, full buckets are forgotten, and then the oldest.
_MOST: Final = 20_000
_SHARE: Final = 16

Whose = UUID | str


@dataclass(frozen=True, slots=True)
class Policy:
    """So many requests a second in the long run, of which those of ``seconds`` may come at once."""

    name: str
    rate: float
    seconds: int

    @property
    def burst(self) -> int:
        """Return how many may come at once."""
        return max(1, int(self.rate * self.seconds))


@dataclass(frozen=True, slots=True)
class Level:
    """How many requests are left of a policy, and in how many seconds there is more; 0 where nothing is missing."""

    policy: Policy
    left: int
    more_in: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may go on, and what is left now."""

    is_free: bool
    levels: tuple[Level, ...]

    @property
    def violated(self) -> tuple[Level, ...]:
        """Return the levels of which nothing is left."""
        return tuple(level for level in self.levels if not level.left)


class _Bucket:
    __slots__ = ("at", "left", "seen", "taken")

    def __init__(self, left: float, at: float) -> None:
        self.left, self.at = left, at
        # Taken here since the others were told, and the sum over all that was heard last.
        self.taken = 0
        self.seen: int | None = None


class Rates:
    """A bucket for everybody, by policy; a policy without a rate is none."""

    def __init__(self, policies: Sequence[Policy], clock: Callable[[], float] = time.monotonic) -> None:
        self.policies = tuple(policy for policy in policies if policy.rate > 0)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[tuple[Policy, Whose], _Bucket] = {}

    def take(self, whose: Mapping[str, Whose]) -> Verdict:
        """Take one request from the bucket of every policy, by its name, or from none where one is empty."""
        return self._weigh(whose, 1)

    def look(self, whose: Mapping[str, Whose]) -> Verdict:
        """Say what would be answered, and take nothing."""
        return self._weigh(whose, 0)

    def _weigh(self, whose: Mapping[str, Whose], number: int) -> Verdict:
        now = self._clock()
        with self._lock:
            found = [(policy, self._bucket(policy, whose[policy.name], now)) for policy in self.policies]
            is_free = all(bucket.left >= 1 for _, bucket in found)
            if is_free:
                for _, bucket in found:
                    bucket.left -= number
                    bucket.taken += number
            return Verdict(is_free, tuple(_level(policy, bucket.left) for policy, bucket in found))

    def _bucket(self, policy: Policy, whose: Whose, now: float) -> _Bucket:
        bucket = self._buckets.get((policy, whose))
        if bucket is None:
            if len(self._buckets) >= _MOST:
                self._forget(now, untold=True)
                # Many at once: to look through all of them for each new one costs more than what they bound.
                while len(self._buckets) > _MOST - _MOST // _SHARE:
                    del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[policy, whose] = _Bucket(policy.burst, now)
        else:
            _fill(policy, bucket, now)
        return bucket

    def _forget(self, now: float, *, untold: bool = False) -> None:
        for (policy, whose), bucket in list(self._buckets.items()):
            _fill(policy, bucket, now)
            if bucket.left >= policy.burst and (untold or not bucket.taken):
                del self._buckets[policy, whose]

    def to_tell(self) -> list[tuple[Policy, Whose, int]]:
        """Return what was taken here since others were told last, of every bucket that is not full."""
        now = self._clock()
        with self._lock:
            self._forget(now)  # but not who asks so seldom that nothing is missing: others hear of that too
            return [(policy, whose, bucket.taken) for (policy, whose), bucket in self._buckets.items()]

    def hear(self, policy: Policy, whose: Whose, told: int, total: int) -> None:
        """Take out what others took: ``told`` of ours are in ``total``, the sum of all processes.

        A sum that went back is a new one: it was forgotten meanwhile.
        """
        with self._lock:
            bucket = self._buckets.get((policy, whose))
            if bucket is None:
                return
            before = 0 if bucket.seen is None or total < bucket.seen + told else bucket.seen
            others = 0 if bucket.seen is None else total - told - before
            # Beyond a whole burst nothing is owed: a sum that somebody else spoiled locks nobody out for long.
            bucket.left = max(bucket.left - others, float(-policy.burst))
            bucket.taken -= told
            bucket.seen = total


def _fill(policy: Policy, bucket: _Bucket, now: float) -> None:
    bucket.left = min(policy.burst, bucket.left + (now - bucket.at) * policy.rate)
    bucket.at = now


def _level(policy: Policy, left: float) -> Level:
    whole = max(0, math.floor(left))
    missing = 0.0 if whole >= policy.burst else (whole + 1 - left) / policy.rate
    return Level(policy, whole, math.ceil(missing))


def header_fields(levels: Sequence[Level]) -> dict[str, str]:
    """Return what an answer says of the limits (draft-ietf-httpapi-ratelimit-headers-10, no RFC yet).

    A policy's quota ``q`` in a window ``w`` is what may come at once and the seconds in which that is made good; ``r``
    is what is left, ``t`` the seconds until there is more.
    """
    if not levels:
        return {}
    policies = (f'"{level.policy.name}";q={level.policy.burst};w={level.policy.seconds}' for level in levels)
    left = (f'"{level.policy.name}";r={level.left};t={level.more_in}' for level in levels)
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(left)}
