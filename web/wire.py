"""What goes out on the wire: jobs and results as JSON, in the shapes and words of the published API."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote
from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from shared import ids
from shared.views import JobView, ResultView
from shared.views import Tombstone as Remains

ResearchUse = Literal["research-only"]
USE: ResearchUse = "research-only"
State = Literal["receiving", "queued", "running", "completed", "stopped", "cancelled", "expired"]
Picture = Literal["photo", "heatmap"]
# The absolute address of a picture of an image.
Address = Callable[[Picture, UUID], str]
Outcome = Literal["classified", "abstained", "rejected", "failed", "cancelled", "expired"]


class Shape(BaseModel):
    """A model of something that goes out."""

    model_config = ConfigDict(frozen=True)


class Counts(Shape):
    """How many photos have which outcome; all seven together are ``total``."""

    classified: int
    abstained: int
    rejected: int
    failed: int
    cancelled: int
    expired: int
    waiting: int


class JobLinks(Shape):
    """Addresses that belong to a job."""

    self: str
    results: str
    receipt: str
    cancel: str


class OneOffEndpoint(Shape):
    """The one-off webhook of a job. Its secret is shown in the answer that made it, and never again."""

    id: str
    url: str
    secret: str


class JobBody(Shape):
    """A job."""

    id: str
    state: State
    priority: Literal["interactive", "normal", "bulk"]
    total: int
    counts: Counts
    progress: float = Field(description="Share of photos that have their outcome, 0 to 1")
    images_per_second: float | None = Field(description="Measured over this job")
    eta: datetime | None = Field(description="When the last photo should have its outcome; null where nobody can say")
    round: int = Field(description="How often failed photos were tried again")
    model: str | None = Field(description="The model asked for; null for the one served")
    deadline: datetime | None
    max_failure_rate: float | None
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    closed_at: datetime | None
    expires_at: datetime | None = Field(description="When the job is deleted; null where it is kept")
    links: JobLinks
    webhook: OneOffEndpoint | None = None
    use: ResearchUse = USE


class Tombstone(Shape):
    """What is left of a deleted job."""

    id: str
    state: State = Field(description="The state it ended in")
    total: int
    counts: Counts
    round: int
    created_at: datetime
    closed_at: datetime | None
    deleted_at: datetime
    purged_at: datetime | None = Field(description="When its photos had left the storage; null while they are deleted")
    receipt: str | None = Field(description="SHA-256 of the canonical payload of its last receipt")


class Model(Shape):
    """The model that gave an answer."""

    id: str
    digest: str


class ResultBody(Shape):
    """One photo with its one outcome."""

    image: str
    job: str
    ordinal: int
    custom_id: str | None
    file_name: str | None
    sha256: str
    bytes: int
    outcome: Outcome | None = Field(description="null while the photo waits")
    label: str | None = Field(description="The most probable label, also where the answer abstains")
    probabilities: dict[str, float] | None = Field(description="Calibrated")
    thresholds: dict[str, float] | None
    prediction_set: list[str] | None
    reasons: list[str]
    quality: dict[str, float] | None
    in_distribution: bool | None
    evidence: list[float] | None = Field(description="49 numbers, 7 x 7, rows first")
    photo_url: str | None = Field(description="The working copy; needs the key, unless `links` was asked for")
    heatmap_url: str | None = Field(
        description="The layer of its evidence; needs the key, unless `links` was asked for"
    )
    duplicate_of: str | None
    model: Model | None
    attempts: int
    times: dict[str, Any]
    use: ResearchUse = USE


def job_body(
    view: JobView,
    url: str,
    *,
    rate: float | None = None,
    eta: datetime | None = None,
    webhook: OneOffEndpoint | None = None,
) -> JobBody:
    """Return a job as it goes out; ``url`` is the public address of the service."""
    here = job_url(url, view)
    return JobBody(
        id=ids.text("job", view.id),
        state=view.state,  # type: ignore[arg-type]  # the database holds no other
        priority=view.lane,  # type: ignore[arg-type]
        total=view.total,
        counts=Counts(**view.counts),
        progress=round(view.progress, 6),
        images_per_second=None if rate is None else round(rate, 3),
        eta=eta,
        round=view.round,
        model=view.model,
        deadline=view.deadline,
        max_failure_rate=view.max_failure_rate,
        metadata=dict(sorted(view.details.get("metadata", {}).items())),
        created_at=view.created_at,
        started_at=view.started_at,
        closed_at=view.closed_at,
        expires_at=None,
        links=JobLinks(self=here, results=f"{here}/results", receipt=f"{here}/receipt", cancel=f"{here}/cancel"),
        webhook=webhook,
    )


def tombstone(remains: Remains) -> Tombstone:
    """Return what is left of a deleted job as it goes out."""
    job = remains.job
    return Tombstone(
        id=ids.text("job", job.id),
        state=job.state,  # type: ignore[arg-type]  # the database holds no other
        total=job.total,
        counts=Counts(**job.counts),
        round=job.round,
        created_at=job.created_at,
        closed_at=job.closed_at,
        deleted_at=remains.deleted_at,
        purged_at=remains.purged_at,
        receipt=job.receipt_digest,
    )


def job_url(url: str, view: JobView) -> str:
    """Return the public address of a job."""
    return f"{url}/v1/jobs/{ids.text('job', view.id)}"


def result_body(view: ResultView, url: str, address: Address | None = None) -> ResultBody:
    """Return a photo with its outcome as it goes out; ``address`` says where its pictures are, else behind a key."""
    answer: Mapping[str, Any] = view.answer or {}
    image = ids.text("image", view.image_id)

    def picture(kind: Picture) -> str:
        return address(kind, view.image_id) if address else f"{url}/v1/images/{image}/{kind}"

    return ResultBody(
        image=image,
        job=ids.text("job", view.job_id),
        ordinal=view.ordinal,
        custom_id=view.custom_id,
        file_name=view.client_name,
        sha256=view.sha256,
        bytes=view.bytes,
        outcome=view.outcome,  # type: ignore[arg-type]
        label=view.label,
        probabilities=answer.get("probabilities"),
        thresholds=answer.get("thresholds"),
        prediction_set=answer.get("prediction_set"),
        reasons=list(view.reasons),
        quality=answer.get("quality"),
        in_distribution=answer.get("in_distribution"),
        evidence=answer.get("evidence"),
        photo_url=picture("photo") if view.has_copy else None,
        heatmap_url=picture("heatmap") if answer.get("evidence") else None,
        duplicate_of=ids.text("image", view.duplicate_of) if view.duplicate_of else None,
        model=Model(id=view.model_id, digest=view.model_digest or "") if view.model_id else None,
        attempts=view.attempts,
        times={**(view.timings or {}), "finished_at": view.finished_at},
    )


def respond(body: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a model as JSON, one line, fields in the order of the model."""
    answer = Response(body.model_dump_json() + "\n", status=status, mimetype="application/json")
    answer.headers.update(headers or {})
    return answer


def next_link(path: str, **parameters: str | int | None) -> str:
    """Return the value of a Link header to the next page (RFC 8288)."""
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items() if value is not None)
    return f'<{path}?{query}>; rel="next"'
