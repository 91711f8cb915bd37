"""Taking a job in piece by piece: from an archive that a worker expands, or a list of addresses that it fetches.

Such a job is accepted with one unit of kind ``intake``, which no worker claims for photos. Whoever holds it appends
images, their units and the answers of what was refused, in small transactions under the unit's fence: so photos are
answered while others are still to come, a killed expander's successor goes on behind the last image there is, and one
that slept past its lease writes nothing. The job stays ``receiving``, and open, until the last photo has come
(``remainder.py`` says what happens where it never does).

Locks are taken in the order of the ledger: the unit, the tenant's flow, the job, the tenant's event counter.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.ledger import closing, remainder
from shared.ledger.receiving import Archive, queue_photos
from shared.ledger.submit import NewImage


@dataclass(frozen=True, slots=True)
class Intake:
    """The unit of a job that is being received, on lease. ``archive`` is None where addresses are fetched."""

    id: UUID
    tenant_id: UUID
    job_id: UUID
    lane: str
    fence: int
    attempt: int
    crashes: int
    weight: float
    archive: Archive | None
    total: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one entry: an image to answer, or one that has its answer with the reason why it was refused."""

    image: NewImage
    duplicate_of: UUID | None = None
    outcome: str | None = None
    reason: str | None = None


_CLAIM = """
    WITH c AS MATERIALIZED (
      SELECT u.id FROM unit u JOIN intake i ON i.job_id = u.job_id
      WHERE u.state = 'ready' AND u.kind = 'intake' AND i.kind = ANY (:kinds) AND u.crashes {suspicion}
      ORDER BY u.vft, u.id LIMIT 1 FOR UPDATE OF u SKIP LOCKED)
    UPDATE unit u SET state = 'leased', attempt = attempt + 1, fence = nextval('fence_seq'),
      leased_by = :worker, lease_until = now() + make_interval(secs => :lease)
    FROM c, intake i, job j WHERE u.id = c.id AND i.job_id = u.job_id AND j.id = u.job_id
    RETURNING u.id, u.tenant_id, u.job_id, u.lane, u.fence, u.attempt, u.crashes, i.weight, i.kind, i.name,
      i.storage_key, i.sha256, i.bytes, j.total
"""
_CLAIMS = {is_suspect: sa.text(_CLAIM.format(suspicion="> 0" if is_suspect else "= 0")) for is_suspect in (False, True)}
_HOLD = sa.text("SELECT attempt FROM unit WHERE id = :unit AND fence = :fence AND state = 'leased' FOR UPDATE")
_IMAGES = sa.text("""
    INSERT INTO image (id, tenant_id, job_id, ordinal, client_name, custom_id, storage_key, sha256, bytes, duplicate_of)
    SELECT x.id, :tenant, :job, x.ordinal, x.client_name, x.custom_id, x.storage_key, decode(x.sha256, 'hex'), x.bytes,
           x.duplicate_of
    FROM unnest(CAST(:ids AS uuid[]), CAST(:ordinals AS int[]), CAST(:names AS text[]), CAST(:custom_ids AS text[]),
                CAST(:keys AS text[]), CAST(:digests AS text[]), CAST(:sizes AS bigint[]), CAST(:duplicates AS uuid[]))
      AS x(id, ordinal, client_name, custom_id, storage_key, sha256, bytes, duplicate_of)
    ON CONFLICT (job_id, ordinal) DO NOTHING
    RETURNING ordinal
""")
_RESULTS = sa.text("""
    INSERT INTO result (image_id, tenant_id, job_id, ordinal, fence, outcome, reasons, attempts, has_copy)
    SELECT x.image, :tenant, :job, x.ordinal, :fence, x.outcome, ARRAY[x.reason], :attempt, false
    FROM unnest(CAST(:images AS uuid[]), CAST(:ordinals AS int[]), CAST(:outcomes AS text[]), CAST(:reasons AS text[]))
      AS x(image, ordinal, outcome, reason)
""")
# The total of a list is known from the start, that of an archive grows.
_COUNT = sa.text("""
    UPDATE job SET
      total = total + :new, remaining = remaining + :new - :refused,
      rejected = rejected + :rejected, failed = failed + :failed,
      state = CASE WHEN NOT :done THEN state WHEN started_at IS NULL THEN 'queued' ELSE 'running' END
    WHERE id = :job AND state = 'receiving'
    RETURNING id
""")
# Whoever gets on is no suspect any more, and has all its attempts again.
_ADVANCE = sa.text("""
    UPDATE unit SET crashes = 0, attempt = 1, state = CASE WHEN :done THEN 'done' ELSE state END,
      leased_by = CASE WHEN :done THEN NULL ELSE leased_by END,
      lease_until = CASE WHEN :done THEN NULL ELSE lease_until END
    WHERE id = :unit
""")
_FETCHED = sa.text("DELETE FROM intake_url WHERE job_id = :job AND ordinal = ANY (CAST(:ordinals AS int[]))")
_ENDED = sa.text("UPDATE intake SET ended_at = now() WHERE job_id = :job AND ended_at IS NULL")
_DIGESTS = sa.text("SELECT sha256, id FROM image WHERE job_id = :job AND bytes > 0 ORDER BY ordinal DESC")
# Its next turn comes behind what its tenant has queued meanwhile.
_PASS_ON = sa.text("""
    UPDATE unit u SET state = 'ready', attempt = attempt - 1, leased_by = NULL, lease_until = NULL,
      vft = greatest(u.vft, (SELECT last_vft FROM flow f WHERE f.tenant_id = u.tenant_id AND f.lane = u.lane)) + 1
    WHERE u.id = :unit AND u.fence = :fence AND u.state = 'leased'
    RETURNING u.id
""")
_END = sa.text("""
    UPDATE unit SET state = 'dead', leased_by = NULL, lease_until = NULL
    WHERE id = :unit AND fence = :fence AND state = 'leased'
    RETURNING id
""")
_POSTPONE = sa.text("""
    UPDATE unit SET state = 'waiting', leased_by = NULL, lease_until = NULL,
      available_at = now() + make_interval(secs => :delay)
    WHERE id = :unit AND fence = :fence AND state = 'leased'
    RETURNING id
""")


