"""The two pictures of a photo, as they go out: its working copy, and the heat map drawn from its evidence."""

from typing import Annotated, Final

from flask import Response
from pydantic import Field

from shared import ids
from shared.errors import ObjectMissing
from shared.storage.keys import copy_key
from shared.views import ResultView
from web.asking import Strict
from web.problems import NOT_YET, Problem
from web.services import services

_LARGEST_COPY: Final = 16 * 1024 * 1024
PICTURE: Final = {"type": "string", "format": "binary"}
PNG_OR_JPEG: Final = {"image/jpeg": PICTURE, "image/png": PICTURE}


class HeatmapQuery(Strict):
    """How large the layer should be; it is laid over the whole photo, whatever its shape."""

    width: Annotated[int, Field(ge=16, le=2048)] = Field(default=512, description="Of the heat map, in pixels")
    height: Annotated[int, Field(ge=16, le=2048)] = Field(default=512, description="Of the heat map, in pixels")


def photo_of(view: ResultView) -> Response:
    """Return the working copy; raises ``Problem`` (404) where there is none."""
    if not view.has_copy:
        raise Problem(NOT_YET, "There is no working copy of this photo.")
    try:
        data = services().storage.read(copy_key(view.job_id, view.image_id), limit=_LARGEST_COPY)
    except ObjectMissing:
        raise Problem(NOT_YET, "The working copy of this photo is gone.") from None
    return _picture(data, "image/jpeg", f"{ids.text('image', view.image_id)}.jpg")


def heatmap_of(view: ResultView, query: HeatmapQuery) -> Response:
    """Draw the evidence; raises ``Problem`` (404) where there is none."""
    evidence = (view.answer or {}).get("evidence")
    if not evidence:
        raise Problem(NOT_YET, "There is no evidence to draw for this photo.")
    from shared.heatmap import heatmap_png  # noqa: PLC0415 - NumPy and Pillow, which a web process needs for this alone

    name = f"{ids.text('image', view.image_id)}-heatmap.png"
    return _picture(heatmap_png(evidence, query.width, query.height), "image/png", name)


def _picture(data: bytes, media: str, name: str) -> Response:
    answer = Response(data, mimetype=media)
    answer.headers["Content-Disposition"] = f'inline; filename="{name}"'
    return answer
