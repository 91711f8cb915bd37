"""What is checked of a list of photos: each is there once, in one way, and where it is to be fetched may be asked."""

from collections.abc import Collection
from typing import Final
from urllib.parse import unquote, urlsplit

from shared import webhooks
from shared.errors import Refused
from shared.ledger.receiving import Address
from shared.names import display_name
from web.asking import pointer
from web.intake.options import JobList, ListedPhoto
from web.problems import DUPLICATE_CUSTOM_ID, INVALID_OPTIONS, Kind, Problem

_ONE_WAY: Final = "needs either content or url"


def check_list(listed: JobList, loopback: Collection[str]) -> None:
    """Raise ``Problem`` (422) for the first photo that is listed wrongly."""
    seen: set[str] = set()
    for place, image in enumerate(listed.images):
        if image.upload_id is not None:
            raise wrong_option("uploads are not offered yet; send content or url", "images", place, "upload_id")
        if (image.content is None) == (image.url is None):
            raise wrong_option(_ONE_WAY, "images", place)
        if image.url is not None:
            _check_url(image.url, place, loopback)
        if image.custom_id is not None:
            if image.custom_id in seen:
                raise wrong_option("occurs twice", "images", place, "custom_id", kind=DUPLICATE_CUSTOM_ID)
            seen.add(image.custom_id)


def addresses_of(listed: JobList) -> list[Address]:
    """Return what is to be fetched, each in its place of the list."""
    return [
        Address(place, image.url, _name(image), image.custom_id)
        for place, image in enumerate(listed.images)
        if image.url is not None
    ]


def wrong_option(detail: str, *path: str | int, kind: Kind = INVALID_OPTIONS) -> Problem:
    """Return the problem of one wrong option, told by its place in the document."""
    return Problem(kind, f"{kind.title}; see errors.", errors=[{"detail": detail, "pointer": pointer(path)}])


def _check_url(url: str, place: int, loopback: Collection[str]) -> None:
    try:
        webhooks.check_url(url, loopback)
    except Refused as error:
        raise wrong_option(str(error), "images", place, "url") from None


def _name(image: ListedPhoto) -> str | None:
    """Return what the photo is called: as it was said, else the end of its address, without what may be secret."""
    return display_name(image.file_name) or display_name(unquote(urlsplit(image.url or "").path))
