"""Answering late on purpose: ``Prefer: wait=N`` (RFC 7240), within the places there are for clients that wait."""

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from web.openapi import Header
from web.services import Pace, services

LONGEST_WAIT: Final = 60
PREFERENCE_APPLIED: Final = Header("Preference-Applied", "`wait=N` where the answer was waited for.")
# Seconds between looks: soon at first, for a photo that is answered at once, then with patience.
_FIRST_LOOK: Final = 0.02
_LATER_LOOKS: Final = 0.25
_PATIENCE: Final = 1.5

Seen = TypeVar("Seen")


def wait(
    seen: Seen,
    look: Callable[[], Seen],
    is_enough: Callable[[Seen], bool],
    seconds: int,
    pace: Pace | None = None,
) -> tuple[Seen, bool]:
    """Look again until what is seen is enough; ``look`` must hold no connection when it returns.

    Returns what was seen last and whether anybody waited: where too many clients wait already, nobody does. With a
    ``pace`` the looks come when that is to be expected, and it learns.
    """
    seats = services().waiting
    if is_enough(seen) or not seats.take():
        return seen, False
    try:
        began, looks = time.monotonic(), 0
        pauses = pace.pauses() if pace else _pauses()
        while not is_enough(seen) and (left := began + seconds - time.monotonic()) > 0:
            time.sleep(min(next(pauses), left))
            seen, looks = look(), looks + 1
        if pace and is_enough(seen):
            pace.learn(time.monotonic() - began, looks)
        return seen, True
    finally:
        seats.leave()


def _pauses() -> Iterator[float]:
    pause = _FIRST_LOOK
    while True:
        yield pause
        pause = min(pause * _PATIENCE, _LATER_LOOKS)
