"""Finding jobs: the list of a tenant's jobs, newest first, and which of them fit what somebody looks for.

The plan, so that a search stays fast however long the history is. Without conditions a page is one range of the key.
With conditions a page looks through the ``LOOKED_AT`` newest jobs behind its cursor and through no more; where that is
not enough for a whole page, its cursor goes on from the last job looked at. Each job is asked by itself, with a LIMIT
of one row, whether one of its photos fits: a range of ``ix_image_client_name``, ``uq_image_custom_id`` or
``ix_result_scheme``, all of which begin with the job. So a search costs at most ``LOOKED_AT`` times a few probes of an
index, and never reads all photos. What a photo is called is compared from its beginning, because row-level security
lets an index serve leakproof operators alone (``^@`` is one, ``LIKE`` is none).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from shared.history import job_view
from shared.tables import AnswerScheme, Image, Job, Result
from shared.views import JobView

LOOKED_AT: Final = 10_000
# A job's id is made before its body is read, its time when it is written, by another clock.
_CLOCKS_DIFFER: Final = timedelta(hours=1)
_LONGEST_BODY: Final = timedelta(days=7)
_JOB_ID: Final = re.compile(r"(?:job_([0-9a-f]{1,32})|([0-9a-f]{8,32}))")
_IMAGE_ID: Final = re.compile(r"img_([0-9a-f]{32})")
_HEX_DIGITS: Final = 32
_TIME_BITS: Final = 48


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a job must fulfil, all of it; None asks for nothing.

    ``text`` is what the name or the ``custom_id`` of one of its photos begins with (as written, in capitals or in small
    letters), what its id begins with, the id of one of its photos, or part of a value of its metadata. ``model`` is the
    id of the model that was asked for or that gave one of its answers. ``created_before`` itself is excluded.
    """

    state: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    text: str | None = None
    key_id: UUID | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, newest first, and behind which job the rest follows; a page of a search may hold fewer than asked."""

    jobs: list[JobView]
    next: UUID | None


def find(session: Session, wanted: Wanted, *, after: UUID | None = None, limit: int = 50) -> JobPage:
    """Return the newest jobs of the session's tenant that fit, beginning behind the job ``after``."""
    if wanted == Wanted():
        query = _range(wanted, after).where(Job.deleted_at.is_(None)).limit(limit + 1)
        return _page(session, query, limit)
    looked = aliased(Job, _range(wanted, after).limit(LOOKED_AT).subquery())
    query = sa.select(looked).where(looked.deleted_at.is_(None), *_conditions(session, looked, wanted))
    found = _page(session, query.order_by(looked.id.desc()).limit(limit + 1), limit)
    if found.next is not None:
        return found
    # Deleted jobs stay as rows, so that nothing can move out of the range between the two looks and be passed over.
    ids = _range(wanted, after).with_only_columns(Job.id)
    return JobPage(found.jobs, session.scalar(ids.offset(LOOKED_AT - 1).limit(1)))


def _page(session: Session, query: sa.Select[Job], limit: int) -> JobPage:
    rows = session.scalars(query).all()
    views = [job_view(row) for row in rows[:limit]]
    return JobPage(views, views[-1].id if len(rows) > limit else None)


def _range(wanted: Wanted, after: UUID | None) -> sa.Select[Job]:
    """Return the jobs to look through, newest first: ids hold the time, so that old jobs are found without a detour."""
    query = sa.select(Job).order_by(Job.id.desc())
    if after is not None:
        query = query.where(Job.id < after)
    if wanted.created_before is not None:
        query = query.where(Job.id < _earliest_id(wanted.created_before, _CLOCKS_DIFFER))
    if wanted.created_after is not None:
        query = query.where(Job.id >= _earliest_id(wanted.created_after, -_LONGEST_BODY))
    return query


def _conditions(session: Session, job: type[Job], wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.state is not None:
        found.append(job.state == wanted.state)
    if wanted.key_id is not None:
        found.append(job.key_id == wanted.key_id)
    if wanted.created_after is not None:
        found.append(job.created_at >= wanted.created_after)
    if wanted.created_before is not None:
        found.append(job.created_at < wanted.created_before)
    if wanted.model is not None:
        schemes = session.scalars(sa.select(AnswerScheme.id).where(AnswerScheme.model_id == wanted.model)).all()
        found.append(_answered_by(job, wanted.model, schemes))
    if wanted.text is not None:
        found.append(_mentions(job, wanted.text))
    return found


def _answered_by(job: type[Job], model: str, schemes: Sequence[UUID]) -> sa.ColumnElement[bool]:
    answer = sa.select(sa.true()).where(Result.job_id == job.id, Result.scheme_id.in_(schemes))
    return sa.or_(job.model == model, _one(answer.order_by(Result.scheme_id)))


def _mentions(job: type[Job], text: str) -> sa.ColumnElement[bool]:
    value = sa.func.jsonb_each_text(job.details["metadata"]).table_valued("key", "value")
    told = sa.select(sa.true()).where(sa.func.strpos(sa.func.lower(value.c.value), text.lower()) > 0)
    ways = [_one(told.select_from(value))]
    for written in dict.fromkeys((text, text.lower(), text.upper())):
        ways += [_one(_named(job, column, written)) for column in ("client_name", "custom_id")]
    if matched := _JOB_ID.fullmatch(text):
        digits = matched[1] or matched[2]
        lowest, highest = UUID(digits.ljust(_HEX_DIGITS, "0")), UUID(digits.ljust(_HEX_DIGITS, "f"))
        ways.append(job.id.between(lowest, highest))
    if matched := _IMAGE_ID.fullmatch(text):
        ways.append(job.id == sa.select(Image.job_id).where(Image.id == UUID(matched[1])).scalar_subquery())
    return sa.or_(*ways)


def _named(job: type[Job], column: str, beginning: str) -> sa.Select[bool]:
    query = sa.select(sa.true()).where(Image.job_id == job.id, getattr(Image, column).op("^@")(beginning))
    return query.order_by(sa.text(f"image.{column} USING ~<~"))


def _one(query: sa.Select[bool]) -> sa.ColumnElement[bool]:
    """Ask each job for its first row: of an EXISTS the planner could make one hash of all photos.

    The order of the query is that of the index which is meant: where many fit, the planner would take any other index
    of the job, hoping to meet one soon, and read all photos of a job that has none.
    """
    return query.limit(1).scalar_subquery().is_not(None)


def _earliest_id(moment: datetime, slack: timedelta) -> UUID:
    """Return the smallest UUIDv7 (RFC 9562) of that moment, put off by the slack."""
    milliseconds = int((moment.timestamp() + slack.total_seconds()) * 1000)
    return UUID(int=min(max(milliseconds, 0), 2**_TIME_BITS - 1) << (128 - _TIME_BITS))
