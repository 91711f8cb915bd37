"""Answering late on purpose: ``Prefer: wait=N`` (RFC 7240), within the places there are for clients that wait."""

import time
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import UUID

from shared.views import ResultView
from web.auth import caller
from web.openapi import Header
from web.services import services

LONGEST_WAIT: Final = 60
PREFERENCE_APPLIED: Final = Header("Preference-Applied", "`wait=N` where the answer was waited for.")
# Seconds between looks: soon at first, for a photo that is answered at once, then with patience.
_FIRST_LOOK: Final = 0.02
_LATER_LOOKS: Final = 0.25
_PATIENCE: Final = 1.5

Seen = TypeVar("Seen")


def wait(seen: Seen, look: Callable[[], Seen], is_enough: Callable[[Seen], bool], seconds: int) -> tuple[Seen, bool]:
    """Look again until what is seen is enough; ``look`` must hold no connection when it returns.

    Returns what was seen last and whether anybody waited: where too many clients wait already, nobody does.
    """
    seats = services().waiting
    if is_enough(seen) or not seats.take():
        return seen, False
    try:
        end, pause = time.monotonic() + seconds, _FIRST_LOOK
        while not is_enough(seen) and (left := end - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(pause * _PATIENCE, _LATER_LOOKS)
            seen = look()
        return seen, True
    finally:
        seats.leave()


def answer(job_id: UUID, seconds: int, *, is_new: bool) -> ResultView | None:
    """Return the answer of a job of the caller's one photo if it comes within these seconds.

    Where too many clients wait already, nobody waits.
    """
    seats = services().waiting
    if not seats.take():
        return None
    try:
        return services().watch.wait(caller().tenant_id, job_id, seconds, is_new=is_new)
    finally:
        seats.leave()
