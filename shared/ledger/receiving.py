"""Accepting a job that is still to be taken in: an archive to expand, or a list of addresses to fetch.

The job is ``receiving``, with one unit of kind ``intake``, which no worker claims for photos; ``intake.py`` is what
whoever holds it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.ledger import fairness
from shared.ledger.submit import NewJob, accepted, add_job, insert_images, queue
from shared.views import JobView


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive as it was stored: the name it was sent under, its key, its fingerprint and its size in bytes."""

    name: str | None
    storage_key: str
    sha256: bytes
    bytes: int


@dataclass(frozen=True, slots=True)
class Address:
    """A photo to fetch: its place in the job, where it is, and what it is called."""

    ordinal: int
    url: str
    client_name: str | None
    custom_id: str | None


_SOURCE = sa.text("""
    INSERT INTO intake (job_id, tenant_id, kind, name, storage_key, sha256, bytes, weight)
    VALUES (:job, :tenant, :kind, :name, :key, :sha256, :bytes, :weight)
""")
_ADDRESSES = sa.text("""
    INSERT INTO intake_url (job_id, ordinal, tenant_id, url, client_name, custom_id)
    SELECT :job, x.ordinal, :tenant, x.url, x.name, x.custom_id
    FROM unnest(CAST(:ordinals AS int[]), CAST(:urls AS text[]), CAST(:names AS text[]), CAST(:custom_ids AS text[]))
      AS x(ordinal, url, name, custom_id)
""")


def receive(session: Session, job: NewJob, source: Archive | Sequence[Address]) -> JobView:
    """Write a job that is still to be taken in, and return it; ``job.images`` are photos of a list that came with it.

    1. the job, ``receiving``, with as many photos as are known;
    2. what it is taken in from, and the unit for that;
    3. images and units of what has come already;
    4. the event ``job.accepted``.
    """
    archive = source if isinstance(source, Archive) else None
    addresses = [] if isinstance(source, Archive) else source
    if archive is None and not addresses:
        raise ValueError("there is nothing to take in")
    total = len(job.images) + len(addresses)
    view = add_job(session, job, state="receiving", total=total)
    session.execute(
        _SOURCE,
        {
            "job": job.id,
            "tenant": job.tenant_id,
            "kind": "archive" if archive else "urls",
            "name": archive and archive.name,
            "key": archive and archive.storage_key,
            "sha256": archive and archive.sha256,
            "bytes": archive and archive.bytes,
            "weight": job.weight,
        },
    )
    if addresses:
        _insert_addresses(session, job, addresses)
    if job.images:
        insert_images(session, job)
        ordinals = [image.ordinal for image in job.images]
        queue_photos(session, job.tenant_id, job.id, job.lane, ordinals, weight=job.weight)
    share = fairness.WEIGHTS[job.lane] * job.weight
    queue(
        session,
        job.tenant_id,
        job.id,
        job.lane,
        lambda last_vft, now_vft: [fairness.Slice(0, 0, max(last_vft, now_vft) + 1 / share)],
        kind="intake",
    )
    accepted(session, job, total)
    return view


def queue_photos(
    session: Session, tenant_id: UUID, job_id: UUID, lane: str, ordinals: Sequence[int], *, weight: float
) -> None:
    """Insert units for these photos of a job, by rising ordinals, under the next tags of its tenant and lane."""
    queue(
        session,
        tenant_id,
        job_id,
        lane,
        lambda last_vft, now_vft: fairness.runs(
            ordinals, lane=lane, last_vft=last_vft, now_vft=now_vft, tenant_weight=weight
        ),
    )


def _insert_addresses(session: Session, job: NewJob, addresses: Sequence[Address]) -> None:
    session.execute(
        _ADDRESSES,
        {
            "job": job.id,
            "tenant": job.tenant_id,
            "ordinals": [address.ordinal for address in addresses],
            "urls": [address.url for address in addresses],
            "names": [address.client_name for address in addresses],
            "custom_ids": [address.custom_id for address in addresses],
        },
    )
