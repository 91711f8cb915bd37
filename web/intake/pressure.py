"""Whether another job may come in now, decided before its body is read.

- A tenant waits for what lies before its new job: what it queued in that lane itself, and what others get meanwhile.
  Its bulk job of 50,000 photos is before its next bulk job and before no single photo. Over its bound: 429.
- The whole service has a bound on what waits in the job's lane and in more urgent ones; bulk is turned away first: 503.
- While no worker says how fast it is, photos are bounded and not time. While nobody counts, nobody is turned away.
- Bodies take threads as long as they come in, so their number is bounded too (``web/places.py``).

The lane is told by the query or guessed by the size of the body, in favour of whoever sends it; a body that turns out
to be of a later lane is judged again when it was read.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from werkzeug import Request

from shared.accounts import Caller
from shared.ledger import backlog
from shared.ledger.backlog import Backlog
from shared.ledger.submit import default_lane
from shared.settings import Settings
from shared.vocabulary import LANES
from web.places import Place
from web.problems import SERVICE_FULL, TENANT_FULL, TOO_MANY_UPLOADS, Kind, Problem, retry_after
from web.services import Services

# As long as a transaction waits for a connection.
_PATIENCE_SECONDS: Final = 5.0
# What a phone makes of a photo; more only makes the guess milder.
_PHONE_BYTES: Final = 5_000_000
# Counted once a second, read once a second: whoever comes back when it was told must find them good.
_AGE_SECONDS: Final = 2.0
_JITTER: Final = 0.2
_WITHOUT_RATE_SECONDS: Final = 60.0


@contextmanager
def entrance(services: Services, caller: Caller) -> Iterator[Place]:
    """Hold a place while a body comes in; raises ``Problem`` (503) where none is free for some seconds."""
    place = services.uploads.enter(caller.tenant_id, _PATIENCE_SECONDS)
    if place is None:
        raise Problem(
            TOO_MANY_UPLOADS, "Too many bodies come in at once; try again in a moment.", headers=retry_after()
        )
    try:
        yield place
    finally:
        services.uploads.leave(place)


def likely_lane(request: Request, priority: str | None, max_photo_bytes: int) -> str:
    """Return the most urgent lane that a job of this size should be in, unless the query names one."""
    if priority is not None:
        return priority
    if request.content_length is None:
        return LANES[-1]
    if request.content_length <= max_photo_bytes:
        return LANES[0]
    return default_lane(max(2, request.content_length // _PHONE_BYTES))


def admit(services: Services, caller: Caller, lane: str) -> None:
    """Return if a job of this lane may come in now; raises ``Problem`` (429, 503) and ``DatabaseAway``."""
    found = services.gauge.read()
    if found is None:
        return
    chance = random.random()  # noqa: S311  # spreads load, guards nothing
    try:
        refuse(found, found.before(float("inf")), lane, services.settings, chance)
    except Problem:
        # Even all that waits may be before the tenant's next job; only now its place in the queue is worth a question.
        with services.database.transaction(caller.tenant_id) as session:
            tag = backlog.next_tag(session, caller.tenant_id, lane)
        refuse(found, found.before(tag), lane, services.settings, chance)


def admit_after_all(services: Services, caller: Caller, assumed: str, lane: str) -> None:
    """Judge a job again that is of a later lane than was assumed before its body was read; raises as ``admit``."""
    if LANES.index(lane) > LANES.index(assumed):
        admit(services, caller, lane)


def refuse(found: Backlog, before: float, lane: str, settings: Settings, chance: float) -> None:
    """Raise ``Problem`` where too much waits ``before`` the next job of a tenant in this lane, or in the whole.

    ``chance`` is uniform in [0, 1): Retry-After is what the wait has to shrink by, and up to a fifth more.
    """
    of_all = float(found.as_urgent_as(lane))
    if found.rate is None:
        if before > settings.tenant_backlog_photos:
            raise _problem(TENANT_FULL, lane, _WITHOUT_RATE_SECONDS, chance)
        if of_all > settings.backlog_photos:
            raise _problem(SERVICE_FULL, lane, _WITHOUT_RATE_SECONDS, chance)
        return
    if (excess := before / found.rate - settings.tenant_backlog_seconds) > 0:
        raise _problem(TENANT_FULL, lane, excess + _AGE_SECONDS, chance)
    if (excess := of_all / found.rate - settings.backlog_seconds) > 0:
        raise _problem(SERVICE_FULL, lane, excess + _AGE_SECONDS, chance)


def _problem(kind: Kind, lane: str, seconds: float, chance: float) -> Problem:
    after = math.ceil(seconds * (1 + _JITTER * chance))
    whose = "of yours before a new job" if kind is TENANT_FULL else "before a new job"
    detail = f"Too much waits {whose} of the priority {lane}. Try again in {after} seconds."
    return Problem(kind, detail, headers={"Retry-After": str(after)})
