"""How fast a job goes, and when its last photo should have its outcome."""

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from shared import history
from shared.views import JobView

# Below this many photos the measured rate says more about the start than about the rest.
_TELLING: Final = 16
_FURTHEST: Final = 30 * 86_400.0


def outlook(session: Session, view: JobView, now: datetime | None = None) -> tuple[float | None, datetime | None]:
    """Return the job's images per second, and when it should close; None where nobody can say.

    A job under way is judged by its own pace, one that just began or still queues by what the workers report.
    """
    moment = now or datetime.now(UTC)
    pace = _pace(view, moment)
    if view.is_closed:
        return pace, None
    if pace is not None and view.total - view.remaining >= _TELLING:
        return pace, _after(moment, view.remaining / pace)
    offered = sum(node.images_per_second or 0.0 for node in history.workers(session))
    if offered <= 0:
        return pace, None
    return pace, _after(moment, view.remaining / offered)


def _pace(view: JobView, moment: datetime) -> float | None:
    # A job that was retried has rested in between: its times say nothing of its pace.
    if view.started_at is None or view.round:
        return None
    seconds = ((view.closed_at or moment) - view.started_at).total_seconds()
    finished = view.total - view.remaining
    return finished / seconds if seconds > 0 and finished else None


def _after(moment: datetime, seconds: float) -> datetime:
    return moment + timedelta(seconds=min(seconds, _FURTHEST))
