"""The database as SQLAlchemy sees it: one class a table, no behaviour. One long list on purpose: it is read as a whole.

The schema itself, with its policies and roles, is made by ``migrations/`` alone; a test compares the two. Every tenant
table carries ``tenant_id``, and foreign keys inside a tenant are composite, because foreign keys ignore row-level
security: a photo could otherwise name another tenant's job.
"""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, DOUBLE_PRECISION, JSONB, REAL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMES = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}


class Base(DeclarativeBase):
    """Parent of every table: naming of constraints and the SQL types behind Python's."""

    metadata = sa.MetaData(naming_convention=NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: sa.Text(),
        int: sa.Integer(),
        bytes: BYTEA(),
        float: DOUBLE_PRECISION(),
        datetime: sa.DateTime(timezone=True),
        UUID: sa.Uuid(),
        dict[str, Any]: JSONB(none_as_null=True),
        list[str]: ARRAY(sa.Text()),
        list[float]: ARRAY(REAL()),
    }


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=sa.text("now()"))


def _zero() -> Mapped[int]:
    return mapped_column(server_default=sa.text("0"))


def _job_key() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant_id", "job_id"], ["job.tenant_id", "job.id"], ondelete="CASCADE")


class Tenant(Base):
    """A clinic or integrator; owns everything below."""

    __tablename__ = "tenant"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    keep_originals: Mapped[bool] = mapped_column(server_default=sa.false())
    weight: Mapped[float] = mapped_column(server_default=sa.text("1"))
    created_at: Mapped[datetime] = _now()


