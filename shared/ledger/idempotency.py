"""A POST that may be sent again: one key, one effect (draft-ietf-httpapi-idempotency-key-header-07).

A key is first put in flight under a lease, in a transaction of its own, before the body is read, and the lease is
renewed while the body comes in. A second request with the same key is told to wait while the lease lives; a dead one
can be taken over. The answer is stored in the very transaction that has the effect.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.errors import Conflict
from shared.tables import IdempotencyKey

KEPT = timedelta(hours=24)


class InFlight(Conflict):
    """A request with this key is still running."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("a request with this Idempotency-Key is still running")
        self.retry_after = retry_after


class TakenOver(Conflict):
    """The request outlived its lease, and another with the same key took its place."""


@dataclass(frozen=True, slots=True)
class Started:
    """The key is ours until the lease ends; the fence says so."""

    fence: int


@dataclass(frozen=True, slots=True)
class Replay:
    """The key was answered before, with this answer to a request of this fingerprint."""

    fingerprint: bytes
    status: int
    body: dict[str, Any]
    location: str | None


_BEGIN = sa.text("""
    INSERT INTO idempotency_key AS k (tenant_id, key, fence, lease_until, expires_at)
    VALUES (:tenant, :key, nextval('fence_seq'), now() + make_interval(secs => :lease), now() + :kept)
    ON CONFLICT (tenant_id, key) DO UPDATE
      SET fence = excluded.fence, lease_until = excluded.lease_until, expires_at = excluded.expires_at,
          fingerprint = NULL, status = NULL, body = NULL, location = NULL
      WHERE (k.status IS NULL AND k.lease_until < now()) OR k.expires_at < now()
    RETURNING k.fence
""")


def begin(session: Session, tenant_id: UUID, key: str, lease_seconds: float) -> Started | Replay:
    """Put the key in flight, or return the answer it has already; raises ``InFlight`` while another request runs."""
    fence = session.scalar(_BEGIN, {"tenant": tenant_id, "key": key, "lease": lease_seconds, "kept": KEPT})
    if fence is not None:
        return Started(int(fence))
    row = session.execute(
        sa.select(
            IdempotencyKey,
            sa.func.ceil(sa.extract("epoch", IdempotencyKey.lease_until - sa.func.now())).label("seconds"),
        ).where(IdempotencyKey.tenant_id == tenant_id, IdempotencyKey.key == key)
    ).one_or_none()
    if row is None:
        raise InFlight(1)
    known = row[0]
    if known.status is None:
        raise InFlight(max(1, int(row.seconds)))
    return Replay(known.fingerprint, known.status, known.body, known.location)


def renew(session: Session, tenant_id: UUID, key: str, fence: int, lease_seconds: float) -> None:
    """Prolong the lease of a request that is still being read; does nothing where the fence was lost."""
    session.execute(
        sa.update(IdempotencyKey)
        .where(
            IdempotencyKey.tenant_id == tenant_id,
            IdempotencyKey.key == key,
            IdempotencyKey.fence == fence,
            IdempotencyKey.status.is_(None),
        )
        .values(lease_until=sa.func.now() + timedelta(seconds=lease_seconds))
    )


def settle(
    session: Session,
    tenant_id: UUID,
    key: str,
    fence: int,
    *,
    fingerprint: bytes,
    status: int,
    body: dict[str, Any],
    location: str | None,
) -> None:
    """Store the answer in the transaction of the effect; raises ``TakenOver`` where the fence was lost."""
    stored = session.execute(
        sa.update(IdempotencyKey)
        .where(
            IdempotencyKey.tenant_id == tenant_id,
            IdempotencyKey.key == key,
            IdempotencyKey.fence == fence,
            IdempotencyKey.status.is_(None),
        )
        .values(fingerprint=fingerprint, status=status, body=body, location=location, expires_at=sa.func.now() + KEPT)
        .returning(IdempotencyKey.fence)
    ).first()
    if stored is None:
        raise TakenOver("another request with this Idempotency-Key took over; ask again with the same key")


def forget(session: Session, tenant_id: UUID, key: str, fence: int) -> None:
    """Free the key of a request that was refused before it did anything."""
    session.execute(
        sa.delete(IdempotencyKey).where(
            IdempotencyKey.tenant_id == tenant_id,
            IdempotencyKey.key == key,
            IdempotencyKey.fence == fence,
            IdempotencyKey.status.is_(None),
        )
    )
