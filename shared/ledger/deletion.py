"""Deleting a closed job: its rows go at once, its photos soon after, and its own row stays as the tombstone.

The row is also what finds the photos again after a crash: `purge_at` says when they are to be looked for in the
storage, and is empty when there is nothing left to look for (``worker/housekeeping.py``).
"""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events
from shared.errors import Conflict, Gone, NotFound

_HOLD = sa.text("SELECT state, closed_at, deleted_at FROM job WHERE tenant_id = :tenant AND id = :job FOR UPDATE")
# A question of its own: the row above is looked at anew after a wait, what hangs on it would not be.
_IS_UNTOLD = sa.text("SELECT EXISTS (SELECT FROM untold WHERE job_id = :job)")

# Children first, so that no foreign key has to look for them row by row. Events stay: the feed has no gaps, and they
# hold counts and ids alone; what a photo was called goes. A one-off endpoint hears of this job alone; it goes with what
# it was still owed, before other deliveries are locked, and those are in order of id, as for whoever sends them again.
_ROWS = (
    sa.text("DELETE FROM unit WHERE job_id = :job"),
    sa.text("DELETE FROM result WHERE job_id = :job"),
    sa.text("DELETE FROM image WHERE job_id = :job"),
    sa.text("DELETE FROM intake WHERE job_id = :job"),
    sa.text("DELETE FROM endpoint WHERE job_id = :job"),
    # Bodies that tell answers: whatever is sent again has counts and links alone. No index has all events of a job, but
    # two have those that may tell answers; without their conditions all events there are would be read.
    sa.text(f"""
        WITH telling AS MATERIALIZED (
          SELECT d.id FROM event e JOIN delivery d ON d.tenant_id = e.tenant_id AND d.event_seq = e.seq
          WHERE (e.job_id = :job AND e.kind IN ({", ".join(f"'{kind}'" for kind in events.ONCE)})
                 OR e.job_id = :job AND e.kind = 'image.completed')
            AND e.tenant_id = :tenant AND d.tenant_id = :tenant AND d.body IS NOT NULL
          ORDER BY d.id FOR UPDATE OF d)
        UPDATE delivery d SET body = NULL FROM telling WHERE d.id = telling.id
    """),  # noqa: S608  # made of constant names
    sa.text("""
        UPDATE event SET body = jsonb_set(body, '{custom_id}', 'null')
        WHERE job_id = :job AND kind = 'image.completed' AND body ->> 'custom_id' IS NOT NULL
    """),
)

_BURY = sa.text("""
    UPDATE job SET deleted_at = now(), purge_at = now(), details = '{}', receipt_digest = :receipt WHERE id = :job
""")


def hold_closed(session: Session, tenant_id: UUID, job_id: UUID, wish: str) -> None:
    """Lock a closed job for the rest of the transaction; ``wish`` is what for, in the words of the refusal.

    Raises ``NotFound`` where the tenant has no such job, ``Gone`` where it was deleted, and ``Conflict`` while it is
    open, or the sweep still tells of what ended it.
    """
    job = session.execute(_HOLD, {"tenant": tenant_id, "job": job_id}).one_or_none()
    if job is None:
        raise NotFound("there is no such job")
    if job.deleted_at is not None:
        raise Gone("the job was deleted")
    if job.closed_at is None:
        raise Conflict(f"the job is {job.state}: {wish}")
    if session.execute(_IS_UNTOLD, {"job": job_id}).scalar_one():
        raise Conflict(f"the job is {job.state}, but events of its photos are still being written; try again soon")


def delete(session: Session, tenant_id: UUID, job_id: UUID, receipt: str | None = None) -> None:
    """Delete what a closed job has; ``receipt`` is the digest of its last one, which cannot be built anew after this.

    Raises what ``hold_closed`` raises; a second time that is ``Gone``.
    """
    hold_closed(session, tenant_id, job_id, "cancel it first, then delete it")
    for statement in _ROWS:
        session.execute(statement, {"job": job_id, "tenant": tenant_id})
    session.execute(_BURY, {"job": job_id, "receipt": receipt})
