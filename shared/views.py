"""What readers get: a job, an image with its outcome, a page of them, and what is left of a deleted job."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.errors import Gone


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as people see it."""

    id: UUID
    tenant_id: UUID
    key_id: UUID | None
    state: str
    lane: str
    round: int
    total: int
    remaining: int
    counts: Mapping[str, int]
    model: str | None
    deadline: datetime | None
    max_failure_rate: float | None
    keep_originals: bool
    details: Mapping[str, Any]
    created_at: datetime
    started_at: datetime | None
    closed_at: datetime | None
    originals_deleted_at: datetime | None
    receipt_digest: str | None

    @property
    def is_closed(self) -> bool:
        """Return whether every photo has its outcome."""
        return self.closed_at is not None

    @property
    def progress(self) -> float:
        """Return the share of the photos known so far that have their outcome, from 0 to 1."""
        return (self.total - self.remaining) / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is still known of a deleted job."""

    job: JobView
    deleted_at: datetime
    purged_at: datetime | None


class JobDeleted(Gone):
    """The job was deleted; its tombstone says what it was."""

    def __init__(self, tombstone: Tombstone) -> None:
        super().__init__("the job was deleted")
        self.tombstone = tombstone


@dataclass(frozen=True, slots=True)
class ResultView:
    """An image with its one outcome; ``outcome`` is None while it waits."""

    image_id: UUID
    job_id: UUID
    ordinal: int
    client_name: str | None
    custom_id: str | None
    storage_key: str
    sha256: str
    bytes: int
    duplicate_of: UUID | None
    outcome: str | None
    label: str | None
    answer: Mapping[str, Any] | None
    reasons: tuple[str, ...]
    model_id: str | None
    model_digest: str | None
    attempts: int
    has_copy: bool
    timings: Mapping[str, float] | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a list, and the cursor of the next ones."""

    rows: list[ResultView]
    next: str | None


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """What a receipt says of one image."""

    ordinal: int
    name: str | None
    sha256: str
    image_id: UUID
    outcome: str | None
