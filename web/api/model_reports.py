"""``/v1/models/{model}/report``: the page that came with a model, as somebody's words and not as ours."""

from typing import Final

from flask import Blueprint, Response

from shared.bundle import REPORT, Bundle
from shared.errors import BundleError, NotFound
from shared.registry import bundles, records
from web.asking import NoQuery, read_query
from web.auth import caller
from web.operations import Answer, operation
from web.problems import NOT_FOUND, NOT_YET, STORAGE_AWAY, Problem
from web.services import services

api = Blueprint("model_reports", __name__)

# Whoever may publish could send any page: it runs nothing, loads nothing, and has an origin of its own.
_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)


@api.get("/v1/models/<model>/report")
@operation(
    "Read the report of a model",
    {200: Answer("The report as `poxvisio evaluate` wrote it; it loads nothing.", {"text/html": {"type": "string"}})},
    tag="models",
    scope="models",
    description="Whoever published the model sent it along. No digest covers it, and nothing in it is checked.",
    query=NoQuery,
    problems=(NOT_FOUND, NOT_YET, STORAGE_AWAY),
)
def show(model: str) -> Response:
    """Return the page, of a published model or of the bundle that the service was started with."""
    read_query(NoQuery)
    here = services()
    try:
        with here.database.transaction(caller().tenant_id) as session:
            digest = records.find(session, model).digest
    except NotFound:
        found = _of_default(model)
    else:
        found = bundles.report_of(here.storage, digest)
    if found is None:
        raise Problem(NOT_YET, "This model came without a report.")
    answer = Response(found, content_type="text/html; charset=utf-8")
    answer.headers["Content-Security-Policy"] = _POLICY
    return answer


def _of_default(model: str) -> bytes | None:
    """Return the report beside the bundle of ``MODEL``; raises ``NotFound`` where that is another model, or none."""
    try:
        bundle: Bundle | None = services().model.bundle()
    except BundleError:
        bundle = None
    if bundle is None or bundle.id != model:
        raise NotFound("there is no such model")
    file = bundle.file(REPORT)
    return file.read_bytes() if file.is_file() else None
