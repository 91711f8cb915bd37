"""Answering late on purpose: ``Prefer: wait=N`` (RFC 7240), within the places there are for clients that wait."""

import math
import random
from typing import Final, TypeVar
from uuid import UUID

from shared.accounts import KeyUnknown
from shared.views import ResultView
from web.auth import caller
from web.news import AnswerOf
from web.operations import Header
from web.services import services
from web.watch import Watch, Wish

LONGEST_WAIT: Final = 60
PREFERENCE_APPLIED: Final = Header(
    "Preference-Applied",
    "What was done of `Prefer`: `wait=N` where the answer was waited for, `respond-async` in a 202.",
)
# Who finds no place and comes back asks no more often than if it had waited, but does not rest for ever.
_LONGEST_REST: Final = 30

Seen = TypeVar("Seen")


def wait(watch: Watch[Wish, Seen], wish: Wish, seconds: int, headers: dict[str, str]) -> Seen | None:
    """Return what comes of the wish within these seconds, and add to the headers what tells of that.

    Where too many clients wait already, nobody waits, and the headers tell when to come back.
    """
    places, tenant = services().waiting, caller().tenant_id
    place = places.enter(tenant, 0)
    if place is None:
        rest = min(seconds, _LONGEST_REST) * random.uniform(0.5, 1)  # noqa: S311  # spreads load, guards nothing
        headers["Retry-After"] = str(max(1, math.ceil(rest)))
        return None
    headers["Preference-Applied"] = applied(seconds)
    try:
        return watch.wait(tenant, wish, seconds, is_new=False)
    finally:
        places.leave(place)


def answer(job_id: UUID, seconds: int, *, is_new: bool) -> tuple[ResultView | None, bool]:
    """Return the answer of a job of the caller's one photo if it comes within these seconds, and whether we waited.

    Where too many clients wait already, nobody waits. A caller whose key is revoked meanwhile hears of no answer; that
    its job was taken in is true all the same.
    """
    places, tenant = services().waiting, caller().tenant_id
    place = places.enter(tenant, 0)
    if place is None:
        return None, False
    services().hearing.begin()
    try:
        found = services().watch.wait(tenant, AnswerOf(job_id, caller().proof), seconds, is_new=is_new)
        return (None if found is None else found.answer), True
    finally:
        places.leave(place)


def refused_meanwhile() -> KeyUnknown:
    """Return the error of a request whose key was good when it came."""
    return KeyUnknown("the API key was revoked, or expired, meanwhile")


def applied(seconds: int) -> str:
    """Return how ``Preference-Applied`` tells of a wait."""
    return f"wait={seconds}"
