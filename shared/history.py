"""Reading: jobs, results and manifests as the API and the pages show them. Nothing here writes.

Lists page by keyset. Results of an open job come in the order of the transactions that wrote them, and only those
older than every transaction still running, so that nothing can appear behind a reader's cursor; results of a closed
job come by ordinal.
"""

import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from shared.answers import scheme
from shared.errors import NotFound, Refused
from shared.prepared import Prepared, array
from shared.tables import AnswerScheme, Image, Job, Result, WorkerNode
from shared.views import JobDeleted, JobView, ManifestRow, Page, ResultView, Tombstone
from shared.vocabulary import OUTCOMES

_STREAM_ROWS = 500
# Of milliseconds; a real holds them up to two minutes, and no more are measured.
_MS_DIGITS = 2
_CURSOR = re.compile(r"o([0-9]{1,9})|w([0-9]{1,19})-([0-9a-f]{32})")
# The cursor before the first result of an open job.
_BEGINNING = f"w0-{UUID(int=0).hex}"


class BadCursor(Refused):
    """The cursor is not one that this list gave out."""


def job(session: Session, job_id: UUID) -> JobView:
    """Return one job of the session's tenant; raises ``NotFound``, or ``JobDeleted`` with what is left of it."""
    row = session.get(Job, job_id, populate_existing=True)
    if row is None:
        raise NotFound("there is no such job")
    if row.deleted_at is not None:
        raise JobDeleted(Tombstone(job_view(row), row.deleted_at, row.purged_at))
    return job_view(row)


def jobs(session: Session, job_ids: Collection[UUID]) -> dict[UUID, JobView]:
    """Return those of these jobs of the session's tenant that are there, and not deleted."""
    rows = session.scalars(sa.select(Job).where(Job.id.in_(job_ids), Job.deleted_at.is_(None)))
    return {row.id: job_view(row) for row in rows}


def answers_of_one(session: Session, job_ids: Collection[UUID]) -> dict[UUID, ResultView]:
    """Return the answers of those of these jobs that have closed, by job, as far as they are jobs of one photo."""
    rows = _answers_of_one().run(session, {"jobs": array(job_id.hex for job_id in job_ids)})
    return {row.job_id: _result_view(row) for row in rows}


def image(session: Session, image_id: UUID) -> ResultView:
    """Return one image of the session's tenant with its outcome, if it has one; raises ``NotFound``."""
    row = session.execute(_rows(outer=True).where(Image.id == image_id)).one_or_none()
    if row is None:
        raise NotFound("there is no such image")
    return _result_view(row)