class ApiKey(Base):
    """A key of a tenant; of its secret only the SHA-256 is kept."""

    __tablename__ = "api_key"
    __table_args__ = (
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], ondelete="CASCADE"),
        sa.CheckConstraint("(previous_hash IS NULL) = (previous_until IS NULL)", name="previous"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(index=True)
    name: Mapped[str]
    secret_hash: Mapped[bytes]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    previous_hash: Mapped[bytes | None]
    previous_until: Mapped[datetime | None]


class Job(Base):
    """One submission: its state, its counters and its options. A deleted one stays as its own tombstone."""

    __tablename__ = "job"
    __table_args__ = (
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], ondelete="CASCADE"),
        sa.UniqueConstraint("tenant_id", "id"),
        sa.Index(
            "ix_job_open_deadline", "deadline", postgresql_where=sa.text("closed_at IS NULL AND deadline IS NOT NULL")
        ),
        sa.Index(
            "ix_job_with_originals",
            "closed_at",
            postgresql_where=sa.text("closed_at IS NOT NULL AND originals_deleted_at IS NULL AND NOT keep_originals"),
        ),
        sa.Index(
            "ix_job_open_limited",
            "id",
            postgresql_where=sa.text("closed_at IS NULL AND max_failure_rate IS NOT NULL"),
        ),
        sa.Index("ix_job_closed", "closed_at", postgresql_where=sa.text("closed_at IS NOT NULL")),
        sa.Index("ix_job_to_purge", "purge_at", postgresql_where=sa.text("purge_at IS NOT NULL")),
        sa.CheckConstraint("deleted_at IS NULL OR closed_at IS NOT NULL", name="deleted"),
        sa.CheckConstraint("remaining >= 0", name="remaining"),
        sa.CheckConstraint(
            "total = remaining + classified + abstained + rejected + failed + cancelled + expired", name="counts"
        ),
        sa.CheckConstraint(
            "state IN ('receiving', 'queued', 'running', 'completed', 'stopped', 'cancelled', 'expired')", name="state"
        ),
        sa.CheckConstraint("lane IN ('interactive', 'normal', 'bulk')", name="lane"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    key_id: Mapped[UUID | None]
    state: Mapped[str]
    lane: Mapped[str]
    round: Mapped[int] = _zero()
    total: Mapped[int]
    remaining: Mapped[int]
    classified: Mapped[int] = _zero()
    abstained: Mapped[int] = _zero()
    rejected: Mapped[int] = _zero()
    failed: Mapped[int] = _zero()
    cancelled: Mapped[int] = _zero()
    expired: Mapped[int] = _zero()
    model: Mapped[str | None]
    deadline: Mapped[datetime | None]
    max_failure_rate: Mapped[float | None]
    keep_originals: Mapped[bool] = mapped_column(server_default=sa.false())
    details: Mapped[dict[str, Any]] = mapped_column(server_default=sa.text("'{}'"))
    created_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    originals_deleted_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    # When the storage is to be searched for what a deleted job left there; empty when that is done.
    purge_at: Mapped[datetime | None]
    purged_at: Mapped[datetime | None]
    # Of the last receipt that cannot be built anew from the rows there are.
    receipt_digest: Mapped[str | None]


class Image(Base):
    """One photo of a job. Written once, never updated."""

    __tablename__ = "image"
    __table_args__ = (
        _job_key(),
        sa.UniqueConstraint("tenant_id", "id"),
        sa.UniqueConstraint("job_id", "ordinal"),
        # Names are searched from their beginning, in whatever collation the database has (shared/job_search.py).
        sa.Index(
            "uq_image_custom_id",
            "job_id",
            "custom_id",
            unique=True,
            postgresql_where=sa.text("custom_id IS NOT NULL"),
            postgresql_ops={"custom_id": "text_pattern_ops"},
        ),
        sa.Index("ix_image_client_name", "job_id", "client_name", postgresql_ops={"client_name": "text_pattern_ops"}),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    job_id: Mapped[UUID]
    ordinal: Mapped[int]
    client_name: Mapped[str | None]
    custom_id: Mapped[str | None]
    storage_key: Mapped[str]
    sha256: Mapped[bytes]
    bytes: Mapped[int] = mapped_column(sa.BigInteger())
    duplicate_of: Mapped[UUID | None]


class Unit(Base):
    """Up to 32 consecutive images of a job that a worker claims and completes together: the queue's row."""

    __tablename__ = "unit"
    __table_args__ = (
        _job_key(),
        sa.Index("ix_unit_ready", "vft", "id", postgresql_where=sa.text("state = 'ready' AND kind = 'images'")),
        sa.Index("ix_unit_intake", "vft", "id", postgresql_where=sa.text("state = 'ready' AND kind = 'intake'")),
        # The look for waiting people passes over everything else that is ready, however much that is.
        sa.Index(
            "ix_unit_people",
            "vft",
            "id",
            postgresql_where=sa.text("state = 'ready' AND lane = 'interactive' AND n <= 4 AND kind = 'images'"),
        ),
        sa.Index("ix_unit_leased", "lease_until", postgresql_where=sa.text("state = 'leased'")),
        sa.Index("ix_unit_waiting", "available_at", postgresql_where=sa.text("state = 'waiting'")),
        sa.Index("ix_unit_job", "job_id"),
        sa.CheckConstraint(
            "state IN ('waiting', 'ready', 'leased', 'done', 'split', 'dead', 'cancelled')", name="state"
        ),
        sa.CheckConstraint("kind IN ('images', 'intake')", name="kind"),
        {
            "postgresql_with": {
                "fillfactor": "70",
                "autovacuum_vacuum_scale_factor": "0",
                "autovacuum_vacuum_threshold": "2000",
            }
        },
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    job_id: Mapped[UUID]
    kind: Mapped[str] = mapped_column(server_default=sa.text("'images'"))
    lane: Mapped[str]
    first: Mapped[int]
    n: Mapped[int] = mapped_column(sa.SmallInteger())
    state: Mapped[str]
    vft: Mapped[float]
    attempt: Mapped[int] = mapped_column(sa.SmallInteger(), server_default=sa.text("0"))
    crashes: Mapped[int] = mapped_column(sa.SmallInteger(), server_default=sa.text("0"))
    fence: Mapped[int] = mapped_column(sa.BigInteger(), server_default=sa.text("0"))
    leased_by: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    available_at: Mapped[datetime] = _now()


class Intake(Base):
    """What a job was sent as: an archive, which lies in the storage until it is expanded, or a list of addresses."""

    __tablename__ = "intake"
    __table_args__ = (
        _job_key(),
        sa.Index("ix_intake_ended", "ended_at", postgresql_where=sa.text("source_deleted_at IS NULL")),
        sa.CheckConstraint("kind IN ('archive', 'urls')", name="kind"),
        sa.CheckConstraint("kind <> 'archive' OR num_nonnulls(storage_key, sha256, bytes) = 3", name="source"),
    )

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    kind: Mapped[str]
    name: Mapped[str | None]
    storage_key: Mapped[str | None]
    sha256: Mapped[bytes | None]
    bytes: Mapped[int | None] = mapped_column(sa.BigInteger())
    weight: Mapped[float]
    ended_at: Mapped[datetime | None]
    source_deleted_at: Mapped[datetime | None]


class IntakeUrl(Base):
    """A photo of a job that is still to be fetched; the row goes when the photo is an image."""

    __tablename__ = "intake_url"
    __table_args__ = (_job_key(),)

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    url: Mapped[str]
    client_name: Mapped[str | None]
    custom_id: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(sa.SmallInteger(), server_default=sa.text("0"))
    available_at: Mapped[datetime] = _now()


class Flow(Base):
    """The last virtual finish tag of a tenant in a lane."""

    __tablename__ = "flow"
    __table_args__ = (sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], ondelete="CASCADE"),)

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    lane: Mapped[str] = mapped_column(primary_key=True)
    last_vft: Mapped[float]


class Result(Base):
    """The one visible outcome of an image, written by whoever held the fence.

    That image, job and scheme are there is seen to by triggers, once a statement: foreign keys look once a row and lock
    every image, which cost as much as the rest of a result.
    """

    __tablename__ = "result"
    __table_args__ = (
        sa.Index("ix_result_written", "job_id", "written_in", "image_id"),
        # Which models answered photos of a job (shared/job_search.py); alike entries share their place.
        sa.Index("ix_result_scheme", "job_id", "scheme_id", postgresql_where=sa.text("scheme_id IS NOT NULL")),
        sa.CheckConstraint(
            "outcome IN ('classified', 'abstained', 'rejected', 'failed', 'cancelled', 'expired')", name="outcome"
        ),
        sa.CheckConstraint("(scheme_id IS NULL) = (numbers IS NULL)", name="numbers"),
    )

    image_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    job_id: Mapped[UUID]
    ordinal: Mapped[int]
    fence: Mapped[int] = mapped_column(sa.BigInteger())
    # Readers of an open job page by the writing transaction and stop before the oldest one still running:
    # no row can appear behind a cursor.
    written_in: Mapped[int] = mapped_column(
        sa.BigInteger(), server_default=sa.text("pg_current_xact_id()::text::bigint")
    )
    outcome: Mapped[str]
    label: Mapped[str | None]
    # What the network said, packed (shared/answers.py).
    scheme_id: Mapped[UUID | None]
    numbers: Mapped[bytes | None]
    reasons: Mapped[list[str]]
    attempts: Mapped[int] = mapped_column(sa.SmallInteger())
    has_copy: Mapped[bool]
    decode_ms: Mapped[float | None] = mapped_column(REAL())
    network_ms: Mapped[float | None] = mapped_column(REAL())
    finished_at: Mapped[datetime] = _now()


class AnswerScheme(Base):
    """How to read the packed numbers of results, and what they were held against. Written once, never changed."""

    __tablename__ = "answer_scheme"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    model_id: Mapped[str]
    model_digest: Mapped[str]
    labels: Mapped[list[str]]
    thresholds: Mapped[list[float]] = mapped_column(ARRAY(DOUBLE_PRECISION()))
    quality: Mapped[list[str]]


class ResultHistory(Base):
    """What a result said that a retry replaced; ``round`` is the one it was given in."""

    __tablename__ = "result_history"
    __table_args__ = (
        _job_key(),
        sa.ForeignKeyConstraint(["tenant_id", "image_id"], ["image.tenant_id", "image.id"], ondelete="CASCADE"),
        sa.Index("ix_result_history_job", "job_id"),
    )

    image_id: Mapped[UUID] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    job_id: Mapped[UUID]
    ordinal: Mapped[int]
    fence: Mapped[int] = mapped_column(sa.BigInteger())
    outcome: Mapped[str]
    reasons: Mapped[list[str]]
    attempts: Mapped[int] = mapped_column(sa.SmallInteger())
    finished_at: Mapped[datetime]
    replaced_at: Mapped[datetime] = _now()


class ShadowResult(Base):
    """What a shadow said of a photo, beside what stands. No answer, and never shown as one."""

    __tablename__ = "shadow_result"
    __table_args__ = (
        sa.ForeignKeyConstraint(["tenant_id", "image_id"], ["image.tenant_id", "image.id"], ondelete="CASCADE"),
        sa.Index("ix_shadow_result_digest", "digest", "image_id"),
    )

    image_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    job_id: Mapped[UUID]
    digest: Mapped[str]
    outcome: Mapped[str]
    label: Mapped[str]
    p: Mapped[float]
    live_digest: Mapped[str]
    live_outcome: Mapped[str]
    live_label: Mapped[str]
    live_p: Mapped[float]
    moved: Mapped[float | None]
    seen_at: Mapped[datetime] = _now()


class EventCounter(Base):
    """The tenant's last event number; locked last in a transaction, so that numbers appear without gaps."""

    __tablename__ = "event_counter"
    __table_args__ = (sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], ondelete="CASCADE"),)

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    last: Mapped[int] = mapped_column(sa.BigInteger())


