"""A job as ``/v1/jobs`` tells of it, read in the tenant's name."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from shared import history
from shared.views import JobView
from web.auth import caller
from web.outlook import outlooks
from web.services import services
from web.wire import JobBody, job_body


def load(job_id: UUID) -> JobView:
    """Read a job in a transaction of its own; raises ``NotFound`` and ``JobDeleted``."""
    with services().database.transaction(caller().tenant_id) as session:
        return history.job(session, job_id)


def told(session: Session, view: JobView) -> JobBody:
    """Return what the API says of a job, with how fast it goes and when it should close."""
    return told_of_all(session, [view])[0]


def told_of_all(session: Session, views: Sequence[JobView]) -> list[JobBody]:
    """Return what the API says of each job."""
    public_url = services().settings.public_url
    found = zip(views, outlooks(session, views), strict=True)
    return [job_body(view, public_url, rate=rate, eta=eta) for view, (rate, eta) in found]
