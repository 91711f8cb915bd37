"""How fast a job goes, and when its last photo should have its outcome.

Not by the job's own pace: who else is served meanwhile, and how long, is in the tags that the fair queue gave out. All
photos with a smaller tag than the job's last unit, whoever sent them, are answered before it, at the workers' rate.
What is sent later can still come first, so a job may take longer than was said; it learns of it within seconds.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from shared.ledger import backlog
from shared.views import JobView

_FURTHEST: Final = 30 * 86_400.0


def outlook(session: Session, view: JobView, now: datetime | None = None) -> tuple[float | None, datetime | None]:
    """Return the job's images per second, and when it should close; None where nobody can say."""
    moment = now or datetime.now(UTC)
    pace = _pace(view, moment)
    if view.is_closed or view.state == "receiving":
        return pace, None  # nobody knows how many photos are still to come
    seconds = _left(session, view, moment)
    return pace, None if seconds is None else moment + timedelta(seconds=min(seconds, _FURTHEST))


def _left(session: Session, view: JobView, moment: datetime) -> float | None:
    """Return how many seconds the open job should still take."""
    found = backlog.look(session)
    if found is None or found.rate is None:
        return None
    tag, pause = backlog.last_unit(session, view.id)
    photos = found.before(float("-inf") if tag is None else tag)
    if (moment - view.created_at).total_seconds() < found.age:
        photos += view.remaining  # it came after the count
    # Since the count, work went on; but no job is done before its own photos are.
    at_least = 0.0 if tag is None else view.remaining / found.rate
    return max(photos / found.rate - found.age, at_least, pause)


def _pace(view: JobView, moment: datetime) -> float | None:
    # A job that was retried has rested in between: its times say nothing of its pace.
    if view.started_at is None or view.round:
        return None
    seconds = ((view.closed_at or moment) - view.started_at).total_seconds()
    finished = view.total - view.remaining
    return finished / seconds if seconds > 0 and finished else None