def claim(
    session: Session, worker: str, *, lease_seconds: float, kinds: Sequence[str], suspect: bool = False
) -> Intake | None:
    """Take the first ready intake of these kinds (``archive``, ``urls``) for ``worker``; None where there is none.

    A ``suspect`` was under a worker that died and has not got on since: it is to run where it can take nothing with it.
    """
    asked = {"worker": worker, "lease": lease_seconds, "kinds": list(kinds)}
    row = session.execute(_CLAIMS[suspect], asked).one_or_none()
    if row is None:
        return None
    is_archive = row.kind == "archive"
    return Intake(
        id=row.id,
        tenant_id=row.tenant_id,
        job_id=row.job_id,
        lane=row.lane,
        fence=row.fence,
        attempt=row.attempt,
        crashes=row.crashes,
        weight=row.weight,
        archive=Archive(row.name, row.storage_key, bytes(row.sha256), row.bytes) if is_archive else None,
        total=row.total,
    )


def known_digests(session: Session, job_id: UUID) -> dict[bytes, UUID]:
    """Return, for the bytes of each photo that the job has, the first image with them."""
    return {bytes(row.sha256): row.id for row in session.execute(_DIGESTS, {"job": job_id})}


def append(session: Session, intake: Intake, taken: Sequence[Taken], *, done: bool) -> bool:
    """Add entries to the job, by rising ordinals, with units for those to answer; False where the fence was lost.

    What the job has at a place already stays. ``done`` says that nothing is to come any more: the job leaves
    ``receiving``, and closes where every photo has its answer.
    """
    if done and not taken:
        raise ValueError("the last entry is appended together with the end")
    held = session.execute(_HOLD, {"unit": intake.id, "fence": intake.fence}).one_or_none()
    if held is None:
        return False
    new = _insert_images(session, intake, taken)
    refused = [item for item in new if item.outcome is not None]
    _insert_results(session, intake, refused, held.attempt)
    to_answer = [item.image.ordinal for item in new if item.outcome is None]
    if to_answer:
        queue_photos(session, intake.tenant_id, intake.job_id, intake.lane, to_answer, weight=intake.weight)
    session.execute(_ADVANCE, {"unit": intake.id, "done": done})
    if intake.archive is None:
        session.execute(_FETCHED, {"job": intake.job_id, "ordinals": [item.image.ordinal for item in taken]})
    if done:
        session.execute(_ENDED, {"job": intake.job_id})
    outcomes = Counter(item.outcome for item in refused)
    counted = session.execute(
        _COUNT,
        {
            "job": intake.job_id,
            "new": len(new) if intake.archive else 0,
            "refused": len(refused),
            "rejected": outcomes["rejected"],
            "failed": outcomes["failed"],
            "done": done,
        },
    )
    counted.one()
    # What was refused is counted above; here whoever asked hears of it, and the job closes where nothing remains.
    if done or refused:
        closing.count(session, {}, ended=[intake.job_id])
    return True


def pass_on(session: Session, intake: Intake) -> bool:
    """Give an intake back that had its turn, behind the others; False where the fence was lost."""
    return session.execute(_PASS_ON, {"unit": intake.id, "fence": intake.fence}).first() is not None


def give_up(session: Session, intake: Intake, reason: str) -> bool:
    """End an intake that cannot go on: what is left is answered ``failed``. False where the fence was lost."""
    if session.execute(_END, {"unit": intake.id, "fence": intake.fence}).first() is None:
        return False
    remainder.account(session, intake.job_id, "failed", reason)
    closing.count(session, {}, ended=[intake.job_id])
    return True


def postpone(session: Session, intake: Intake, delay_seconds: float) -> bool:
    """Let an intake wait that cannot go on now; no crash. False where the fence was lost."""
    given = {"unit": intake.id, "fence": intake.fence, "delay": delay_seconds}
    return session.execute(_POSTPONE, given).first() is not None


def _insert_images(session: Session, intake: Intake, taken: Sequence[Taken]) -> list[Taken]:
    """Insert the images and return those that were new."""
    images = [item.image for item in taken]
    found = session.execute(
        _IMAGES,
        {
            "tenant": intake.tenant_id,
            "job": intake.job_id,
            "ids": [str(image.id) for image in images],
            "ordinals": [image.ordinal for image in images],
            "names": [image.client_name for image in images],
            "custom_ids": [image.custom_id for image in images],
            "keys": [image.storage_key for image in images],
            "digests": [image.sha256.hex() for image in images],
            "sizes": [image.bytes for image in images],
            "duplicates": [str(item.duplicate_of) if item.duplicate_of else None for item in taken],
        },
    )
    new = set(found.scalars())
    return [item for item in taken if item.image.ordinal in new]


def _insert_results(session: Session, intake: Intake, refused: Sequence[Taken], attempt: int) -> None:
    if not refused:
        return
    session.execute(
        _RESULTS,
        {
            "tenant": intake.tenant_id,
            "job": intake.job_id,
            "fence": intake.fence,
            "attempt": attempt,
            "images": [str(item.image.id) for item in refused],
            "ordinals": [item.image.ordinal for item in refused],
            "outcomes": [item.outcome for item in refused],
            "reasons": [item.reason for item in refused],
        },
    )