def results(session: Session, view: JobView, *, after: str | None = None, limit: int = 200) -> Page:
    """Return a page of the job's results behind the cursor ``after``.

    While the job is open there is always a next cursor, though nothing may stand behind it yet. A cursor stays good
    when the job closes: what it has not shown yet follows in the order of completion.

    Raises ``JobDeleted`` where the job was deleted before the rows were read: too few would look like all there are.
    """
    # The job is named on both sides: the index of results begins with it, and the planner infers nothing across a join.
    query = _rows(outer=False).where(Image.job_id == view.id, Result.job_id == view.id).limit(limit + 1)
    place = _place(after)
    by_ordinal = view.is_closed if place is None else isinstance(place, int)
    if by_ordinal:
        query = query.order_by(Image.ordinal)
        if place is not None:
            query = query.where(Image.ordinal > place)
    else:
        query = query.order_by(Result.written_in, Result.image_id)
        if not view.is_closed:
            query = query.where(sa.text("result.written_in < pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))
        if place is not None:
            query = query.where(sa.tuple_(Result.written_in, Result.image_id) > place)
    found = session.execute(query).all()
    job(session, view.id)
    rows = found[:limit]
    if len(found) <= limit and view.is_closed:
        return Page([_result_view(row) for row in rows], None)
    if not rows:
        return Page([], after or _BEGINNING)
    last_row = rows[-1]
    cursor = f"o{last_row.ordinal}" if by_ordinal else f"w{last_row.written_in}-{last_row.image_id.hex}"
    return Page([_result_view(row) for row in rows], cursor)


def stream_results(session: Session, view: JobView) -> Iterator[ResultView]:
    """Return every result the job has now, by ordinal, through a cursor on the server."""
    query = _rows(outer=False).where(Image.job_id == view.id).order_by(Image.ordinal)
    for row in session.execute(query.execution_options(yield_per=_STREAM_ROWS)):
        yield _result_view(row)


def manifest(session: Session, job_id: UUID) -> Iterator[ManifestRow]:
    """Return what a receipt says of each image of the job, by ordinal; nothing at all of a job that was deleted."""
    query = (
        sa.select(Image.ordinal, Image.client_name, Image.sha256, Image.id, Result.outcome)
        .join(Result, Result.image_id == Image.id, isouter=True)
        .where(Image.job_id == job_id)
        .order_by(Image.ordinal)
    )
    for ordinal, name, sha256, image_id, outcome in session.execute(query.execution_options(yield_per=_STREAM_ROWS)):
        yield ManifestRow(ordinal, name, bytes(sha256).hex(), image_id, outcome)


def workers(session: Session) -> list[WorkerNode]:
    """Return the workers that reported themselves within the last 30 seconds."""
    recent = sa.func.now() - sa.text("interval '30 seconds'")
    return list(session.scalars(sa.select(WorkerNode).where(WorkerNode.last_seen > recent).order_by(WorkerNode.name)))


def job_view(row: Job) -> JobView:
    """Return a row of the table as readers get it."""
    counts = {outcome: getattr(row, outcome) for outcome in OUTCOMES} | {"waiting": row.remaining}
    return JobView(
        id=row.id,
        tenant_id=row.tenant_id,
        key_id=row.key_id,
        state=row.state,
        lane=row.lane,
        round=row.round,
        total=row.total,
        remaining=row.remaining,
        counts=counts,
        model=row.model,
        deadline=row.deadline,
        max_failure_rate=row.max_failure_rate,
        keep_originals=row.keep_originals,
        details=row.details,
        created_at=row.created_at,
        started_at=row.started_at,
        closed_at=row.closed_at,
        originals_deleted_at=row.originals_deleted_at,
        receipt_digest=row.receipt_digest,
    )


def _rows(*, outer: bool) -> sa.Select[*tuple[Any, ...]]:
    query: sa.Select[*tuple[Any, ...]] = sa.select(
        Image.id.label("image_id"),
        Image.job_id,
        Image.ordinal,
        Image.client_name,
        Image.custom_id,
        Image.storage_key,
        Image.sha256,
        Image.bytes,
        Image.duplicate_of,
        Result.outcome,
        Result.label,
        Result.numbers,
        Result.reasons,
        AnswerScheme.model_id,
        AnswerScheme.model_digest,
        AnswerScheme.labels,
        AnswerScheme.thresholds,
        AnswerScheme.quality,
        Result.attempts,
        Result.has_copy,
        Result.decode_ms,
        Result.network_ms,
        Result.finished_at,
        Result.written_in,
    )
    return query.join(Result, Result.image_id == Image.id, isouter=outer).join(
        AnswerScheme, AnswerScheme.id == Result.scheme_id, isouter=True
    )


@cache
def _answers_of_one() -> Prepared:
    """Asked several times for each photo that somebody waits for. Both sides name the job, as in ``results``."""
    asked = sa.text(r"job.id = ANY (\:jobs) AND result.job_id = job.id AND job.closed_at IS NOT NULL AND job.total = 1")
    query = _rows(outer=False).join(Job, Job.id == Image.job_id).where(asked)
    dialect: Any = postgresql.dialect
    return Prepared(str(query.compile(dialect=dialect())), {"jobs": "uuid[]"})


def _result_view(row: Any) -> ResultView:
    return ResultView(
        image_id=row.image_id,
        job_id=row.job_id,
        ordinal=row.ordinal,
        client_name=row.client_name,
        custom_id=row.custom_id,
        storage_key=row.storage_key,
        sha256=bytes(row.sha256).hex(),
        bytes=row.bytes,
        duplicate_of=row.duplicate_of,
        outcome=row.outcome,
        label=row.label,
        answer=_answer(row),
        reasons=tuple(row.reasons or ()),
        model_id=row.model_id,
        model_digest=row.model_digest,
        attempts=row.attempts or 0,
        has_copy=bool(row.has_copy),
        timings=_timings(row),
        finished_at=row.finished_at,
    )


def _answer(row: Any) -> dict[str, Any] | None:
    if row.numbers is None:
        return None
    thresholds = tuple(zip(row.labels, row.thresholds, strict=True))
    return scheme(row.model_id, row.model_digest, thresholds, tuple(row.quality)).unpack(bytes(row.numbers))


def _timings(row: Any) -> dict[str, float] | None:
    found = {"decode_ms": row.decode_ms, "network_ms": row.network_ms}
    return {name: round(ms, _MS_DIGITS) for name, ms in found.items() if ms is not None} or None


def _place(cursor: str | None) -> int | tuple[int, UUID] | None:
    """Return where a cursor stands: behind an ordinal, or behind a result of a writing transaction."""
    if cursor is None:
        return None
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise BadCursor("the cursor is not one that this list gave out")
    ordinal, written, image = found.groups()
    return int(ordinal) if ordinal else (int(written), UUID(hex=image))
