"""Multipart bodies (RFC 7578), part by part as they come in: photos go straight on, the ``job`` part is kept.

The decoder is Werkzeug's own, fed directly: its form parser would collect every part before the first could be refused,
and does not say which part a stream is for.
"""

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from web.intake.body import Body
from web.intake.reception import Reception
from web.problems import BROKEN_BODY, TOO_LARGE, Problem

# Holds the headers of one part and what was read beside them, never a photo.
_BUFFERED: Final = 1024 * 1024
# Enough for 50,000 photos with a name and a custom_id each.
_MOST_OPTIONS: Final = 32 * 1024 * 1024
_BOUNDARY: Final = 200

Result = TypeVar("Result")


class MultipartReader:
    """Reads one multipart body into a reception."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._options: bytearray | None = None
        self._part: str | None = None
        self._no_file_chosen = False

    def read(self, body: Body, boundary: str) -> bytes | None:
        """Return the bytes of the ``job`` part, None without one; raises ``Problem`` and ``StorageAway``."""
        if not boundary or len(boundary) > _BOUNDARY or not boundary.isascii():
            raise Problem(BROKEN_BODY, "The Content-Type names no boundary.")
        for event in _events(body, boundary.encode("ascii")):
            self._take(event)
        return None if self._options is None else bytes(self._options)

    def _take(self, event: Event) -> None:
        if isinstance(event, Field | File):
            self._begin(event)
        elif isinstance(event, Data):
            self._data(event)

    def _begin(self, part: Field | File) -> None:
        file_name = part.filename if isinstance(part, File) else None
        self._part = part.name
        if part.name == "photos":
            self._no_file_chosen = file_name == ""
            self._reception.begin(file_name)
        elif part.name == "job":
            if self._options is not None:
                raise Problem(BROKEN_BODY, "There are two parts named `job`.")
            self._options = bytearray()
        else:
            raise Problem(BROKEN_BODY, "There is a part that is named neither `photos` nor `job`.")

    def _data(self, event: Data) -> None:
        if self._part == "photos":
            if event.data:
                self._no_file_chosen = False
                self._reception.write(event.data)
            if not event.more_data and self._no_file_chosen:
                # What browsers send for a file input in which nothing was chosen.
                self._reception.drop()
            elif not event.more_data:
                self._reception.finish()
        elif self._options is not None:
            self._options += event.data
            if len(self._options) > _MOST_OPTIONS:
                raise Problem(TOO_LARGE, "The `job` part is too large.")


def _events(body: Body, boundary: bytes) -> Iterator[Event]:
    decoder = MultipartDecoder(boundary, max_form_memory_size=_BUFFERED)
    ended = False
    while not ended:
        piece = body.read()
        ended = not piece
        _decoding(decoder.receive_data, piece or None)
        while not isinstance(event := _decoding(decoder.next_event), NeedData | Epilogue):
            yield event


def _decoding(step: Callable[..., Result], *given: bytes | None) -> Result:
    try:
        return step(*given)
    except RequestEntityTooLarge:
        raise Problem(BROKEN_BODY, "The headers of a part are too long.") from None
    except (ValueError, AttributeError):
        # The decoder's ways to say that the body is cut off or is no multipart at all.
        raise Problem(BROKEN_BODY, "The multipart body is cut off or malformed; nothing was kept.") from None
