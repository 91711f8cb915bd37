"""How fast a job goes, and when its last photo should have its outcome.

Not by the job's own pace: who else is served meanwhile, and how long, is in the tags that the fair queue gave out. All
photos with a smaller tag than the job's last unit, whoever sent them, are answered before it, at the workers' rate.
What is sent later can still come first, so a job may take longer than was said; it learns of it within seconds.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from shared.ledger import backlog
from shared.ledger.backlog import Backlog
from shared.ledger.submit import Submitted
from shared.views import JobView

_FURTHEST: Final = 30 * 86_400.0
_WORK: Final = ("classified", "abstained", "rejected", "failed")


def outlooks(
    session: Session, views: Sequence[JobView], now: datetime | None = None
) -> list[tuple[float | None, datetime | None]]:
    """Return of each job its images per second, and when it should close; None where nobody can say.

    That takes two looks at the database, however many jobs they are.
    """
    moment = now or datetime.now(UTC)
    # Of a job that is still received nobody knows how many photos are to come.
    unsettled = [view for view in views if not view.is_closed and view.state != "receiving"]
    found = backlog.look(session) if unsettled else None
    ends: dict[UUID, datetime] = {}
    if found is not None and found.rate is not None:
        last = backlog.last_units(session, [view.id for view in unsettled])
        for view in unsettled:
            seconds = _left(found, found.rate, view, moment, *last.get(view.id, (None, 0.0)))
            ends[view.id] = moment + timedelta(seconds=min(seconds, _FURTHEST))
    return [(_pace(view, moment), ends.get(view.id)) for view in views]


def end_of_new(found: Backlog | None, taken: Submitted) -> datetime | None:
    """Return when a job that was just taken in should close; asks nobody."""
    if found is None or found.rate is None:
        return None
    moment = taken.view.created_at
    return moment + timedelta(seconds=min(_left(found, found.rate, taken.view, moment, taken.last_tag, 0.0), _FURTHEST))


def _left(  # noqa: PLR0917 - one row of what is known
    found: Backlog, rate: float, view: JobView, moment: datetime, tag: float | None, pause: float
) -> float:
    """Return how many seconds the open job should still take."""
    photos = found.before(float("-inf") if tag is None else tag)
    if (moment - view.created_at).total_seconds() < found.age:
        photos += view.remaining  # it came after the count
    # Since the count, work went on; but no job is done before its own photos are.
    at_least = 0.0 if tag is None else view.remaining / rate
    return max(photos / rate - found.age, at_least, pause)


def _pace(view: JobView, moment: datetime) -> float | None:
    # A job that was retried has rested in between: its times say nothing of its pace.
    if view.started_at is None or view.round:
        return None
    seconds = ((view.closed_at or moment) - view.started_at).total_seconds()
    # What was cancelled or ran out of time took none.
    worked_off = sum(view.counts[outcome] for outcome in _WORK)
    return worked_off / seconds if seconds > 0 and worked_off else None
