"""Taking a job in: job, images, units and the first event in one transaction.

The photos' bytes are durable before this runs. COPY would be the fastest way in, but PostgreSQL refuses COPY into
tables with row-level security, so rows go in as arrays: one statement for any number of photos.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events
from shared.database import new_id
from shared.ledger import fairness
from shared.ledger.fairness import default_lane
from shared.prepared import Prepared, array, number_array, text_array
from shared.views import JobView
from shared.vocabulary import OUTCOMES

__all__ = ["NewImage", "NewJob", "Submitted", "accepted", "add_job", "default_lane", "insert_images", "queue", "submit"]


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


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that was taken in, and the tag of its last unit: what has a smaller one is answered before it."""

    view: JobView
    last_tag: float


_INSERT_JOB: Final = """
    INSERT INTO job (id, tenant_id, key_id, state, lane, total, remaining, model, deadline, max_failure_rate,
                     keep_originals, details)
    VALUES (:id, :tenant, :key, :state, :lane, :total, :total, :model, :deadline, :max_failure_rate,
            :keep_originals, :details)
    RETURNING created_at
"""
_OF_JOB: Final = {
    "id": "uuid",
    "tenant": "uuid",
    "key": "uuid",
    "state": "text",
    "lane": "text",
    "total": "int",
    "model": "text",
    "deadline": "timestamptz",
    "max_failure_rate": "float8",
    "keep_originals": "boolean",
    "details": "jsonb",
}
# Arrays go in as text: thousands of literals cost the server more to parse than the rows to insert.
_INSERT_IMAGES: Final = """
    INSERT INTO image (id, tenant_id, job_id, ordinal, client_name, custom_id, storage_key, sha256, bytes, duplicate_of)
    SELECT x.id, :tenant, :job, x.ordinal, x.client_name, x.custom_id, x.storage_key, decode(x.sha256, 'hex'), x.bytes,
           x.duplicate_of
    FROM unnest(:ids, :ordinals, :names, :custom_ids, :keys, :digests, :sizes, :duplicates)
      AS x(id, ordinal, client_name, custom_id, storage_key, sha256, bytes, duplicate_of)
"""
_OF_IMAGES: Final = {
    "tenant": "uuid",
    "job": "uuid",
    "ids": "uuid[]",
    "ordinals": "int[]",
    "names": "text[]",
    "custom_ids": "text[]",
    "keys": "text[]",
    "digests": "text[]",
    "sizes": "bigint[]",
    "duplicates": "uuid[]",
}
_JOB = Prepared(_INSERT_JOB, _OF_JOB)
_IMAGES = Prepared(_INSERT_IMAGES, _OF_IMAGES)
# Foreign keys are looked at when all of a statement is done.
_JOB_WITH_IMAGES = Prepared(f"WITH made AS ({_INSERT_JOB}) {_INSERT_IMAGES}", _OF_JOB | _OF_IMAGES)
# Goes along behind that, in a statement of its own: what locks the tenant's flow and then its counter of events, whose
# part waits for the units' rows, must not hold them while thousands of images go in. Tags are given as what they are
# behind the first that is free (`fairness.py`); the last unit's is the flow's to the bit.
_QUEUE_AND_TELL = Prepared(
    f"""
    WITH v AS MATERIALIZED (SELECT lookup_virtual_time() AS now_vft),
    moved AS (
      INSERT INTO flow (tenant_id, lane, last_vft) SELECT :tenant, :lane, greatest(0, now_vft) + :width FROM v
      ON CONFLICT (tenant_id, lane)
        DO UPDATE SET last_vft = greatest(flow.last_vft, (SELECT now_vft FROM v)) + :width
      RETURNING last_vft),
    queued AS (
      INSERT INTO unit (id, tenant_id, job_id, kind, lane, first, n, state, vft)
      SELECT x.id, :tenant, :job, 'images', :lane, x.first, x.n, 'ready', moved.last_vft - (:width - x.behind)
      FROM moved, unnest(:units, :firsts, :photos, :behind) AS x(id, first, n, behind)
      RETURNING id),
    news AS (
      SELECT :tenant AS tenant_id, 1 AS place, :event AS id, 'job.accepted' AS kind, :job AS job_id, 0 AS round,
        :body AS body
      FROM (SELECT count(*) FROM queued) x),
    {events.TELLING}
    SELECT now() AS created_at, moved.last_vft, {events.OWED} AS owed FROM moved
    """,  # noqa: S608  # made of constants
    {
        "tenant": "uuid",
        "job": "uuid",
        "lane": "text",
        "width": "float8",
        "units": "uuid[]",
        "firsts": "int[]",
        "photos": "smallint[]",
        "behind": "float8[]",
        "event": "uuid",
        "body": "jsonb",
    },
)

# The lock keeps two submissions of one tenant from taking the same tags. V may be a moment older than the lock: a job
# that had to wait for it is not put behind what came meanwhile.
_FLOW: Final = {"tenant": "uuid", "lane": "text"}
_LAST_TAG = Prepared(
    "SELECT last_vft, lookup_virtual_time() FROM flow WHERE tenant_id = :tenant AND lane = :lane FOR UPDATE", _FLOW
)
_FIRST_TAG = sa.text("INSERT INTO flow (tenant_id, lane, last_vft) VALUES (:tenant, :lane, 0) ON CONFLICT DO NOTHING")
_UNITS = Prepared(
    """
    WITH moved AS (UPDATE flow SET last_vft = :last_tag WHERE tenant_id = :tenant AND lane = :lane)
    INSERT INTO unit (id, tenant_id, job_id, kind, lane, first, n, state, vft)
    SELECT x.id, :tenant, :job, :kind, :lane, x.first, x.n, 'ready', x.vft
    FROM unnest(:ids, :firsts, :sizes, :tags) AS x(id, first, n, vft)
    """,
    {
        **_FLOW,
        "job": "uuid",
        "kind": "text",
        "ids": "uuid[]",
        "firsts": "int[]",
        "sizes": "smallint[]",
        "tags": "float8[]",
        "last_tag": "float8",
    },
)


