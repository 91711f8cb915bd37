"""Multipart requests, part by part as they come in: photos go straight to storage, the ``job`` part is kept."""

from typing import Final

from web.intake.body import Body
from web.intake.envelope import Begin, Data, Envelope, Malformed
from web.intake.reception import Reception
from web.problems import BROKEN_BODY, TOO_LARGE, Problem

# Enough for 50,000 photos with a name and a custom_id each.
_MOST_OPTIONS: Final = 32 * 1024 * 1024
_LONGEST_BOUNDARY: Final = 200


class MultipartReader:
    """Reads one multipart body into a reception."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._options: bytearray | None = None
        self._part: str | None = None
        self._no_file_chosen = False

    def read(self, body: Body, boundary: str) -> bytes | None:
        """Return the bytes of the ``job`` part, None without one; raises ``Problem`` and ``StorageAway``."""
        if not boundary or len(boundary) > _LONGEST_BOUNDARY or not boundary.isascii():
            raise Problem(BROKEN_BODY, "The Content-Type names no boundary.")
        try:
            for event in Envelope(boundary.encode("ascii")).events(iter(body.read, b"")):
                if isinstance(event, Begin):
                    self._begin(event)
                elif isinstance(event, Data):
                    self._data(event.data)
                else:
                    self._end()
        except Malformed as error:
            raise Problem(BROKEN_BODY, f"The multipart body is broken: {error}.") from None
        return None if self._options is None else bytes(self._options)

    def _begin(self, part: Begin) -> None:
        self._part = part.name
        if part.name == "photos":
            self._no_file_chosen = part.file_name == ""
            self._reception.begin(part.file_name)
        elif part.name == "job":
            if self._options is not None:
                raise Problem(BROKEN_BODY, "There are two parts named `job`.")
            self._options = bytearray()
        else:
            raise Problem(BROKEN_BODY, "There is a part that is named neither `photos` nor `job`.")

    def _data(self, data: bytes) -> None:
        if self._part == "photos":
            self._no_file_chosen = False
            self._reception.write(data)
        elif self._options is not None:
            self._options += data
            if len(self._options) > _MOST_OPTIONS:
                raise Problem(TOO_LARGE, "The `job` part is too large.")

    def _end(self) -> None:
        if self._part != "photos":
            return
        if self._no_file_chosen:
            # What browsers send for a file input in which nothing was chosen.
            self._reception.drop()
        else:
            self._reception.finish()
