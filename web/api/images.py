"""``/v1/images/{id}``: one photo's answer, its working copy, and the heat map drawn from its evidence."""

from typing import Final

from flask import Blueprint, Response
from pydantic import Field

from shared import history, ids
from shared.views import ResultView
from web.api.links import LINKS, LinkSeconds, link_addresses
from web.api.pictures import PICTURE, HeatmapQuery, heatmap_of, photo_of
from web.asking import NoQuery, Strict, read_query
from web.auth import caller
from web.operations import Answer, operation
from web.problems import NOT_FOUND, NOT_YET, STORAGE_AWAY
from web.services import services
from web.wire import ResultBody, respond, result_body

api = Blueprint("images", __name__)

_TAG: Final = "images"


class ImageQuery(Strict):
    """How to tell it."""

    links: LinkSeconds | None = Field(default=None, description=LINKS)


@api.get("/v1/images/<image>")
@operation(
    "Read a photo's answer",
    {200: Answer("The photo with its one outcome.", {"application/json": ResultBody})},
    tag=_TAG,
    scope="jobs:read",
    query=ImageQuery,
    problems=(NOT_FOUND,),
)
def read(image: str) -> Response:
    """Return one photo with its outcome."""
    query = read_query(ImageQuery)
    return respond(result_body(_load(image), services().settings.public_url, link_addresses(query.links)))


@api.get("/v1/images/<image>/photo")
@operation(
    "Show a photo",
    {200: Answer("The working copy: re-encoded, without metadata.", {"image/jpeg": PICTURE})},
    tag=_TAG,
    scope="jobs:read",
    query=NoQuery,
    problems=(NOT_FOUND, NOT_YET, STORAGE_AWAY),
)
def photo(image: str) -> Response:
    """Return the working copy."""
    read_query(NoQuery)
    return photo_of(_load(image))


@api.get("/v1/images/<image>/heatmap")
@operation(
    "Show the evidence",
    {200: Answer("A transparent layer drawn from the 7 x 7 evidence alone.", {"image/png": PICTURE})},
    tag=_TAG,
    scope="jobs:read",
    query=HeatmapQuery,
    problems=(NOT_FOUND, NOT_YET),
)
def heatmap(image: str) -> Response:
    """Draw the evidence."""
    query = read_query(HeatmapQuery)
    return heatmap_of(_load(image), query)


def _load(image: str) -> ResultView:
    image_id = ids.parse("image", image)
    with services().database.transaction(caller().tenant_id) as session:
        return history.image(session, image_id)
