"""Taking a job in: job, images, units and the first event in one transaction.

The photos' bytes are durable before this runs. COPY would be the fastest way in, but PostgreSQL refuses COPY into
tables with row-level security, so rows go in as arrays: one statement for any number of photos.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events
from shared.database import new_id
from shared.ledger import fairness
from shared.ledger.fairness import default_lane
from shared.tables import Job

__all__ = ["NewImage", "NewJob", "accepted", "add_job", "default_lane", "insert_images", "queue", "submit"]


@dataclass(frozen=True, slots=True)
class NewImage:
    """A photo whose bytes are stored: its place in the job, its names and its fingerprint."""

    id: UUID
    ordinal: int
    client_name: str | None
    custom_id: str | None
    storage_key: str
    sha256: bytes
    bytes: int


@dataclass(frozen=True, slots=True)
class NewJob:
    """A submission as the front end understood it. Ordinals count from 0 without gaps."""

    id: UUID
    tenant_id: UUID
    key_id: UUID | None
    lane: str
    images: Sequence[NewImage]
    model: str | None = None
    deadline: datetime | None = None
    max_failure_rate: float | None = None
    keep_originals: bool = False
    weight: float = 1.0
    details: Mapping[str, Any] = field(default_factory=dict)


_IMAGES = sa.text("""
    INSERT INTO image (id, tenant_id, job_id, ordinal, client_name, custom_id, storage_key, sha256, bytes, duplicate_of)
    SELECT x.id, :tenant, :job, x.ordinal, x.client_name, x.custom_id, x.storage_key, decode(x.sha256, 'hex'), x.bytes,
           x.duplicate_of
    FROM unnest(CAST(:ids AS uuid[]), CAST(:ordinals AS int[]), CAST(:names AS text[]), CAST(:custom_ids AS text[]),
                CAST(:keys AS text[]), CAST(:digests AS text[]), CAST(:sizes AS bigint[]), CAST(:duplicates AS uuid[]))
      AS x(id, ordinal, client_name, custom_id, storage_key, sha256, bytes, duplicate_of)
""")

_UNITS = sa.text("""
    INSERT INTO unit (id, tenant_id, job_id, kind, lane, first, n, state, vft)
    SELECT x.id, :tenant, :job, :kind, :lane, x.first, x.n, 'ready', x.vft
    FROM unnest(CAST(:ids AS uuid[]), CAST(:firsts AS int[]), CAST(:sizes AS smallint[]), CAST(:tags AS float8[]))
      AS x(id, first, n, vft)
""")


def submit(session: Session, job: NewJob) -> None:
    """Write the job with everything it owes.

    1. the job's row, with all its photos still to be answered;
    2. one row an image, naming an earlier photo of the job with the same bytes as ``duplicate_of``;
    3. units of up to 32 images, ready, under the fair tags of the tenant and lane;
    4. the event ``job.accepted``, last, because it locks the tenant's event counter.
    """
    if not job.images:
        raise ValueError("a job has at least one photo")
    total = len(job.images)
    add_job(session, job, state="queued", total=total)
    insert_images(session, job)
    queue(
        session,
        job.tenant_id,
        job.id,
        job.lane,
        lambda last_vft, now_vft: fairness.slices(
            total, lane=job.lane, last_vft=last_vft, now_vft=now_vft, tenant_weight=job.weight
        ),
    )
    accepted(session, job, total)


def add_job(session: Session, job: NewJob, *, state: str, total: int) -> None:
    """Write the job's row, with ``total`` photos still to be answered."""
    session.add(
        Job(
            id=job.id,
            tenant_id=job.tenant_id,
            key_id=job.key_id,
            state=state,
            lane=job.lane,
            total=total,
            remaining=total,
            model=job.model,
            deadline=job.deadline,
            max_failure_rate=job.max_failure_rate,
            keep_originals=job.keep_originals,
            details=dict(job.details),
        )
    )
    session.flush()


def accepted(session: Session, job: NewJob, total: int) -> None:
    """Record the event ``job.accepted``; call it last."""
    events.record(
        session, [events.NewEvent(job.tenant_id, "job.accepted", job.id, 0, {"total": total, "priority": job.lane})]
    )


def insert_images(session: Session, job: NewJob) -> None:
    """Write the job's images, each naming the first of them with the same bytes as ``duplicate_of``."""
    first_with: dict[bytes, UUID] = {}
    duplicates = []
    for image in job.images:
        original = first_with.setdefault(image.sha256, image.id)
        duplicates.append(str(original) if original != image.id else None)
    session.execute(
        _IMAGES,
        {
            "tenant": job.tenant_id,
            "job": job.id,
            "ids": [str(image.id) for image in job.images],
            "ordinals": [image.ordinal for image in job.images],
            "names": [image.client_name for image in job.images],
            "custom_ids": [image.custom_id for image in job.images],
            "keys": [image.storage_key for image in job.images],
            "digests": [image.sha256.hex() for image in job.images],
            "sizes": [image.bytes for image in job.images],
            "duplicates": duplicates,
        },
    )


def queue(
    session: Session,
    tenant_id: UUID,
    job_id: UUID,
    lane: str,
    cut: Callable[[float, float], Sequence[fairness.Slice]],
    *,
    kind: str = "images",
) -> None:
    """Insert ready units for a job, under the next fair tags of its tenant and lane.

    ``cut`` is given the last tag of the two and the virtual time, and returns the units, at least one.
    """
    flow = {"tenant": tenant_id, "lane": lane}
    session.execute(
        sa.text("INSERT INTO flow (tenant_id, lane, last_vft) VALUES (:tenant, :lane, 0) ON CONFLICT DO NOTHING"), flow
    )
    # The lock keeps two submissions of one tenant from taking the same tags.
    last_vft = session.execute(
        sa.text("SELECT last_vft FROM flow WHERE tenant_id = :tenant AND lane = :lane FOR UPDATE"), flow
    ).scalar_one()
    pieces = cut(last_vft, session.execute(sa.text("SELECT lookup_virtual_time()")).scalar_one())
    session.execute(
        _UNITS,
        {
            "tenant": tenant_id,
            "job": job_id,
            "kind": kind,
            "lane": lane,
            "ids": [str(new_id()) for _ in pieces],
            "firsts": [piece.first for piece in pieces],
            "sizes": [piece.n for piece in pieces],
            "tags": [piece.vft for piece in pieces],
        },
    )
    session.execute(
        sa.text("UPDATE flow SET last_vft = :tag WHERE tenant_id = :tenant AND lane = :lane"),
        {**flow, "tag": pieces[-1].vft},
    )
