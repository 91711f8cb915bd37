"""A job as ``/v1/jobs`` tells of it, read in the tenant's name."""

from uuid import UUID

from sqlalchemy.orm import Session

from shared import history, ids
from shared.views import JobView
from web.auth import caller
from web.outlook import outlook
from web.services import services
from web.wire import JobBody, job_body


def load(job_id: UUID) -> JobView:
    """Read a job in a transaction of its own; raises ``NotFound`` and ``JobDeleted``."""
    with services().database.transaction(caller().tenant_id) as session:
        return history.job(session, job_id)


def told(session: Session, view: JobView) -> JobBody:
    """Return what the API says of a job, with how fast it goes and when it should close."""
    rate, eta = outlook(session, view)
    return job_body(view, services().settings.public_url, rate=rate, eta=eta)


def address(view: JobView) -> str:
    """Return where the job is read."""
    return f"{services().settings.public_url}/v1/jobs/{ids.text('job', view.id)}"
