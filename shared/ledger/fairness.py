"""Fair sharing by virtual finish tags, as pure functions.

A unit's tag is the virtual time at which it would end if every tenant and lane had its share for itself (weighted fair
queueing; Demers, Keshav, Shenker 1989). Workers claim the smallest tags first, so a bulk job of 50,000 photos moves
only its own tags far into the future, and a single photo of anybody is in the next claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

WEIGHTS = {"interactive": 8.0, "normal": 4.0, "bulk": 1.0}
UNIT_IMAGES = 32

_SMALL_JOB = 100


@dataclass(frozen=True, slots=True)
class Slice:
    """A unit to be: images ``first .. first + n - 1`` and the tag they wait under."""

    first: int
    n: int
    vft: float


def default_lane(photos: int) -> str:
    """Return the lane of a job that names none: interactive for one photo, normal up to 100, bulk above."""
    if photos == 1:
        return "interactive"
    return "normal" if photos <= _SMALL_JOB else "bulk"


def slices(photos: int, *, lane: str, last_vft: float, now_vft: float, tenant_weight: float = 1.0) -> list[Slice]:
    """Cut a job into units and stamp each with its tag.

    ``last_vft`` is the last tag of this tenant in this lane, ``now_vft`` the virtual time (the first ready tag). A
    tenant that was idle starts from now: idling earns no credit.
    """
    base = max(last_vft, now_vft)
    share = WEIGHTS[lane] * tenant_weight
    return [
        Slice(first, n := min(UNIT_IMAGES, photos - first), base + (first + n) / share)
        for first in range(0, photos, UNIT_IMAGES)
    ]


def singles(
    ordinals: Sequence[int], *, lane: str, last_vft: float, now_vft: float, tenant_weight: float = 1.0
) -> list[Slice]:
    """Make a unit of each of these photos and stamp them as ``slices`` would."""
    base = max(last_vft, now_vft)
    share = WEIGHTS[lane] * tenant_weight
    return [Slice(ordinal, 1, base + place / share) for place, ordinal in enumerate(ordinals, 1)]


def runs(
    ordinals: Sequence[int], *, lane: str, last_vft: float, now_vft: float, tenant_weight: float = 1.0
) -> list[Slice]:
    """Cut photos with gaps between them into units of neighbours and stamp these as ``slices`` would.

    ``ordinals`` rise. A unit holds neighbours alone, since its images are those from its first on.
    """
    base = max(last_vft, now_vft)
    share = WEIGHTS[lane] * tenant_weight
    found: list[Slice] = []
    for place, ordinal in enumerate(ordinals, 1):
        tag = base + place / share
        last = found[-1] if found else None
        if last and last.n < UNIT_IMAGES and ordinal == last.first + last.n:
            found[-1] = Slice(last.first, last.n + 1, tag)
        else:
            found.append(Slice(ordinal, 1, tag))
    return found
