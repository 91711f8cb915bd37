"""What a shadow said of photos beside the answers that stand, and how often the two agree.

A shadow's word is compared with the answer of the live model on the same pixels, one row a photo. Sums are over every
tenant's photos and name none; a photo itself is shown to its own tenant alone.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.tables import ShadowResult

#: Below that many photos no rate is given: an interval that holds everything says nothing.
FEWEST: Final = 20
#: The normal quantile of a two-sided 95 % interval.
_Z: Final = 1.959963984540054

# As whoever deletes a job does: the photos of one are locked in two orders otherwise, and both would wait.
_HOLD_JOBS = sa.text("SELECT FROM job WHERE id = ANY (CAST(:jobs AS uuid[])) ORDER BY id FOR KEY SHARE")
_WRITE = sa.text("""
    INSERT INTO shadow_result (image_id, tenant_id, job_id, digest, outcome, label, p, live_digest, live_outcome,
                               live_label, live_p, moved)
    VALUES (:image_id, :tenant_id, :job_id, :digest, :outcome, :label, :p, :live_digest, :live_outcome,
            :live_label, :live_p, :moved)
    ON CONFLICT (image_id) DO NOTHING
""")
_SUMS = sa.text("SELECT * FROM lookup_shadow(:digest)")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a shadow said of one photo, and what stands: label, outcome, and the label's calibrated probability.

    ``moved`` is the largest difference of a probability, None where the two models have other labels.
    """

    image_id: UUID
    tenant_id: UUID
    job_id: UUID
    digest: str
    outcome: str
    label: str
    p: float
    live_digest: str
    live_outcome: str
    live_label: str
    live_p: float
    moved: float | None


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of ``n`` photos got the same label, with Wilson's 95 % interval; None below ``FEWEST`` photos."""

    name: str
    n: int
    agreeing: int
    same_outcome: int
    rate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """A shadow against what stands: in all, by the standing label, by the confidence in it, and from label to label."""

    total: Rate
    by_label: tuple[Rate, ...]
    by_confidence: tuple[Rate, ...]
    moves: tuple[tuple[str, str, int], ...]
    largest_difference: float | None
    mean_difference: float | None


@dataclass(frozen=True, slots=True)
class _Sum:
    live_label: str
    label: str
    band: int
    same_outcome: bool
    n: int
    largest: float | None
    total: float | None


def write(session: Session, rows: Sequence[Seen]) -> int:
    """Write what a shadow said; a photo that has a row keeps it. Returns how many were written."""
    session.execute(_HOLD_JOBS, {"jobs": list({str(row.job_id) for row in rows})})
    return sum(
        session.execute(_WRITE, {name: getattr(row, name) for name in Seen.__slots__}).rowcount  # type: ignore[attr-defined]  # a cursor's
        for row in rows
    )


def report(session: Session, digest: str) -> Report:
    """Sum up what this shadow said of every tenant's photos."""
    sums = [_Sum(*row) for row in session.execute(_SUMS, {"digest": digest})]
    moves: dict[tuple[str, str], int] = {}
    for one in sums:
        moves[one.live_label, one.label] = moves.get((one.live_label, one.label), 0) + one.n
    compared = [one for one in sums if one.total is not None]
    photos = sum(one.n for one in compared)
    return Report(
        total=_rate("all", sums),
        by_label=_split(sums, lambda one: one.live_label),
        by_confidence=_split(sums, lambda one: f"{one.band / 10:.1f} to {(one.band + 1) / 10:.1f}"),
        moves=tuple((was, says, n) for (was, says), n in sorted(moves.items())),
        largest_difference=max((one.largest for one in compared if one.largest is not None), default=None),
        mean_difference=sum(one.total for one in compared if one.total is not None) / photos if photos else None,
    )


def disagreements(session: Session, digest: str, limit: int) -> list[ShadowResult]:
    """Return photos of the session's tenant that the shadow calls otherwise, those it is surest of first."""
    asked = sa.select(ShadowResult).where(ShadowResult.digest == digest, ShadowResult.label != ShadowResult.live_label)
    return list(session.scalars(asked.order_by(ShadowResult.p.desc(), ShadowResult.image_id).limit(limit)))


def wilson(agreeing: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a rate (Wilson 1927); ``n`` at least 1."""
    share, squared = agreeing / n, _Z * _Z / n
    middle = (share + squared / 2) / (1 + squared)
    half = _Z / (1 + squared) * math.sqrt(share * (1 - share) / n + squared / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _split(sums: Sequence[_Sum], of: Callable[[_Sum], str]) -> tuple[Rate, ...]:
    return tuple(_rate(name, [one for one in sums if of(one) == name]) for name in sorted({of(one) for one in sums}))


def _rate(name: str, sums: Iterable[_Sum]) -> Rate:
    rows = list(sums)
    n = sum(one.n for one in rows)
    agreeing = sum(one.n for one in rows if one.label == one.live_label)
    same_outcome = sum(one.n for one in rows if one.same_outcome)
    if n < FEWEST:
        return Rate(name, n, agreeing, same_outcome, None, None, None)
    low, high = wilson(agreeing, n)
    return Rate(name, n, agreeing, same_outcome, agreeing / n, low, high)