class Event(Base):
    """Something that happened, numbered per tenant."""

    __tablename__ = "event"
    __table_args__ = (
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], ondelete="CASCADE"),
        sa.Index(
            "uq_event_once",
            "job_id",
            "kind",
            "round",
            unique=True,
            postgresql_where=sa.text(
                "kind IN ('job.accepted', 'job.started', 'job.completed',"
                " 'job.stopped', 'job.cancelled', 'job.expired')"
            ),
        ),
        sa.Index("ix_event_image", "job_id", postgresql_where=sa.text("kind = 'image.completed'")),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(sa.BigInteger(), primary_key=True)
    id: Mapped[UUID] = mapped_column(unique=True)
    kind: Mapped[str]
    job_id: Mapped[UUID | None]
    round: Mapped[int] = _zero()
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _now()


class Untold(Base):
    """A job whose end answered many photos at once (``written_in``): those above ``upto`` are still to be told of.

    The event that ends the job, of this kind and body, comes after theirs; then the row goes.
    """

    __tablename__ = "untold"
    __table_args__ = (_job_key(),)

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    kind: Mapped[str]
    body: Mapped[dict[str, Any]]
    written_in: Mapped[int] = mapped_column(
        sa.BigInteger(), server_default=sa.text("pg_current_xact_id()::text::bigint")
    )
    upto: Mapped[int] = mapped_column(server_default=sa.text("-1"))


