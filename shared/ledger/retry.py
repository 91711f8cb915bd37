"""Trying the failed photos of a closed job again: a new round, which closes with an event and a receipt of its own.

What the round before said of them moves to `result_history`; every other photo keeps its answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.errors import Conflict
from shared.ledger import fairness
from shared.ledger.deletion import hold_closed
from shared.ledger.submit import queue

WHEN = "its failed photos can be tried again when it has closed"


@dataclass(frozen=True, slots=True)
class FailedPhoto:
    """A photo that has no answer, and where its original was kept for another try."""

    ordinal: int
    storage_key: str


_FAILED = sa.text("""
    SELECT i.ordinal, i.storage_key FROM result r JOIN image i ON i.id = r.image_id
    WHERE r.job_id = :job AND i.job_id = :job AND r.outcome = 'failed' ORDER BY i.ordinal
""")

_REPLACE = sa.text("""
    WITH replaced AS (
      DELETE FROM result WHERE job_id = :job AND outcome = 'failed' AND ordinal = ANY (CAST(:ordinals AS int[]))
      RETURNING *)
    INSERT INTO result_history (image_id, round, tenant_id, job_id, ordinal, fence, outcome, reasons, attempts,
                                finished_at)
    SELECT r.image_id, j.round, r.tenant_id, r.job_id, r.ordinal, r.fence, r.outcome, r.reasons, r.attempts,
           r.finished_at
    FROM replaced r JOIN job j ON j.id = r.job_id
    RETURNING ordinal
""")

# A limit that has ended the round before must not end this one before it has begun.
_REOPEN = sa.text("""
    UPDATE job SET
      remaining = remaining + :photos, failed = failed - :photos, round = round + 1, state = 'queued',
      closed_at = NULL, originals_deleted_at = NULL, receipt_digest = :receipt,
      deadline = CASE WHEN deadline > now() THEN deadline END,
      max_failure_rate = CASE WHEN state <> 'stopped' THEN max_failure_rate END
    WHERE id = :job
    RETURNING lane
""")


def failed_photos(session: Session, job_id: UUID) -> list[FailedPhoto]:
    """Return the job's failed photos by ordinal."""
    return [FailedPhoto(row.ordinal, row.storage_key) for row in session.execute(_FAILED, {"job": job_id})]


def retry(
    session: Session,
    tenant_id: UUID,
    job_id: UUID,
    ordinals: Sequence[int],
    *,
    receipt: str | None = None,
    weight: float = 1.0,
) -> str:
    """Open a new round of a closed job for these of its failed photos, and return its lane.

    ``receipt`` is the digest of the receipt that the job has now: the next one names it. Each photo becomes a unit of
    its own, since what made it fail is unknown. Raises what ``hold_closed`` raises, and ``Conflict`` where none of
    these photos failed.
    """
    hold_closed(session, tenant_id, job_id, WHEN)
    moved = sorted(session.execute(_REPLACE, {"job": job_id, "ordinals": list(ordinals)}).scalars())
    if not moved:
        raise Conflict("the job has no failed photos; there is nothing to try again")
    lane = str(session.execute(_REOPEN, {"job": job_id, "photos": len(moved), "receipt": receipt}).scalar_one())
    queue(
        session,
        tenant_id,
        job_id,
        lane,
        lambda last_vft, now_vft: fairness.singles(
            moved, lane=lane, last_vft=last_vft, now_vft=now_vft, tenant_weight=weight
        ),
    )
    return lane
