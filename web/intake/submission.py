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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.orm import Session
from werkzeug import Request
from werkzeug.http import parse_options_header

from shared import history, ids, signing, webhooks
from shared.accounts import Caller
from shared.crash_points import passing
from shared.database import new_id
from shared.errors import DatabaseAway, Gone, NotFound, Refused
from shared.ledger.receiving import Address, Archive, receive
from shared.ledger.submit import NewImage, NewJob, default_lane, submit
from shared.names import display_name
from web.asking import idempotency_key, parse_json, read_query, wrong
from web.intake import fingerprint, pressure
from web.intake.body import Body
from web.intake.lifting import ListReader
from web.intake.listed import addresses_of, check_list, wrong_option
from web.intake.multipart import MultipartReader
from web.intake.options import JobList, JobOptions, OneOffWebhook, QueryOptions
from web.intake.reception import Received, Reception
from web.outlook import outlook
from web.problems import (
    BROKEN_BODY,
    DUPLICATE_CUSTOM_ID,
    INVALID_OPTIONS,
    NO_PHOTOS,
    TOO_MANY_PHOTOS,
    UNKNOWN_MODEL,
    UNSUPPORTED_TYPE,
    Kind,
    Problem,
)
from web.replay import Once
from web.services import Services
from web.wire import JobBody, OneOffEndpoint, job_body

