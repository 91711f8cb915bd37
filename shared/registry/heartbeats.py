"""What became of each round of photos with known answers, and who hears of it when one is not good.

A round is a job of a tenant of the system's own, which has no key: nobody sees it, and no history counts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events
from shared.logs import logger

log = logger(__name__)

DRIFT: Final = "model.drift"
#: The tenant of the system; the migration that lets workers submit for it names it too.
SYSTEM: Final = UUID("00000000-0000-7000-8000-706f78766973")

_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(hashtext('poxvisio heartbeat'))")
_DUE = sa.text("""
    SELECT NOT EXISTS (SELECT FROM heartbeat
      WHERE ended_at IS NULL OR sent_at > now() - make_interval(secs => :seconds))
""")
_ADD = sa.text("INSERT INTO heartbeat (id, model_id, digest, photos) VALUES (:id, :model, :digest, :photos)")
_OPEN = sa.text("""
    SELECT h.id, h.model_id, h.digest, h.state, j.closed_at IS NOT NULL OR j.id IS NULL AS closed,
      extract(epoch FROM j.closed_at - h.sent_at) AS seconds, extract(epoch FROM now() - h.sent_at) AS age
    FROM heartbeat h LEFT JOIN job j ON j.id = h.id WHERE h.ended_at IS NULL ORDER BY h.id
""")
_SETTLE = sa.text("""
    UPDATE heartbeat SET state = :state, difference = :difference, seconds = :seconds, problem = :problem,
      done_at = now()
    WHERE id = :id AND state = 'waiting' RETURNING photos, sent_at
""")
_BEFORE = sa.text("""
    SELECT state FROM heartbeat WHERE digest = :digest AND state <> 'waiting' AND id <> :id ORDER BY id DESC LIMIT 1
""")
_END = sa.text("UPDATE heartbeat SET ended_at = now() WHERE id = :id AND ended_at IS NULL RETURNING id")
_FORGET_JOB = sa.text("SELECT forget_system_job(:id)")
_FORGET_OLD = sa.text("DELETE FROM heartbeat WHERE sent_at < now() - interval '30 days' AND ended_at IS NOT NULL")


@dataclass(frozen=True, slots=True)
class Round:
    """A round that has not ended: the job's id, the model that must answer, its age in seconds.

    ``seconds`` is how long the answers took, None while the job is open.
    """

    id: UUID
    model_id: str
    digest: str
    state: str
    closed: bool
    seconds: float | None
    age: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What was made of a round: ``good``, or how it was not, with the largest difference of a probability."""

    state: str
    difference: float | None = None
    seconds: float | None = None
    problem: str | None = None


def is_due(session: Session, seconds: float) -> bool:
    """Return whether a round is due; then no other process sends one before this transaction ends."""
    if not session.scalar(_LOCK):
        return False
    return bool(session.scalar(_DUE, {"seconds": seconds}))


def make_tenant(session: Session) -> None:
    """See to it that the system has its tenant."""
    session.execute(sa.text("SELECT make_system_tenant()"))


def add(session: Session, job_id: UUID, model_id: str, digest: str, photos: int) -> None:
    """Write a round that is on its way."""
    session.execute(_ADD, {"id": job_id, "model": model_id, "digest": digest, "photos": photos})


def under_way(session: Session) -> list[Round]:
    """Return the rounds that have not ended, oldest first."""
    return [
        Round(
            row.id,
            row.model_id,
            row.digest,
            row.state,
            row.closed,
            None if row.seconds is None else float(row.seconds),
            float(row.age),
        )
        for row in session.execute(_OPEN)
    ]


def settle(session: Session, beat: Round, found: Finding) -> bool:
    """Write what was made of a round, once; tell whoever has a say in what serves unless the last one said the same.

    False where another process had settled it.
    """
    given = {"state": found.state, "difference": found.difference, "seconds": found.seconds, "problem": found.problem}
    settled = session.execute(_SETTLE, {"id": beat.id, **given}).one_or_none()
    if settled is None:
        return False
    say = log.info if found.state == "good" else log.error
    say("heartbeat", model=beat.model_id, digest=beat.digest, **given)
    if found.state != "good":
        before = session.scalar(_BEFORE, {"digest": beat.digest, "id": beat.id})
        if before != found.state:
            _tell(session, beat, found, settled.photos)
    return True


def end(session: Session, beat: Round) -> None:
    """Forget the job of a closed round, and rounds of more than thirty days."""
    if session.execute(_END, {"id": beat.id}).one_or_none() is not None:
        session.execute(_FORGET_JOB, {"id": beat.id})
        session.execute(_FORGET_OLD)


def _tell(session: Session, beat: Round, found: Finding, photos: int) -> None:
    body: dict[str, Any] = {
        "model": {"id": beat.model_id, "digest": beat.digest},
        "why": found.state,
        "problem": found.problem,
        "difference": found.difference,
        "photos": photos,
    }
    tenants: Sequence[UUID] = session.execute(sa.text("SELECT lookup_model_tenants()")).scalars().all()
    events.record(session, [events.NewEvent(tenant, DRIFT, None, 0, body) for tenant in tenants])
