"""What goes in and out at ``/v1/models``: models, and changes of which of them serve."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from shared import ids
from shared.bundle import RESEARCH_USE, Bundle
from shared.registry.records import ModelRow
from shared.registry.serving import Serving
from shared.tables import ModelChange
from web.asking import StrictJson
from web.wire import USE, ResearchUse, Shape


class ModelBody(Shape):
    """A model: a bundle of the register, or the one that the setting MODEL names."""

    id: str
    digest: str
    live: bool
    canary_share: float = Field(description="Share of jobs that it answers as a canary; 0 for every other model")
    shadow_share: float = Field(description="Share of photos that it looks at as a shadow, without answering any")
    state: Literal["checking", "ready", "refused"] = Field(description="Only a `ready` model can serve")
    problem: str | None = Field(description="Why it was refused")
    published_at: datetime | None = Field(description="null for the bundle that the service was started with")
    labels: list[str]
    clinical: bool
    synthetic: bool = Field(description="Trained on synthetic photos: it shows how the service works and nothing else")
    card: dict[str, Any]


class ModelList(Shape):
    """The models there are, newest first; the one that the service was started with comes last."""

    models: list[ModelBody]
    notice: str = RESEARCH_USE
    use: ResearchUse = USE


class ChangeBody(Shape):
    """A change of what serves, as it was asked for and what became of it."""

    id: str
    kind: Literal["activate", "canary", "shadow", "rollback"]
    model: str
    share: float | None
    state: Literal["waiting", "applied", "refused"]
    reason: str | None
    role: Literal["live", "canary", "shadow"] | None
    from_digest: str | None = Field(description="null: the bundle that the service was started with, or none")
    to_digest: str | None
    asked_by: str | None = Field(description="The key that asked")
    asked_at: datetime
    done_at: datetime | None


class ChangeList(Shape):
    """Changes, newest first."""

    changes: list[ChangeBody]


class Share(StrictJson):
    """How much a canary answers, or a shadow looks at."""

    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        description="Share of jobs for a canary, of photos for a shadow; above 0 to 1"
    )


def published(row: ModelRow, now: Serving) -> ModelBody:
    """Return a model of the register."""
    return ModelBody(
        id=row.id,
        digest=row.digest,
        live=row.digest == now.live,
        canary_share=now.canary_share if row.digest == now.canary else 0.0,
        shadow_share=now.shadow_share if row.digest == now.shadow else 0.0,
        state=row.state,  # type: ignore[arg-type]  # the database holds no other
        problem=row.problem,
        published_at=row.published_at,
        labels=list(row.labels),
        clinical=row.clinical,
        synthetic=row.synthetic,
        card=dict(row.card),
    )


def started_with(bundle: Bundle, now: Serving) -> ModelBody:
    """Return the bundle that the service was started with."""
    return ModelBody(
        id=bundle.id,
        digest=bundle.digest,
        live=now.live is None,
        canary_share=0.0,
        shadow_share=0.0,
        state="ready",
        problem=None,
        published_at=None,
        labels=list(bundle.labels),
        clinical=bundle.clinical,
        synthetic=bundle.synthetic,
        card=dict(bundle.card),
    )


def change_of(made: ModelChange) -> ChangeBody:
    """Return a change as it is shown."""
    return ChangeBody(
        id=ids.text("change", made.id),
        kind=made.kind,  # type: ignore[arg-type]  # the database holds no other
        model=made.model_id,
        share=made.share,
        state=made.state,  # type: ignore[arg-type]
        reason=made.reason,
        role=made.role,  # type: ignore[arg-type]
        from_digest=made.from_digest,
        to_digest=made.to_digest,
        asked_by=None if made.by_key is None else ids.text("key", made.by_key),
        asked_at=made.asked_at,
        done_at=made.done_at,
    )
