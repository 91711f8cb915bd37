"""What can still be done to a job: cancelling it, trying its failed photos again, deleting it."""

from uuid import UUID

from flask import Blueprint, Response, request
from sqlalchemy.orm import Session

from shared import history, ids, receipts
from shared.errors import Conflict, Gone
from shared.ledger.cancel import cancel as cancel_job
from shared.ledger.deletion import delete as delete_job
from shared.ledger.deletion import hold_closed
from shared.ledger.retry import WHEN, failed_photos
from shared.ledger.retry import retry as retry_job
from shared.storage.keys import originals_of
from web.api.job_view import told
from web.asking import NoQuery, read_query
from web.auth import caller
from web.intake import fingerprint
from web.intake.pressure import admit
from web.operations import IDEMPOTENCY_KEY, REPLAYED, Answer, operation
from web.problems import CONFLICT, GONE, NOT_FOUND, SERVICE_FULL, STORAGE_AWAY, TENANT_FULL
from web.replay import perform
from web.services import services
from web.wire import JobBody

api = Blueprint("job_changes", __name__)


@api.post("/v1/jobs/<job>/cancel")
@operation(
    "Cancel a job",
    {200: Answer("The job; finished photos keep their result.", {"application/json": JobBody}, (REPLAYED,))},
    tag="jobs",
    scope="jobs:write",
    query=NoQuery,
    headers=(IDEMPOTENCY_KEY,),
    problems=(NOT_FOUND, GONE, CONFLICT),
)
def cancel(job: str) -> Response:
    """Cancel a job. Cancelling twice is no error."""
    read_query(NoQuery)
    job_id = ids.parse("job", job)
    tenant = caller().tenant_id

    def act(session: Session) -> JobBody:
        history.job(session, job_id)
        cancel_job(session, tenant, job_id)
        view = history.job(session, job_id)
        return told(session, view)

    return perform(fingerprint.of_request("POST", request.path, {}), JobBody, act)


@api.post("/v1/jobs/<job>/retry")
@operation(
    "Try failed photos again",
    {200: Answer("The job, open again in a new round.", {"application/json": JobBody}, (REPLAYED,))},
    tag="jobs",
    scope="jobs:write",
    description="Only for a closed job with failed photos whose originals are still kept; every other photo keeps its "
    "answer. It closes again with another event and with a receipt that names the one before. A deadline that has "
    "passed, and the failure rate of a job that was stopped by it, do not hold for the new round. It is turned "
    "away while too much waits, as a new job is.",
    query=NoQuery,
    headers=(IDEMPOTENCY_KEY,),
    problems=(NOT_FOUND, GONE, CONFLICT, STORAGE_AWAY, TENANT_FULL, SERVICE_FULL),
)
def retry(job: str) -> Response:
    """Try the failed photos of a closed job again."""
    read_query(NoQuery)
    job_id = ids.parse("job", job)
    tenant, weight = caller().tenant_id, caller().weight
    lanes: list[str] = []
    kept: set[str] = set()

    def look() -> None:
        with services().database.transaction(tenant) as session:
            view = history.job(session, job_id)
            failed = failed_photos(session, job_id)
        if failed and view.is_closed:
            # What is tried again waits with everything else.
            admit(services(), caller(), view.lane)
            kept.update(item.key for item in services().storage.list(originals_of(job_id)))

    def act(session: Session) -> JobBody:
        _hold(session, tenant, job_id, WHEN)
        failed = failed_photos(session, job_id)
        ordinals = [photo.ordinal for photo in failed if photo.storage_key in kept]
        if failed and not ordinals:
            raise Conflict("the originals of the failed photos are gone; send them as a new job")
        receipt = _receipt_digest(session, job_id)
        lanes.append(retry_job(session, tenant, job_id, ordinals, receipt=receipt, weight=weight))
        view = history.job(session, job_id)
        return told(session, view)

    answer = perform(fingerprint.of_request("POST", request.path, {}), JobBody, act, before=look)
    if lanes:
        services().broker.wake(lanes)
    return answer


@api.delete("/v1/jobs/<job>")
@operation(
    "Delete a job",
    {204: Answer("It is gone: its photos' rows and answers at once, what lies in the storage soon after.")},
    tag="jobs",
    scope="jobs:write",
    description="Only a closed job can be deleted. What is left is its tombstone, which every later question about the "
    "job is answered with (410).",
    query=NoQuery,
    problems=(NOT_FOUND, GONE, CONFLICT),
)
def delete(job: str) -> Response:
    """Delete a closed job."""
    read_query(NoQuery)
    job_id = ids.parse("job", job)
    tenant = caller().tenant_id
    with services().database.transaction(tenant) as session:
        _hold(session, tenant, job_id, "cancel it first, then delete it")
        delete_job(session, tenant, job_id, _receipt_digest(session, job_id))
    return Response(status=204)


def _hold(session: Session, tenant: UUID, job_id: UUID, wish: str) -> None:
    """Lock a closed job; raises ``Conflict`` while it is open, ``NotFound``, or ``JobDeleted`` with its tombstone."""
    history.job(session, job_id)
    try:
        hold_closed(session, tenant, job_id, wish)
    except Gone:
        history.job(session, job_id)  # somebody was faster, and this says so with the tombstone
        raise


def _receipt_digest(session: Session, job_id: UUID) -> str:
    """Return the digest of the closed receipt of a job that the transaction holds."""
    view = history.job(session, job_id)
    return receipts.closed_digest(view, history.manifest(session, job_id), view.receipt_digest)
