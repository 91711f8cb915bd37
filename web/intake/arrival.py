"""The body of a ``POST /v1/jobs``, of whatever type: photos, an archive or a list, and the options they come with."""

from dataclasses import replace
from typing import Final

from werkzeug import Request
from werkzeug.http import parse_options_header

from shared.ledger.receiving import Address
from shared.names import display_name
from shared.settings import Settings
from web.asking import parse_json, wrong
from web.intake.body import Body
from web.intake.lifting import ListReader
from web.intake.listed import addresses_of, check_list, wrong_option
from web.intake.multipart import MultipartReader
from web.intake.options import JobList, JobOptions, QueryOptions
from web.intake.reception import Received, Reception
from web.problems import (
    BROKEN_BODY,
    DUPLICATE_CUSTOM_ID,
    INVALID_OPTIONS,
    LENGTH_REQUIRED,
    NO_PHOTOS,
    TOO_MANY_PHOTOS,
    UNSUPPORTED_TYPE,
    Problem,
)

_ARCHIVE: Final = "application/zip"
_LIST: Final = "application/json"


class Arrival:
    """Reads one body into a reception. ``addresses`` are what a list leaves to be fetched."""

    def __init__(self, reception: Reception, settings: Settings) -> None:
        self._reception, self._settings = reception, settings
        self.addresses: list[Address] = []
        self.is_in_query = False

    def read(self, request: Request, body: Body, given: QueryOptions) -> JobOptions:
        """Read the whole body and return its options, which fit it; raises ``Problem`` and ``StorageAway``."""
        if request.mimetype == _LIST:
            return self._receive_list(body, given)
        if request.mimetype == "multipart/form-data":
            options = self._receive_multipart(request, body, given)
        elif request.mimetype == _ARCHIVE:
            options = self._receive_archive(body, given)
        else:
            options = self._receive_photo(body, given)
        _check_photos(options, self._reception.photos)
        return options

    def _receive_multipart(self, request: Request, body: Body, given: QueryOptions) -> JobOptions:
        boundary = parse_options_header(request.content_type)[1].get("boundary", "")
        part = MultipartReader(self._reception).read(body, boundary)
        if not self._reception.photos:
            raise Problem(NO_PHOTOS, "There is no part named `photos`.")
        if given != QueryOptions():
            if part is not None:
                raise Problem(INVALID_OPTIONS, "Give the options in the `job` part or in the query, not in both.")
            if given.file_name is not None:
                raise wrong("file_name", "is for a body that is one photo; multipart names each part")
            if given.custom_id is not None and len(self._reception.photos) > 1:
                raise wrong("custom_id", "is for one photo; give several theirs in the `job` part, under `photos`")
            return self._from_query(given)
        return JobOptions() if part is None else parse_json(JobOptions, part)

    def _receive_photo(self, body: Body, given: QueryOptions) -> JobOptions:
        self._reception.begin(given.file_name)
        while piece := body.read():
            self._reception.write(piece)
        self._reception.finish()
        if not self._reception.photos[0].size:
            raise Problem(BROKEN_BODY, "The body is empty; it should be one photo.")
        return self._from_query(given)

    def _receive_archive(self, body: Body, given: QueryOptions) -> JobOptions:
        if given.custom_id is not None:
            raise wrong("custom_id", "is for one photo; those of an archive have their names")
        self._reception.begin_archive(given.file_name, self._settings.max_request_bytes)
        while piece := body.read():
            self._reception.write(piece)
        self._reception.finish()
        if self._reception.archive is None or not self._reception.archive.size:
            raise Problem(BROKEN_BODY, "The body is empty; it should be an archive.")
        return self._from_query(given)

    def _receive_list(self, body: Body, given: QueryOptions) -> JobOptions:
        if given != QueryOptions():
            raise Problem(INVALID_OPTIONS, "Give the options in the document, not in the query.")
        listed = parse_json(JobList, ListReader(self._reception).read(body))
        if len(listed.images) > self._settings.max_photos:
            raise Problem(TOO_MANY_PHOTOS, f"A job may have {self._settings.max_photos} photos at most.")
        check_list(listed, self._settings.webhook_loopback)
        named = {place: display_name(image.file_name) for place, image in enumerate(listed.images)}
        self._reception.photos = [replace(photo, name=named[photo.ordinal]) for photo in self._reception.photos]
        self.addresses = addresses_of(listed)
        return listed.job_options()

    def _from_query(self, given: QueryOptions) -> JobOptions:
        self.is_in_query = True
        return given.job_options()


def check_type(request: Request) -> None:
    """Raise ``Problem`` (415) for a type that is not taken."""
    kind = request.mimetype
    if kind not in ("multipart/form-data", _ARCHIVE, _LIST) and not kind.startswith("image/"):
        raise Problem(
            UNSUPPORTED_TYPE,
            "Send multipart/form-data with parts named `photos`, one image/* body, an application/zip archive or JSON.",
        )


def check_length(request: Request, body: Body) -> None:
    """Raise ``Problem`` (411) for a body of which nobody could say whether it came whole."""
    if request.mimetype not in ("multipart/form-data", _LIST) and not body.has_length:
        raise Problem(LENGTH_REQUIRED, "Send it with a Content-Length, or as multipart/form-data.")


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
