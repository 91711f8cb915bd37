"""``/v1/images/{id}``: one photo's answer, its working copy, and the heat map drawn from its evidence."""

from typing import Annotated, Final

from flask import Blueprint, Response
from pydantic import Field

from shared import history, ids
from shared.errors import ObjectMissing
from shared.heatmap import heatmap_png
from shared.storage.keys import copy_key
from shared.views import ResultView
from web.asking import NoQuery, Strict, read_query
from web.auth import caller
from web.openapi import Answer, operation
from web.problems import NOT_FOUND, NOT_YET, STORAGE_AWAY, Problem
from web.services import services
from web.wire import ResultBody, respond, result_body

api = Blueprint("images", __name__)

_LARGEST_COPY: Final = 16 * 1024 * 1024
_PICTURE: Final = {"type": "string", "format": "binary"}
_TAG: Final = "images"


class HeatmapQuery(Strict):
    """How large the layer should be; it is laid over the whole photo, whatever its shape."""

    width: Annotated[int, Field(ge=16, le=2048)] = 512
    height: Annotated[int, Field(ge=16, le=2048)] = 512


@api.get("/v1/images/<image>")
@operation(
    "Read a photo's answer",
    {200: Answer("The photo with its one outcome.", {"application/json": ResultBody})},
    tag=_TAG,
    scope="jobs:read",
    query=NoQuery,
    problems=(NOT_FOUND,),
)
def read(image: str) -> Response:
    """Return one photo with its outcome."""
    read_query(NoQuery)
    return respond(result_body(_load(image), services().settings.public_url))


@api.get("/v1/images/<image>/photo")
@operation(
    "Show a photo",
    {200: Answer("The working copy: re-encoded, without metadata.", {"image/jpeg": _PICTURE})},
    tag=_TAG,
    scope="jobs:read",
    query=NoQuery,
    problems=(NOT_FOUND, NOT_YET, STORAGE_AWAY),
)
def photo(image: str) -> Response:
    """Return the working copy."""
    read_query(NoQuery)
    view = _load(image)
    if not view.has_copy:
        raise Problem(NOT_YET, "There is no working copy of this photo.")
    key = copy_key(view.job_id, view.image_id)
    try:
        data = services().storage.read(key, limit=_LARGEST_COPY)
    except ObjectMissing:
        raise Problem(NOT_YET, "The working copy of this photo is gone.") from None
    return _picture(data, "image/jpeg", f"{image}.jpg")


@api.get("/v1/images/<image>/heatmap")
@operation(
    "Show the evidence",
    {200: Answer("A transparent layer drawn from the 7 x 7 evidence alone.", {"image/png": _PICTURE})},
    tag=_TAG,
    scope="jobs:read",
    query=HeatmapQuery,
    problems=(NOT_FOUND, NOT_YET),
)
def heatmap(image: str) -> Response:
    """Draw the evidence."""
    query = read_query(HeatmapQuery)
    view = _load(image)
    evidence = (view.answer or {}).get("evidence")
    if not evidence:
        raise Problem(NOT_YET, "There is no evidence to draw for this photo.")
    return _picture(heatmap_png(evidence, query.width, query.height), "image/png", f"{image}-heatmap.png")


def _load(image: str) -> ResultView:
    image_id = ids.parse("image", image)
    with services().database.transaction(caller().tenant_id) as session:
        return history.image(session, image_id)


def _picture(data: bytes, media: str, name: str) -> Response:
    answer = Response(data, mimetype=media)
    answer.headers["Content-Disposition"] = f'inline; filename="{name}"'
    return answer
