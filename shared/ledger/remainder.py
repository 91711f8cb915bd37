"""What a job still owed when the taking in of it ended early: by cancel, deadline, failures or a third crash.

Photos of an archive that was not expanded to its end are not known one by one, so they are accounted for together: by
one more image, which names the archive, its size and its fingerprint. Photos of a list are known, and each gets its
own answer. Images without bytes have the fingerprint of nothing.
"""

import hashlib
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.database import new_id
from shared.vocabulary import OUTCOMES

_HOLD = sa.text("""
    SELECT i.*, u.fence, u.attempt FROM intake i JOIN unit u ON u.job_id = i.job_id AND u.kind = 'intake'
    WHERE i.job_id = :job AND i.ended_at IS NULL FOR UPDATE OF i
""")
_ENDED = sa.text("UPDATE intake SET ended_at = now() WHERE job_id = :job")
_ARCHIVE = sa.text("""
    INSERT INTO image (id, tenant_id, job_id, ordinal, client_name, storage_key, sha256, bytes)
    SELECT :id, :tenant, :job, coalesce(max(ordinal) + 1, 0), :name, :key, :sha256, :bytes
    FROM image WHERE job_id = :job
    RETURNING id, ordinal
""")
_ADDRESSES = sa.text("SELECT ordinal FROM intake_url WHERE job_id = :job ORDER BY ordinal")
_LISTED = sa.text("""
    INSERT INTO image (id, tenant_id, job_id, ordinal, client_name, custom_id, storage_key, sha256, bytes)
    SELECT x.id, l.tenant_id, l.job_id, l.ordinal, l.client_name, l.custom_id, x.key, :sha256, 0
    FROM unnest(CAST(:ids AS uuid[]), CAST(:ordinals AS int[]), CAST(:keys AS text[])) AS x(id, ordinal, key)
    JOIN intake_url l ON l.job_id = :job AND l.ordinal = x.ordinal
    RETURNING id, ordinal
""")
_FORGET = sa.text("DELETE FROM intake_url WHERE job_id = :job")
_RESULTS = sa.text("""
    INSERT INTO result (image_id, tenant_id, job_id, ordinal, fence, outcome, reasons, attempts, has_copy)
    SELECT x.image, :tenant, :job, x.ordinal, :fence, :outcome, CAST(:reasons AS text[]), :attempt, false
    FROM unnest(CAST(:images AS uuid[]), CAST(:ordinals AS int[])) AS x(image, ordinal)
""")
_COUNTS = {
    outcome: sa.text(f"""
        UPDATE job SET total = total + :new, remaining = remaining + :new - :written, {outcome} = {outcome} + :written,
          state = CASE WHEN started_at IS NULL THEN 'queued' ELSE 'running' END
        WHERE id = :job AND state = 'receiving'
    """)  # noqa: S608  # made of constant names
    for outcome in OUTCOMES
}


def account(session: Session, job_id: UUID, outcome: str, reason: str | None = None) -> None:
    """Answer what a job has not taken in with ``outcome``, and let it leave ``receiving``; nothing for other jobs.

    The caller holds the job's intake unit, which has ended, and closes the job where nothing else remains.
    """
    intake = session.execute(_HOLD, {"job": job_id}).one_or_none()
    if intake is None:
        return
    session.execute(_ENDED, {"job": job_id})
    if intake.kind == "archive":
        images = _rest_of_archive(session, intake)
    else:
        images = _rest_of_list(session, job_id)
        session.execute(_FORGET, {"job": job_id})
    session.execute(
        _RESULTS,
        {
            "tenant": intake.tenant_id,
            "job": job_id,
            "fence": intake.fence,
            "outcome": outcome,
            "reasons": [reason] if reason else [],
            "attempt": intake.attempt,
            "images": [str(image) for image, _ in images],
            "ordinals": [ordinal for _, ordinal in images],
        },
    )
    new = len(images) if intake.kind == "archive" else 0
    session.execute(_COUNTS[outcome], {"job": job_id, "new": new, "written": len(images)})


def _rest_of_archive(session: Session, intake: sa.Row[Any]) -> list[tuple[UUID, int]]:
    found = session.execute(
        _ARCHIVE,
        {
            "id": new_id(),
            "tenant": intake.tenant_id,
            "job": intake.job_id,
            "name": intake.name or "archive",
            # Where nothing lies: the archive itself is no photo that could be tried again.
            "key": f"incoming/{intake.job_id.hex}/rest",
            "sha256": intake.sha256,
            "bytes": intake.bytes,
        },
    )
    return [(row.id, row.ordinal) for row in found]


def _rest_of_list(session: Session, job_id: UUID) -> list[tuple[UUID, int]]:
    ordinals = list(session.execute(_ADDRESSES, {"job": job_id}).scalars())
    found = session.execute(
        _LISTED,
        {
            "job": job_id,
            "ids": [str(new_id()) for _ in ordinals],
            "ordinals": ordinals,
            "keys": [f"incoming/{job_id.hex}/{ordinal:05d}" for ordinal in ordinals],
            "sha256": hashlib.sha256(b"").digest(),
        },
    )
    return [(row.id, row.ordinal) for row in found]