_ARCHIVE: Final = "application/zip"
_LIST: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job taken in; ``replayed`` where an earlier request with the same key had done it."""

    job: JobBody
    replayed: bool


def accept(services: Services, caller: Caller, request: Request) -> Accepted:
    """Take in the job of a ``POST /v1/jobs``.

    Raises ``Problem`` for everything the request itself has wrong, ``InFlight``, ``TakenOver``, ``DatabaseAway`` and
    ``StorageAway``; nothing is left then.
    """
    body = Body(request.environ, services.settings.max_request_bytes)
    given = read_query(QueryOptions)
    _check_type(request)
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
        self._in_query = False
        self._addresses: list[Address] = []
        self.reception = Reception(
            services.storage,
            self._job_id,
            max_photos=services.settings.max_photos,
            max_photo_bytes=services.settings.max_photo_bytes,
            keep=not once.is_answered,
        )

    @property
    def photos(self) -> list[Received]:
        """Return what has arrived so far."""
        return self.reception.photos

    def receive(self, request: Request, body: Body, given: QueryOptions) -> JobOptions:
        """Read the whole body and return the options, checked against it; raises ``Problem`` and ``StorageAway``."""
        if request.mimetype == "multipart/form-data":
            options = self._receive_multipart(request, body, given)
        elif request.mimetype == _ARCHIVE:
            options = self._receive_archive(body, given)
        elif request.mimetype == _LIST:
            options = self._receive_list(body, given)
        else:
            options = self._receive_photo(body, given)
        if request.mimetype != _LIST:
            _check_photos(options, self.photos)
        # What was fine when the first request came is fine for its replay.
        if not self._once.is_answered:
            self._check_present(options)
        return options

    def commit(self, options: JobOptions) -> JobBody:
        """Make the photos durable and write the job; raises ``StorageAway``, ``DatabaseAway`` and ``TakenOver``."""
        self.reception.settle()
        passing("web.stored")
        job = self._new_job(options)
        try:
            with self._services.database.transaction(self._caller.tenant_id) as session:
                answer = self._write(session, job, options)
                self.may_clean_up = False
                passing("web.written")
        except DatabaseAway:
            if self.may_clean_up or not _is_there(self._services, self._caller.tenant_id, self._job_id):
                raise
        passing("web.committed")
        self._services.broker.wake([job.lane])
        passing("web.woken")
        return answer

    def _receive_multipart(self, request: Request, body: Body, given: QueryOptions) -> JobOptions:
        boundary = parse_options_header(request.content_type)[1].get("boundary", "")
        part = MultipartReader(self.reception).read(body, boundary)
        if not self.photos:
            raise Problem(NO_PHOTOS, "There is no part named `photos`.")
        if given != QueryOptions():
            if part is not None:
                raise Problem(INVALID_OPTIONS, "Give the options in the `job` part or in the query, not in both.")
            if given.file_name is not None:
                raise wrong("file_name", "is for a body that is one photo; multipart names each part")
            if given.custom_id is not None and len(self.photos) > 1:
                raise wrong("custom_id", "is for one photo; give several theirs in the `job` part, under `photos`")
            return self._from_query(given)
        return JobOptions() if part is None else parse_json(JobOptions, part)

    def _receive_photo(self, body: Body, given: QueryOptions) -> JobOptions:
        self.reception.begin(given.file_name)
        while piece := body.read():
            self.reception.write(piece)
        self.reception.finish()
        if not self.photos[0].size:
            raise Problem(BROKEN_BODY, "The body is empty; it should be one photo.")
        return self._from_query(given)

    def _receive_archive(self, body: Body, given: QueryOptions) -> JobOptions:
        if given.custom_id is not None:
            raise wrong("custom_id", "is for one photo; those of an archive have their names")
        self.reception.begin_archive(given.file_name, self._services.settings.max_request_bytes)
        while piece := body.read():
            self.reception.write(piece)
        self.reception.finish()
        if self.reception.archive is None or not self.reception.archive.size:
            raise Problem(BROKEN_BODY, "The body is empty; it should be an archive.")
        return self._from_query(given)

    def _receive_list(self, body: Body, given: QueryOptions) -> JobOptions:
        if given != QueryOptions():
            raise Problem(INVALID_OPTIONS, "Give the options in the document, not in the query.")
        listed = parse_json(JobList, ListReader(self.reception).read(body))
        settings = self._services.settings
        if len(listed.images) > settings.max_photos:
            raise Problem(TOO_MANY_PHOTOS, f"A job may have {settings.max_photos} photos at most.")
        check_list(listed, settings.webhook_loopback)
        named = {place: display_name(image.file_name) for place, image in enumerate(listed.images)}
        self.reception.photos = [replace(photo, name=named[photo.ordinal]) for photo in self.photos]
        self._addresses = addresses_of(listed)
        return listed.job_options()

    def _from_query(self, given: QueryOptions) -> JobOptions:
        self._in_query = True
        return given.job_options()

    def _check_present(self, options: JobOptions) -> None:
        """Raise where an option does not fit the time, the model or the network as they are now."""
        if options.deadline is not None and options.deadline <= datetime.now(UTC):
            raise self._wrong("has passed already", "deadline")
        if options.model is not None and options.model != self._services.model.bundle().id:
            raise self._wrong("is not served; see /v1/models", "model", kind=UNKNOWN_MODEL)
        if options.webhook is not None:
            self._check_webhook(options.webhook)

    def _check_webhook(self, webhook: OneOffWebhook) -> None:
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
        return wrong(path[0], detail, kind) if self._in_query else wrong_option(detail, *path, kind=kind)

    def lane(self, options: JobOptions) -> str:
        """Return the lane of the job. Nobody has counted an archive's photos yet."""
        if options.priority is not None:
            return options.priority
        return "bulk" if self.reception.archive else default_lane(len(self.photos) + len(self._addresses))

    def fingerprint(self, options: JobOptions) -> bytes:
        """Return what makes this request the same as another."""
        return fingerprint.of_job(
            self.photos,
            options.canonical(),
            archive=self.reception.archive,
            addresses=([each.ordinal, each.url, each.client_name] for each in self._addresses),
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
            for photo in self.photos
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

    def _write(self, session: Session, job: NewJob, options: JobOptions) -> JobBody:
        # The endpoint first, so that it hears of job.accepted too.
        webhook = self._one_off(session, options)
        archive = self.reception.archive
        if archive is not None:
            receive(session, job, Archive(archive.name, archive.storage_key, archive.sha256, archive.size))
        elif self._addresses:
            receive(session, job, self._addresses)
        else:
            submit(session, job)
        view = history.job(session, job.id)
        rate, eta = outlook(session, view)
        answer = job_body(view, self._services.settings.public_url, rate=rate, eta=eta, webhook=webhook)
        self._once.settle(
            session,
            self.fingerprint(options),
            202,
            answer.model_dump(mode="json"),
            answer.links.self,
            secret=webhook is not None,
        )
        return answer

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


def _check_type(request: Request) -> None:
    kind = request.mimetype
    if kind not in ("multipart/form-data", _ARCHIVE, _LIST) and not kind.startswith("image/"):
        raise Problem(
            UNSUPPORTED_TYPE,
            "Send multipart/form-data with parts named `photos`, one image/* body, an application/zip archive or JSON.",
        )


def _check_photos(options: JobOptions, photos: list[Received]) -> None:
    """Raise ``Problem`` (422) unless what is said about the photos fits those that came."""
    if len(options.photos) > len(photos):
        raise wrong_option(f"lists {len(options.photos)} photos; {len(photos)} came", "photos")
    seen: set[str] = set()
    for photo, said in zip(photos, options.photos, strict=False):
        if said.custom_id is not None and said.custom_id in seen:
            raise wrong_option("occurs twice", "photos", photo.ordinal, "custom_id", kind=DUPLICATE_CUSTOM_ID)
        if said.custom_id is not None:
            seen.add(said.custom_id)
        if said.file_name is not None and display_name(said.file_name) != photo.name:
            # A list in another order would give each patient somebody else's answer.
            raise wrong_option("is not the name of the photo in this place", "photos", photo.ordinal, "file_name")
