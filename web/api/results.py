"""``/v1/jobs/{id}/results``: every photo with its one outcome, as JSON pages, NDJSON, CSV or Parquet."""

import csv
import io
import json
import re
import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal
from uuid import UUID

from flask import Blueprint, Response, request
from pydantic import Field

from shared import history, ids
from shared.database import Database
from shared.errors import DatabaseAway
from shared.logs import logger
from shared.views import JobDeleted, JobView, Page, ResultView
from web.api import parquet
from web.api.links import LINKS, LinkSeconds, link_addresses
from web.api.streaming import streamed
from web.asking import Strict, read_query, wrong
from web.auth import caller
from web.operations import LINK, Answer, operation
from web.problems import (
    DATABASE_AWAY,
    GONE,
    INVALID_OPTIONS,
    NOT_ACCEPTABLE,
    NOT_FOUND,
    TOO_MANY_STREAMS,
    Kind,
    Problem,
)
from web.services import services
from web.wire import USE, Address, ResearchUse, ResultBody, Shape, State, next_link, respond, result_body

api = Blueprint("results", __name__)

log = logger(__name__)

_CURSOR: Final = re.compile(r"o\d{1,9}|w\d{1,18}-[0-9a-f]{32}")
_STREAMED: Final = 500
# Seconds between tries while a stream waits for its database.
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
_CUT_OFF: Final = "INCOMPLETE: the database went away; ask again"
_DELETED: Final = "INCOMPLETE: the job was deleted"
# A spreadsheet takes what begins with one of these for a formula (OWASP, CSV Injection).
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
_MEDIA: Final = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "text/csv": "csv",
    parquet.MEDIA_TYPE: "parquet",
}
_COLUMNS: Final = (
    "ordinal", "image", "custom_id", "file_name", "sha256", "bytes", "outcome", "label", "probability", "probabilities",
    "prediction_set", "reasons", "in_distribution", "blur", "exposure", "size", "flat", "duplicate_of",
    "model_id", "model_digest", "attempts", "finished_at", "use",
)  # fmt: skip
_CSV: Final = (
    ",".join(_COLUMNS) + "\r\n0,img_0192f0c1e5a07bd2a3c4d5e6f708192a,patient-7/photo-1,IMG_2041.jpg,9f86d0...,2481152,"
    "classified,mpox,0.93,mpox=0.93;other=0.07,mpox,,True,120.5,0.5,900,30.0,,demo-synthetic,9f86d0...,1,"
    "2027-01-31T12:00:00Z,research-only\r\n"
)


class ResultList(Shape):
    """A page of results: in order of completion while the job is open, by ordinal once it is closed."""

    job: str
    state: State
    results: list[ResultBody]
    next: str | None = Field(description="Cursor of what follows; while the job is open, of what is still to come")
    use: ResearchUse = USE


class ResultsQuery(Strict):
    """Which results, and in what form."""

    limit: Annotated[int, Field(ge=1, le=1000)] = Field(default=200, description="For JSON pages alone")
    cursor: Annotated[str, Field(max_length=64)] | None = Field(default=None, description="`next` of the page before")
    format: Literal["json", "ndjson", "csv", "parquet"] | None = Field(
        default=None, description="Goes before the Accept header"
    )
    links: LinkSeconds | None = Field(default=None, description=LINKS)


@api.get("/v1/jobs/<job>/results")
@operation(
    "Read results",
    {
        200: Answer(
            "The results there are now. JSON comes in pages; NDJSON, CSV and Parquet hold all of them.",
            {
                "application/json": ResultList,
                "application/x-ndjson": ResultBody,
                "text/csv": {"type": "string", "description": ", ".join(_COLUMNS), "examples": [_CSV]},
                parquet.MEDIA_TYPE: {"type": "string", "format": "binary", "description": parquet.DESCRIPTION},
            },
            (LINK,),
        )
    },
    tag="jobs",
    scope="jobs:read",
    query=ResultsQuery,
    problems=(NOT_FOUND, GONE, NOT_ACCEPTABLE, INVALID_OPTIONS, TOO_MANY_STREAMS),
)
def results(job: str) -> Response:
    """Return a page of results, or all of them as a stream."""
    query = read_query(ResultsQuery)
    form = query.format or _accepted()
    job_id = ids.parse("job", job)
    if query.cursor is not None and _CURSOR.fullmatch(query.cursor) is None:
        raise wrong("cursor", "is not one that this list gave out")
    if form == "json":
        return _page(job_id, query)
    if "limit" in query.model_fields_set:
        raise wrong("limit", f"is for JSON pages; {form} holds every result there is")
    if form == "csv" and query.links is not None:
        raise wrong("links", "is for the other formats; CSV holds no addresses")
    with services().database.transaction(caller().tenant_id) as session:
        view = history.job(session, job_id)
    rows = _all_rows(services().database, caller().tenant_id, view, query.cursor)
    answer = _stream(form, rows, link_addresses(query.links))
    answer.headers["Content-Disposition"] = f'attachment; filename="{job}.{form}"'
    answer.vary.add("Accept")
    return answer


