"""From a request to a job: the order of steps that keeps every photo accounted for.

1. The Idempotency-Key is put in flight, in a transaction of its own, before the body is read; where too much waits
   already, nothing is read at all (``pressure.py``).
2. Bytes go into storage as they come, hashed on the way; options are checked as soon as they are there.
3. The photos are made durable.
4. One transaction writes job, images, units, the event, a one-off webhook and the key's answer.
5. After the commit a worker is woken, at best effort; the sweep finds what nobody was woken for.

Whatever fails before the commit leaves nothing: objects are deleted, the key is freed. Where the answer to COMMIT
itself is lost, nobody knows whether the job is there: it is looked up, and if that fails too the photos stay, since
objects without a row are swept later and rows without an object would be a promise broken.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session
from werkzeug import Request

from shared import history, ids, signing, webhooks
from shared.accounts import Caller
from shared.announcing import Announced
from shared.crash_points import passing
from shared.database import new_id
from shared.errors import DatabaseAway, Gone, NotFound, Refused
from shared.ledger.backlog import Backlog
from shared.ledger.receiving import Archive, receive
from shared.ledger.submit import NewImage, NewJob, default_lane, submit
from shared.logs import logger
from shared.registry import records
from shared.views import JobView
from web.asking import idempotency_key, preferred_wait, read_query, wrong
from web.auth import require
from web.intake import fingerprint, pressure
from web.intake.arrival import Arrival, check_length, check_type
from web.intake.body import Body
from web.intake.listed import wrong_option
from web.intake.options import JobOptions, OneOffWebhook, QueryOptions
from web.intake.reception import Reception
from web.outlook import end_of_new
from web.places import Place
from web.problems import (
    INVALID_OPTIONS,
    UNKNOWN_MODEL,
    Kind,
    Problem,
)
from web.replay import Once
from web.services import Services
from web.wire import JobBody, OneOffEndpoint, job_body

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job taken in; ``replayed`` where an earlier request with the same key had done it."""

    job: JobBody
    replayed: bool


def accept(services: Services, caller: Caller, request: Request, place: Place) -> Accepted:
    """Take in the job of a ``POST /v1/jobs``.

    Raises ``Problem`` for everything the request itself has wrong, ``InFlight``, ``TakenOver``, ``DatabaseAway`` and
    ``StorageAway``; nothing is left then.
    """
    body = Body(request.environ, services.settings.max_request_bytes, place)
    given = read_query(QueryOptions)
    check_type(request)
    check_length(request, body)
    once = Once(services, caller, idempotency_key())
    body.on_piece = once.stay_alive
    submission = _Submission(services, caller, once)
    assumed = pressure.likely_lane(request, given.priority, services.settings.max_photo_bytes)
    try:
        if not once.is_answered:
            pressure.admit(services, caller, assumed)
        options = submission.receive(request, body, given)
        if once.is_answered:
            stored = once.stored(submission.fingerprint(options))
            return Accepted(JobBody.model_validate(stored.body), replayed=True)
        pressure.admit_after_all(services, caller, assumed, submission.lane(options))
        return Accepted(submission.commit(options), replayed=False)
    except BaseException:
        if submission.may_clean_up:
            submission.reception.discard()
            once.forget()
        raise


