"""How many photos a second a worker really answers, measured while more wait for it.

The network's own pace says what it could do: fetching, decoding and committing are not in it. Answers are counted by
the unit, so a measurement needs many of them; one from an hour when nobody waited says nothing.
"""

from collections import deque
from typing import Final

_WINDOW_SECONDS: Final = 20.0
_ENOUGH_SECONDS: Final = 10.0
_ENOUGH_PHOTOS: Final = 128


class Pace:
    """A moving measurement over the last 20 seconds in which the worker had all the work it could do."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        #: Photos a second; None until it was measured once.
        self.rate: float | None = None

    def look(self, now: float, answered: int, *, is_full: bool) -> None:
        """Note how many photos were ``answered`` so far; ``is_full`` says that the worker works and more wait."""
        if not is_full:
            self._seen.clear()
            return
        self._seen.append((now, answered))
        while len(self._seen) > 1 and now - self._seen[1][0] >= _WINDOW_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        photos, seconds = answered - before, now - began
        if photos > 0 and (photos >= _ENOUGH_PHOTOS or seconds >= _ENOUGH_SECONDS):
            self.rate = photos / seconds