def submit(session: Session, job: NewJob) -> Submitted:
    """Write the job with everything it owes, and return it as it is now.

    1. the job's row, with all its photos still to be answered;
    2. one row an image, naming an earlier photo of the job with the same bytes as ``duplicate_of``;
    3. units of up to 32 images, ready, under the fair tags of the tenant and lane;
    4. the event ``job.accepted``, last, because it locks the tenant's event counter, with its deliveries.
    """
    if not job.images:
        raise ValueError("a job has at least one photo")
    total = len(job.images)
    pieces = fairness.slices(total, lane=job.lane, last_vft=0, now_vft=0, tenant_weight=job.weight)
    [row] = _QUEUE_AND_TELL.run(
        session,
        {
            "tenant": job.tenant_id,
            "job": job.id,
            "lane": job.lane,
            "width": pieces[-1].vft,
            "units": array(new_id().hex for _ in pieces),
            "firsts": number_array(piece.first for piece in pieces),
            "photos": number_array(piece.n for piece in pieces),
            "behind": number_array(piece.vft for piece in pieces),
            "event": new_id(),
            "body": json.dumps(_accepted_body(job, total)),
        },
        first=(_JOB_WITH_IMAGES, _job_values(job, "queued", total) | _image_values(job)),
    )
    events.owe(session, row.owed)
    return Submitted(_view(job, "queued", total, row.created_at), row.last_vft)


def add_job(session: Session, job: NewJob, *, state: str, total: int) -> JobView:
    """Write the job's row, with ``total`` photos still to be answered, and return it."""
    [row] = _JOB.run(session, _job_values(job, state, total))
    return _view(job, state, total, row.created_at)


def _job_values(job: NewJob, state: str, total: int) -> dict[str, Any]:
    return {
        "id": job.id,
        "tenant": job.tenant_id,
        "key": job.key_id,
        "state": state,
        "lane": job.lane,
        "total": total,
        "model": job.model,
        "deadline": job.deadline,
        "max_failure_rate": job.max_failure_rate,
        "keep_originals": job.keep_originals,
        "details": json.dumps(dict(job.details)),
    }


def _view(job: NewJob, state: str, total: int, created_at: datetime) -> JobView:
    return JobView(
        id=job.id,
        tenant_id=job.tenant_id,
        key_id=job.key_id,
        state=state,
        lane=job.lane,
        round=0,
        total=total,
        remaining=total,
        counts=dict.fromkeys(OUTCOMES, 0) | {"waiting": total},
        model=job.model,
        deadline=job.deadline,
        max_failure_rate=job.max_failure_rate,
        keep_originals=job.keep_originals,
        details=job.details,
        created_at=created_at,
        started_at=None,
        closed_at=None,
        originals_deleted_at=None,
        receipt_digest=None,
    )


def accepted(session: Session, job: NewJob, total: int) -> None:
    """Record the event ``job.accepted``; call it last."""
    events.record(session, [events.NewEvent(job.tenant_id, "job.accepted", job.id, 0, _accepted_body(job, total))])


def _accepted_body(job: NewJob, total: int) -> dict[str, Any]:
    return {"total": total, "priority": job.lane}


def insert_images(session: Session, job: NewJob) -> None:
    """Write the job's images, each naming the first of them with the same bytes as ``duplicate_of``."""
    _IMAGES.run(session, _image_values(job))


def _image_values(job: NewJob) -> dict[str, Any]:
    first_with: dict[bytes, UUID] = {}
    duplicates = []
    for image in job.images:
        original = first_with.setdefault(image.sha256, image.id)
        duplicates.append("NULL" if original == image.id else original.hex)
    return {
        "tenant": job.tenant_id,
        "job": job.id,
        "ids": array(image.id.hex for image in job.images),
        "ordinals": number_array(image.ordinal for image in job.images),
        "names": text_array(image.client_name for image in job.images),
        "custom_ids": text_array(image.custom_id for image in job.images),
        "keys": array(image.storage_key for image in job.images),
        "digests": array(image.sha256.hex() for image in job.images),
        "sizes": number_array(image.bytes for image in job.images),
        "duplicates": array(duplicates),
    }


def queue(
    session: Session,
    tenant_id: UUID,
    job_id: UUID,
    lane: str,
    cut: Callable[[float, float], Sequence[fairness.Slice]],
    *,
    kind: str = "images",
) -> float:
    """Insert ready units for a job, under the next fair tags of its tenant and lane, and return the last tag.

    ``cut`` is given the last tag of the two and the virtual time, and returns the units, at least one.
    """
    flow = {"tenant": tenant_id, "lane": lane}
    found = _LAST_TAG.run(session, flow)
    if not found:
        session.execute(_FIRST_TAG, flow)
        found = _LAST_TAG.run(session, flow)
    pieces = cut(*found[0])
    last_tag = pieces[-1].vft
    _UNITS.run(
        session,
        {
            **flow,
            "job": job_id,
            "kind": kind,
            "ids": array(new_id().hex for _ in pieces),
            "firsts": number_array(piece.first for piece in pieces),
            "sizes": number_array(piece.n for piece in pieces),
            "tags": number_array(piece.vft for piece in pieces),
            "last_tag": last_tag,
        },
    )
    return last_tag
