"""How long what failed waits before it is tried again."""

from typing import Final

_LONGEST_SECONDS: Final = 300.0
_ENOUGH: Final = 9  # 2 to that power is longer than the longest


def backoff_seconds(attempt: int, chance: float) -> float:
    """Return how long to wait after the attempt of this number: 2 s doubling up to 5 minutes, with 20 % jitter.

    ``attempt`` counts from 1, ``chance`` is uniform in [0, 1).
    """
    return min(_LONGEST_SECONDS, float(2 ** min(attempt, _ENOUGH))) * (0.8 + 0.4 * chance)
