"""Links to pictures that work without a key, for minutes: for a browser, a report, a colleague's screen.

A link is its own permission: which picture of which image, until when, in the name of which API key, and an HMAC over
all of it. Nothing is stored. It ends with its time, with its photo, and with the key that asked for it: revoke the key,
and all of its links are dead. Answers hold links only where ``links=SECONDS`` asks for them, so that what is stored,
signed or compared (replayed answers, webhooks, ETags) stays the same from one reading to the next.
"""

import base64
import binascii
import hmac
import struct
import time
from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

from flask import Blueprint, Response
from pydantic import Field

from shared import accounts, history
from shared.accounts import KeyUnknown
from shared.signing import Keyring
from web.api.pictures import PNG_OR_JPEG, HeatmapQuery, heatmap_of, photo_of
from web.asking import read_query
from web.auth import caller, too_many
from web.operations import Answer, operation
from web.problems import (
    BAD_LINK,
    DATABASE_AWAY,
    LINK_ENDED,
    NOT_FOUND,
    NOT_YET,
    RATE_LIMITED,
    STORAGE_AWAY,
    Problem,
)
from web.services import services
from web.wire import Address, Picture

api = Blueprint("links", __name__)

LinkSeconds = Annotated[int, Field(ge=30, le=3600)]
LINKS: Final = (
    "Give links to pictures that work without the key for so many seconds, in place of addresses that need it. They "
    "end earlier with the key that asked for them"
)
_KINDS: Final[tuple[Picture, ...]] = ("photo", "heatmap")
_FORM: Final = struct.Struct(">B16s16sQ")
_CODE: Final = 32


@dataclass(frozen=True, slots=True)
class Link:
    """What a link permits: one picture, until a Unix second, in the name of a key."""

    kind: Picture
    image: UUID
    key: UUID
    expires: int

    def text(self, keyring: Keyring) -> str:
        """Return the link as it stands in an address."""
        said = _FORM.pack(_KINDS.index(self.kind), self.image.bytes, self.key.bytes, self.expires)
        return base64.urlsafe_b64encode(said + keyring.link_code(said)).rstrip(b"=").decode()


def read(keyring: Keyring, text: str) -> Link:
    """Return what a link permits; raises ``Problem``: 403 where we did not make it, 410 where its time is over."""
    try:
        given = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        given = b""
    said, code = given[:-_CODE], given[-_CODE:]
    if not hmac.compare_digest(keyring.link_code(said), code) or len(said) != _FORM.size:
        raise Problem(BAD_LINK, "This link was altered or cut, or is not one of ours.")
    kind, image, key, expires = _FORM.unpack(said)
    if time.time() >= expires:
        raise Problem(LINK_ENDED, "The time of this link is over.")
    return Link(_KINDS[kind], UUID(bytes=image), UUID(bytes=key), expires)


def link_addresses(seconds: int | None) -> Address | None:
    """Return where pictures are for somebody without a key, in the caller's name; None where nobody asked for it."""
    if seconds is None:
        return None
    here, key, expires = services(), caller().key_id, int(time.time()) + seconds

    def address(kind: Picture, image: UUID) -> str:
        return f"{here.settings.public_url}/v1/links/{Link(kind, image, key, expires).text(here.keyring)}"

    return address


@api.get("/v1/links/<link>")
@operation(
    "Open a link to a picture",
    {200: Answer("The working copy as JPEG, or the layer of its evidence as PNG.", PNG_OR_JPEG)},
    tag="images",
    description="Needs no key: the link, as `links=SECONDS` gave it out, is the permission. `width` and `height` are "
    "for heat maps. The links of one key together may be opened as often as one key may ask.",
    query=HeatmapQuery,
    problems=(NOT_FOUND, NOT_YET, BAD_LINK, LINK_ENDED, RATE_LIMITED, STORAGE_AWAY, DATABASE_AWAY),
)
def show(link: str) -> Response:
    """Show the picture that a link is for."""
    query = read_query(HeatmapQuery)
    permitted = read(services().keyring, link)
    services().exchange.begin()
    verdict = services().opened_links.take({"link": permitted.key})
    if not verdict.is_free:
        raise too_many(RATE_LIMITED, "The links of this API key were opened too often.", verdict)
    try:
        with services().database.transaction() as session:
            tenant = accounts.tenant_of(session, permitted.key)
    except KeyUnknown:
        raise Problem(LINK_ENDED, "The API key that asked for this link is good no more.") from None
    with services().database.transaction(tenant) as session:
        view = history.image(session, permitted.image)
    answer = photo_of(view) if permitted.kind == "photo" else heatmap_of(view, query)
    # Who holds the link may show it in a page of another origin; everything else about it stays forbidden.
    answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return answer
