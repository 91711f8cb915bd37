"""The bytes of a request as they come in: never more than allowed, and never fewer than announced."""

from collections.abc import Callable
from typing import Any, Final

from web.problems import BAD_REQUEST, BROKEN_BODY, TOO_LARGE, UNSUPPORTED_TYPE, Problem

PIECE: Final = 128 * 1024


class Body:
    """Reads a WSGI input once, in pieces."""

    def __init__(self, environ: dict[str, Any], limit: int) -> None:
        """Take the input; ``on_piece``, which may be set later, is called after each piece.

        Refuse what is announced as too large (413), encoded (415), or of no readable length (400) before reading.
        """
        self.on_piece: Callable[[], None] | None = None
        self._stream = environ["wsgi.input"]
        self._limit = limit
        self._read = 0
        self._ended = False
        self._announced = _content_length(environ)
        if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in ("identity", ""):
            raise Problem(UNSUPPORTED_TYPE, "Send the body without a Content-Encoding.")
        if self._announced is None and not environ.get("wsgi.input_terminated"):
            self._announced = 0
        if self._announced is not None and self._announced > limit:
            raise self._too_large()

    def read(self) -> bytes:
        """Return the next piece, empty at the end; raises ``Problem``: 413 above the limit, 400 for one cut short."""
        wanted = PIECE if self._announced is None else min(PIECE, self._announced - self._read)
        try:
            piece = bytes(self._stream.read(wanted)) if wanted and not self._ended else b""
        except OSError as error:
            self._ended = True
            raise Problem(BROKEN_BODY, "The body ended before its announced length.") from error
        self._read += len(piece)
        if self.on_piece is not None:
            self.on_piece()
        if self._read > self._limit:
            raise self._too_large()
        if not piece:
            self._ended = True
            if self._announced is not None and self._read < self._announced:
                raise Problem(BROKEN_BODY, "The body ended before its announced length.")
        return piece

    def _too_large(self) -> Problem:
        return Problem(TOO_LARGE, f"The request has more than the {self._limit} bytes allowed.")


def _content_length(environ: dict[str, Any]) -> int | None:
    given = environ.get("CONTENT_LENGTH")
    if given in (None, "") or "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return None
    if not (given.isascii() and given.isdigit()):
        raise Problem(BAD_REQUEST, "The Content-Length is not a number.")
    return int(given)
