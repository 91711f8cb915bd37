"""``/v1/models/{model}/shadow``: how a shadow's word compares with the answers that stand."""

from typing import Annotated, Final

from flask import Blueprint, Response
from pydantic import Field

from shared import ids
from shared.bundle import RESEARCH_USE
from shared.registry import records, serving, shadow
from shared.registry.shadow import FEWEST, Rate
from shared.tables import ShadowResult
from web.asking import Strict, read_query
from web.auth import caller
from web.operations import Answer, operation
from web.problems import INVALID_OPTIONS, NOT_FOUND
from web.services import services
from web.wire import USE, ResearchUse, Shape, respond

api = Blueprint("shadow_runs", __name__)

_ENOUGH: Final = "enough"
_TOO_FEW: Final = "not enough data"


class ReportQuery(Strict):
    """How many photos to list."""

    limit: Annotated[int, Field(ge=0, le=1000)] = 200


class Agreement(Shape):
    """How often the shadow gave the label that stands, over a group of photos."""

    name: str
    photos: int
    agreeing: int
    same_outcome: int = Field(description="Photos of which it would also have classified, or abstained, alike")
    rate: float | None = Field(description="null where there is not enough data")
    low: float | None = Field(description="Lower end of Wilson's 95 % interval")
    high: float | None
    data: str = Field(description=f"`{_ENOUGH}`, or `{_TOO_FEW}` below {FEWEST} photos")


class Move(Shape):
    """Photos that have one label and would have another."""

    standing: str
    shadow: str
    photos: int


class Disagreement(Shape):
    """A photo of the caller's own that the shadow calls otherwise; what stands is not touched by that."""

    image: str
    job: str
    standing: str
    standing_probability: float
    standing_outcome: str
    shadow: str
    shadow_probability: float
    shadow_outcome: str
    photo_url: str
    result_url: str
    page_url: str = Field(description="The page of its job, for a person")


class ShadowReport(Shape):
    """A shadow against what stands: sums over every tenant's photos, and the caller's own photos one by one."""

    model: str
    digest: str
    share: float = Field(description="Share of photos that it looks at now; 0 once it is no shadow any more")
    total: Agreement
    by_label: list[Agreement]
    by_confidence: list[Agreement] = Field(description="By the calibrated probability of the label that stands")
    moves: list[Move]
    largest_difference: float | None = Field(description="Of a probability; null where the labels are others")
    mean_difference: float | None = Field(description="Mean over photos of the largest difference of a probability")
    disagreements: list[Disagreement] = Field(description="Those of which the shadow is surest come first")
    notice: str = RESEARCH_USE
    use: ResearchUse = USE


@api.get("/v1/models/<model>/shadow")
@operation(
    "Compare a shadow with what stands",
    {200: Answer("How often they agree.", {"application/json": ShadowReport})},
    tag="models",
    scope="models",
    description="Agreement is no accuracy: nobody knows here which of the two is right. Look at the photos first.",
    query=ReportQuery,
    problems=(NOT_FOUND, INVALID_OPTIONS),
)
def show(model: str) -> Response:
    """Return the report on a shadow, present or past."""
    query = read_query(ReportQuery)
    with services().database.transaction(caller().tenant_id) as session:
        row = records.find(session, model)
        now = serving.read(session)
        found = shadow.report(session, row.digest)
        photos = shadow.disagreements(session, row.digest, query.limit)
    return respond(
        ShadowReport(
            model=row.id,
            digest=row.digest,
            share=now.shadow_share if now.shadow == row.digest else 0.0,
            total=_agreement(found.total),
            by_label=[_agreement(one) for one in found.by_label],
            by_confidence=[_agreement(one) for one in found.by_confidence],
            moves=[Move(standing=was, shadow=says, photos=n) for was, says, n in found.moves],
            largest_difference=found.largest_difference,
            mean_difference=found.mean_difference,
            disagreements=[_disagreement(one) for one in photos],
        )
    )


def _agreement(one: Rate) -> Agreement:
    return Agreement(
        name=one.name,
        photos=one.n,
        agreeing=one.agreeing,
        same_outcome=one.same_outcome,
        rate=one.rate,
        low=one.low,
        high=one.high,
        data=_TOO_FEW if one.rate is None else _ENOUGH,
    )


def _disagreement(one: ShadowResult) -> Disagreement:
    here = services().settings.public_url
    image, job = ids.text("image", one.image_id), ids.text("job", one.job_id)
    return Disagreement(
        image=image,
        job=job,
        standing=one.live_label,
        standing_probability=one.live_p,
        standing_outcome=one.live_outcome,
        shadow=one.label,
        shadow_probability=one.p,
        shadow_outcome=one.outcome,
        photo_url=f"{here}/v1/images/{image}/photo",
        result_url=f"{here}/v1/images/{image}",
        page_url=f"{here}/#{job}",
    )