class Endpoint(Base):
    """A URL that wants events. Secrets are sealed; two may sign while one is being replaced."""

    __tablename__ = "endpoint"
    __table_args__ = (
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], ondelete="CASCADE"),
        sa.UniqueConstraint("tenant_id", "id"),
        sa.Index("ix_endpoint_job", "tenant_id", "job_id"),
        sa.Index("ix_endpoint_one_off", "created_at", postgresql_where=sa.text("job_id IS NOT NULL")),
        sa.Index("ix_endpoint_images", "tenant_id", postgresql_where=sa.text("'image.completed' = ANY (kinds)")),
        sa.CheckConstraint("state IN ('enabled', 'disabled')", name="state"),
        sa.CheckConstraint("detail IN ('thin', 'full')", name="detail"),
        sa.CheckConstraint("format IN ('standard', 'cloudevents')", name="format"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    url: Mapped[str]
    description: Mapped[str] = mapped_column(server_default=sa.text("''"))
    # Empty: every kind. A one-off endpoint belongs to one job and hears of that job alone.
    kinds: Mapped[list[str]] = mapped_column(server_default=sa.text("'{}'"))
    job_id: Mapped[UUID | None]
    detail: Mapped[str] = mapped_column(server_default=sa.text("'thin'"))
    format: Mapped[str] = mapped_column(server_default=sa.text("'standard'"))
    state: Mapped[str] = mapped_column(server_default=sa.text("'enabled'"))
    state_reason: Mapped[str | None]
    secret: Mapped[bytes]
    previous_secret: Mapped[bytes | None]
    previous_until: Mapped[datetime | None]
    cap: Mapped[int] = mapped_column(sa.SmallInteger(), server_default=sa.text("4"))
    open_until: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    last_event_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = _now()


class Delivery(Base):
    """One event owed to one endpoint."""

    __tablename__ = "delivery"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["tenant_id", "endpoint_id"], ["endpoint.tenant_id", "endpoint.id"], ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id", "event_seq"], ["event.tenant_id", "event.seq"], ondelete="CASCADE"),
        sa.UniqueConstraint("tenant_id", "id"),
        sa.UniqueConstraint("endpoint_id", "event_seq"),
        sa.Index("ix_delivery_due", "endpoint_id", "next_at", "id", postgresql_where=sa.text("state = 'waiting'")),
        sa.Index("ix_delivery_next", "next_at", postgresql_where=sa.text("state = 'waiting'")),
        sa.Index("ix_delivery_leased", "endpoint_id", postgresql_where=sa.text("state = 'leased'")),
        # What goes with its event, and bodies that tell answers, for whoever deletes those.
        sa.Index("ix_delivery_event", "tenant_id", "event_seq"),
        sa.Index("ix_delivery_kept", "tenant_id", "event_seq", postgresql_where=sa.text("body IS NOT NULL")),
        sa.Index("ix_delivery_dead", "endpoint_id", postgresql_where=sa.text("state = 'dead'")),
        sa.CheckConstraint("state IN ('waiting', 'leased', 'delivered', 'dead')", name="state"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    endpoint_id: Mapped[UUID]
    event_seq: Mapped[int] = mapped_column(sa.BigInteger())
    previous_id: Mapped[UUID | None]
    state: Mapped[str] = mapped_column(server_default=sa.text("'waiting'"))
    attempt: Mapped[int] = mapped_column(sa.SmallInteger(), server_default=sa.text("0"))
    fence: Mapped[int] = mapped_column(sa.BigInteger(), server_default=sa.text("0"))
    next_at: Mapped[datetime] = _now()
    lease_until: Mapped[datetime | None]
    # What is sent, where it could not be built the same again.
    body: Mapped[bytes | None]
    created_at: Mapped[datetime] = _now()
    finished_at: Mapped[datetime | None]


class Attempt(Base):
    """One try of a delivery, kept for the owner to read. Partitioned by the month in its UUIDv7."""

    __tablename__ = "attempt"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["tenant_id", "delivery_id"], ["delivery.tenant_id", "delivery.id"], ondelete="CASCADE"
        ),
        sa.Index("ix_attempt_delivery", "delivery_id"),
        {"postgresql_partition_by": "RANGE (id)"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    delivery_id: Mapped[UUID]
    number: Mapped[int] = mapped_column(sa.SmallInteger())
    started_at: Mapped[datetime] = _now()
    duration_ms: Mapped[int]
    status: Mapped[int | None] = mapped_column(sa.SmallInteger())
    error: Mapped[str | None]
    response: Mapped[bytes | None]


class IdempotencyKey(Base):
    """A POST that may be sent again: in flight under a lease, or answered."""

    __tablename__ = "idempotency_key"
    __table_args__ = (
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], ondelete="CASCADE"),
        sa.Index("ix_idempotency_key_expires_at", "expires_at"),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fence: Mapped[int] = mapped_column(sa.BigInteger())
    lease_until: Mapped[datetime]
    fingerprint: Mapped[bytes | None]
    status: Mapped[int | None] = mapped_column(sa.SmallInteger())
    body: Mapped[dict[str, Any] | None]
    location: Mapped[str | None]
    expires_at: Mapped[datetime]


class WorkerNode(Base):
    """A worker as it last reported itself: what it serves and how fast."""

    __tablename__ = "worker_node"

    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    bundle_id: Mapped[str | None]
    bundle_digest: Mapped[str | None]
    engine: Mapped[str | None]
    images_per_second: Mapped[float | None]
    problem: Mapped[str | None]
    started_at: Mapped[datetime] = _now()
    last_seen: Mapped[datetime] = _now()


class BacklogCount(Base):
    """What waited when the sweep last counted; one row, without names: ``ahead[i]`` ready photos up to ``tags[i]``."""

    __tablename__ = "backlog_count"
    __table_args__ = (sa.CheckConstraint("sole", name="sole"),)

    sole: Mapped[bool] = mapped_column(primary_key=True, server_default=sa.true())
    counted_at: Mapped[datetime]
    took: Mapped[float]
    interactive: Mapped[int] = mapped_column(sa.BigInteger())
    normal: Mapped[int] = mapped_column(sa.BigInteger())
    bulk: Mapped[int] = mapped_column(sa.BigInteger())
    leased: Mapped[int] = mapped_column(sa.BigInteger())
    tags: Mapped[list[float]] = mapped_column(ARRAY(DOUBLE_PRECISION()))
    ahead: Mapped[list[int]] = mapped_column(ARRAY(sa.BigInteger()))


class Model(Base):
    """A published bundle: its card, what the check of it said, and the lease of whoever checks it now."""

    __tablename__ = "model"
    __table_args__ = (
        sa.UniqueConstraint("id"),
        sa.Index("ix_model_checking", "published_at", postgresql_where=sa.text("state = 'checking'")),
        sa.CheckConstraint("state IN ('checking', 'ready', 'refused')", name="state"),
    )

    digest: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str]
    card: Mapped[dict[str, Any]]
    labels: Mapped[list[str]]
    clinical: Mapped[bool]
    synthetic: Mapped[bool]
    bytes: Mapped[int] = mapped_column(sa.BigInteger())
    published_by: Mapped[UUID | None]
    published_at: Mapped[datetime] = _now()
    state: Mapped[str] = mapped_column(server_default=sa.text("'checking'"))
    verdict: Mapped[dict[str, Any] | None]
    checked_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(sa.SmallInteger(), server_default=sa.text("0"))
    fence: Mapped[int] = mapped_column(sa.BigInteger(), server_default=sa.text("0"))
    lease_until: Mapped[datetime | None]