class _Submission:
    """One request on its way to becoming a job."""

    def __init__(self, services: Services, caller: Caller, once: Once) -> None:
        self._services, self._caller, self._once = services, caller, once
        self._job_id = new_id()
        # False from the moment COMMIT may have reached the database.
        self.may_clean_up = True
        self.reception = Reception(
            services.storage,
            self._job_id,
            max_photos=services.settings.max_photos,
            max_photo_bytes=services.settings.max_photo_bytes,
            keep=not once.is_answered,
        )
        self._arrival = Arrival(self.reception, services.settings)

    def receive(self, request: Request, body: Body, given: QueryOptions) -> JobOptions:
        """Read the whole body and return the options, checked against it; raises ``Problem`` and ``StorageAway``."""
        options = self._arrival.read(request, body, given)
        # What was fine when the first request came is fine for its replay.
        if not self._once.is_answered:
            self._check_present(options)
        return options

    def commit(self, options: JobOptions) -> JobBody:
        """Make the photos durable and write the job; raises ``StorageAway``, ``DatabaseAway`` and ``TakenOver``."""
        self._announce()
        self.reception.settle()
        passing("web.stored")
        job = self._new_job(options)
        # Before the transaction: a request that asked for a second connection within it could wait for itself.
        waiting = self._services.gauge.read()
        try:
            with self._services.database.transaction(self._caller.tenant_id) as session:
                answer = self._write(session, job, options, waiting)
                self.may_clean_up = False
                passing("web.written")
        except DatabaseAway:
            if self.may_clean_up or not _is_there(self._services, self._caller.tenant_id, self._job_id):
                raise
        passing("web.committed")
        # What workers log of the job leads from here to the request.
        log.info("job_accepted", job=str(self._job_id), lane=job.lane, photos=len(job.images))
        self._services.broker.wake([job.lane])
        passing("web.woken")
        return answer

    def _announce(self) -> None:
        """Let a worker begin with a lone photo that somebody waits for, if nobody else keeps it busy."""
        here, photos = self._services, self.reception.photos
        if len(photos) != 1 or self._arrival.addresses or here.waiting.taken or not preferred_wait(1):
            return
        [photo] = photos
        here.announcing.tell(Announced(photo.storage_key, photo.size, photo.sha256))

    def _check_present(self, options: JobOptions) -> None:
        """Raise where an option does not fit the time, the model or the network as they are now."""
        if options.deadline is not None and options.deadline <= datetime.now(UTC):
            raise self._wrong("has passed already", "deadline")
        if options.model is not None and not self._is_served(options.model):
            raise self._wrong("is not served; see /v1/models", "model", kind=UNKNOWN_MODEL)
        if options.webhook is not None:
            self._check_webhook(options.webhook)

    def _is_served(self, model: str) -> bool:
        with self._services.database.transaction(self._caller.tenant_id) as session:
            if records.digest_of(session, model) is not None:
                return True
        return self._services.model.bundle().id == model

    def _check_webhook(self, webhook: OneOffWebhook) -> None:
        if webhook.detail == "full":
            require(self._caller, "jobs:read", "A webhook that tells answers")
        try:
            webhooks.check_url(webhook.url, self._services.settings.webhook_loopback)
        except Refused as error:
            raise self._wrong(str(error), "webhook", "url") from None
        try:
            if webhook.secret is not None:
                signing.secret_bytes(webhook.secret)
        except Refused as error:
            raise self._wrong(str(error), "webhook", "secret") from None

    def _wrong(self, detail: str, *path: str, kind: Kind = INVALID_OPTIONS) -> Problem:
        """Return the problem of one wrong option, told by the place where it was given."""
        return wrong(path[0], detail, kind) if self._arrival.is_in_query else wrong_option(detail, *path, kind=kind)

    def lane(self, options: JobOptions) -> str:
        """Return the lane of the job. Nobody has counted an archive's photos yet."""
        if options.priority is not None:
            return options.priority
        if self.reception.archive:
            return "bulk"
        return default_lane(len(self.reception.photos) + len(self._arrival.addresses))

    def fingerprint(self, options: JobOptions) -> bytes:
        """Return what makes this request the same as another."""
        return fingerprint.of_job(
            self.reception.photos,
            options.canonical(),
            archive=self.reception.archive,
            addresses=([each.ordinal, each.url, each.client_name] for each in self._arrival.addresses),
        )

    def _new_job(self, options: JobOptions) -> NewJob:
        custom_ids = dict(enumerate(photo.custom_id for photo in options.photos))
        images = [
            NewImage(
                new_id(),
                photo.ordinal,
                photo.name,
                custom_ids.get(photo.ordinal),
                photo.storage_key,
                photo.sha256,
                photo.size,
            )
            for photo in self.reception.photos
        ]
        details: Mapping[str, Any] = {"metadata": options.metadata} if options.metadata else {}
        return NewJob(
            id=self._job_id,
            tenant_id=self._caller.tenant_id,
            key_id=self._caller.key_id,
            lane=self.lane(options),
            images=images,
            model=options.model,
            deadline=options.deadline,
            max_failure_rate=options.max_failure_rate,
            keep_originals=self._caller.keep_originals,
            weight=self._caller.weight,
            details=details,
        )

    def _write(self, session: Session, job: NewJob, options: JobOptions, waiting: Backlog | None) -> JobBody:
        # The endpoint first, so that it hears of job.accepted too.
        webhook = self._one_off(session, options)
        view, eta = self._take_in(session, job, waiting)
        answer = job_body(view, self._services.settings.public_url, eta=eta, webhook=webhook)
        self._once.settle(
            session,
            self.fingerprint(options),
            202,
            answer.model_dump(mode="json"),
            answer.links.self,
            secret=webhook is not None,
        )
        return answer

    def _take_in(self, session: Session, job: NewJob, waiting: Backlog | None) -> tuple[JobView, datetime | None]:
        """Write the job and return it, and when its last photo should have its outcome; None where nobody can say."""
        archive = self.reception.archive
        if archive is not None:
            return receive(session, job, Archive(archive.name, archive.storage_key, archive.sha256, archive.size)), None
        if self._arrival.addresses:
            return receive(session, job, self._arrival.addresses), None
        taken = submit(session, job)
        return taken.view, end_of_new(waiting, taken)

    def _one_off(self, session: Session, options: JobOptions) -> OneOffEndpoint | None:
        wanted = options.webhook
        if wanted is None:
            return None
        endpoint, secret = webhooks.create_endpoint(
            session,
            self._services.keyring,
            self._caller.tenant_id,
            wanted.url,
            (),
            "",
            job_id=self._job_id,
            secret=wanted.secret,
            detail=wanted.detail,
            form=wanted.format,
        )
        return OneOffEndpoint(id=ids.text("endpoint", endpoint.id), url=endpoint.url, secret=secret)


def _is_there(services: Services, tenant_id: UUID, job_id: UUID) -> bool:
    """Return whether the job was committed; raises ``DatabaseAway`` where nobody can say."""
    try:
        with services.database.transaction(tenant_id) as session:
            history.job(session, job_id)
    except NotFound:
        return False
    except Gone:
        return True
    return True