def _stream(form: str, rows: Iterator[ResultView], address: Address | None) -> Response:
    url = services().settings.public_url
    if form == "parquet":
        return streamed(parquet.pieces(rows, url, address), parquet.MEDIA_TYPE)
    if form == "csv":
        return streamed(_csv(rows), "text/csv; charset=utf-8; header=present")
    return streamed(_ndjson(rows, url, address), "application/x-ndjson")


def _accepted() -> str:
    wanted = request.accept_mimetypes
    if not wanted:
        return "json"
    best = wanted.best_match(list(_MEDIA), default="")
    if not best:
        raise Problem(NOT_ACCEPTABLE, f"Results come as {', '.join(_MEDIA)}.", headers={"Vary": "Accept"})
    return _MEDIA[best]


def _page(job_id: UUID, query: ResultsQuery) -> Response:
    url = services().settings.public_url
    with services().database.transaction(caller().tenant_id) as session:
        view = history.job(session, job_id)
        page = history.results(session, view, after=query.cursor, limit=query.limit)
    address = link_addresses(query.links)
    body = ResultList(
        job=ids.text("job", view.id),
        state=view.state,  # type: ignore[arg-type]  # the database holds no other
        results=[result_body(row, url, address) for row in page.rows],
        next=page.next,
    )
    asked = {"limit": query.limit, "links": query.links, "cursor": page.next}
    headers = {"Link": next_link(url + request.path, **asked)} if page.next else {}
    return respond(body, headers={**headers, "Vary": "Accept"})


def _all_rows(database: Database, tenant: UUID, view: JobView, after: str | None) -> Iterator[ResultView]:
    """Return every result there is now, in short transactions: a slow reader must not hold a connection.

    A database that goes away in between is waited for; raises ``DatabaseAway`` where it stays away, and ``JobDeleted``
    where the job is deleted meanwhile.
    """
    while True:
        page = _patiently(database, tenant, view, after)
        yield from page.rows
        if len(page.rows) < _STREAMED or page.next is None:
            return
        after = page.next


def _patiently(database: Database, tenant: UUID, view: JobView, after: str | None) -> Page:
    for pause in (*_PAUSES, None):
        try:
            with database.transaction(tenant) as session:
                return history.results(session, view, after=after, limit=_STREAMED)
        except DatabaseAway:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _ndjson(rows: Iterable[ResultView], url: str, address: Address | None) -> Iterator[str]:
    try:
        for row in rows:
            yield result_body(row, url, address).model_dump_json() + "\n"
    except DatabaseAway:
        # Servers end a broken stream like a whole one, so its last line says that it is not.
        log.warning("results_cut_off")
        yield _last_line(url, DATABASE_AWAY, _CUT_OFF)
    except JobDeleted:
        yield _last_line(url, GONE, _DELETED)


def _last_line(url: str, kind: Kind, detail: str) -> str:
    return json.dumps({"type": f"{url}/problems/{kind.name}", "status": kind.status, "detail": detail}) + "\n"


def _csv(rows: Iterable[ResultView]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)

    def line(cells: Iterable[object]) -> str:
        writer.writerow(cells)
        written = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return written

    yield line(_COLUMNS)
    try:
        for row in rows:
            yield line(_cells(row))
    except DatabaseAway:
        log.warning("results_cut_off")
        yield line([_CUT_OFF])
    except JobDeleted:
        yield line([_DELETED])


def _cells(row: ResultView) -> list[object]:
    answer = row.answer or {}
    probabilities = answer.get("probabilities") or {}
    quality = answer.get("quality") or {}
    return [
        row.ordinal,
        ids.text("image", row.image_id),
        safe(row.custom_id),
        safe(row.client_name),
        row.sha256,
        row.bytes,
        row.outcome,
        safe(row.label),
        probabilities.get(row.label, ""),
        safe(";".join(f"{label}={value}" for label, value in probabilities.items())),
        safe(";".join(answer.get("prediction_set") or ())),
        safe(";".join(row.reasons)),
        answer.get("in_distribution", ""),
        quality.get("blur", ""),
        quality.get("exposure", ""),
        int(quality["size"]) if "size" in quality else "",  # pixels
        quality.get("flat", ""),
        ids.text("image", row.duplicate_of) if row.duplicate_of else "",
        safe(row.model_id),
        row.model_digest or "",
        row.attempts,
        row.finished_at.isoformat().replace("+00:00", "Z") if row.finished_at else "",
        USE,
    ]


def safe(text: str | None) -> str:
    """Return text that no spreadsheet takes for a formula: an apostrophe goes before what could be one."""
    value = text or ""
    return "'" + value if value.lstrip(" ").startswith(_FORMULA) else value