class ModelServing(Base):
    """Which models serve; one row, or none while nothing was ever changed. ``live`` is empty for what MODEL names."""

    __tablename__ = "model_serving"
    __table_args__ = (
        sa.CheckConstraint("sole", name="sole"),
        sa.CheckConstraint("canary_share BETWEEN 0 AND 1", name="share"),
        sa.CheckConstraint("shadow_share BETWEEN 0 AND 1", name="shadow_share"),
    )

    sole: Mapped[bool] = mapped_column(primary_key=True, server_default=sa.true())
    version: Mapped[int] = mapped_column(sa.BigInteger())
    live: Mapped[str | None] = mapped_column(sa.ForeignKey("model.digest"))
    canary: Mapped[str | None] = mapped_column(sa.ForeignKey("model.digest"))
    canary_share: Mapped[float] = mapped_column(server_default=sa.text("0"))
    shadow: Mapped[str | None] = mapped_column(sa.ForeignKey("model.digest"))
    shadow_share: Mapped[float] = mapped_column(server_default=sa.text("0"))
    changed_at: Mapped[datetime] = _now()


class Heartbeat(Base):
    """A round of photos with known answers: which model had to answer, and what became of it."""

    __tablename__ = "heartbeat"
    __table_args__ = (
        sa.Index("ix_heartbeat_sent_at", "sent_at"),
        sa.CheckConstraint("state IN ('waiting', 'good', 'moved', 'late', 'failed')", name="state"),
    )

    # Of the job, which is forgotten when the round ends.
    id: Mapped[UUID] = mapped_column(primary_key=True)
    model_id: Mapped[str]
    digest: Mapped[str]
    photos: Mapped[int] = mapped_column(sa.SmallInteger())
    sent_at: Mapped[datetime] = _now()
    state: Mapped[str] = mapped_column(server_default=sa.text("'waiting'"))
    difference: Mapped[float | None]
    seconds: Mapped[float | None]
    problem: Mapped[str | None]
    done_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class ModelChange(Base):
    """A change of what serves: who asked for it and when, from what to what, and which tenants have heard of it."""

    __tablename__ = "model_change"
    __table_args__ = (
        # One at a time; a rollback may come while another change waits.
        sa.Index(
            "uq_model_change_waiting",
            "state",
            unique=True,
            postgresql_where=sa.text("state = 'waiting' AND kind <> 'rollback'"),
        ),
        sa.Index("ix_model_change_untold", "id", postgresql_where=sa.text("told_upto IS NOT NULL")),
        sa.CheckConstraint("kind IN ('activate', 'canary', 'shadow', 'rollback')", name="kind"),
        sa.CheckConstraint("state IN ('waiting', 'applied', 'refused')", name="state"),
        sa.CheckConstraint("role IN ('live', 'canary', 'shadow')", name="role"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    model_id: Mapped[str]
    # Empty for the bundle that MODEL names.
    digest: Mapped[str | None]
    share: Mapped[float | None]
    by_tenant: Mapped[UUID | None]
    by_key: Mapped[UUID | None]
    asked_at: Mapped[datetime] = _now()
    state: Mapped[str] = mapped_column(server_default=sa.text("'waiting'"))
    reason: Mapped[str | None]
    role: Mapped[str | None]
    from_digest: Mapped[str | None]
    to_digest: Mapped[str | None]
    version: Mapped[int | None] = mapped_column(sa.BigInteger())
    done_at: Mapped[datetime | None]
    # The last tenant that heard of it, while others have not.
    told_upto: Mapped[UUID | None]
