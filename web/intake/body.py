"""The bytes of a request as they come in: never more than allowed, and never fewer than announced."""

from collections.abc import Callable
from typing import Any, Final

from web.places import Place
from web.problems import BAD_REQUEST, BROKEN_BODY, TOO_LARGE, TOO_SLOW, UNSUPPORTED_TYPE, Problem

PIECE: Final = 128 * 1024
# The server returns from a reading when it is whole, however long that takes: who is slow is asked for little at once.
_SMALL_PIECE: Final = 4 * 1024
_GROWTH: Final = 4
_BRISK_SECONDS: Final = 0.25
_PATIENCE_SECONDS: Final = 30.0


class Body:
    """Reads a WSGI input once, in pieces."""

    def __init__(self, environ: dict[str, Any], limit: int, place: Place) -> None:
        """Take the input; ``on_piece``, which may be set later, is called after each piece.

        Refuse what is announced as too large (413), encoded (415), or of no readable length (400) before reading.
        """
        self.on_piece: Callable[[], None] | None = None
        self._stream = environ["wsgi.input"]
        self._limit = limit
        self._place = place
        self._piece = _SMALL_PIECE
        self._read = 0
        self._ended = False
        self._announced = _content_length(environ)
        if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in ("identity", ""):
            raise Problem(UNSUPPORTED_TYPE, "Send the body without a Content-Encoding.")
        if self._announced is None and not environ.get("wsgi.input_terminated"):
            self._announced = 0
        if self._announced is not None and self._announced > limit:
            raise self._too_large()

    @property
    def has_length(self) -> bool:
        """Tell whether its end is known. The server passes chunks that break off on as if they had ended."""
        return self._announced is not None

    def read(self) -> bytes:
        """Return the next piece, empty at the end.

        Raises ``Problem``: 413 above the limit, 400 for a body cut short, 408 for one that hardly moves.
        """
        most = min(self._piece, PIECE)
        wanted = most if self._announced is None else min(most, self._announced - self._read)
        self._place.wait()
        try:
            piece = bytes(self._stream.read(wanted)) if wanted and not self._ended else b""
        except OSError as error:
            self._ended = True
            raise Problem(BROKEN_BODY, "The body ended before its announced length.") from error
        finally:
            seconds = self._place.go_on()
        self._adapt(seconds)
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

    def _adapt(self, seconds: float) -> None:
        """Ask for more where the last piece came at once, for little where it did not; raises ``Problem`` (408)."""
        if seconds < _BRISK_SECONDS:
            self._piece = min(self._piece * _GROWTH, PIECE)
            return
        if seconds > _PATIENCE_SECONDS and self._piece == _SMALL_PIECE:
            raise Problem(TOO_SLOW, f"Less than {_SMALL_PIECE} bytes came in {_PATIENCE_SECONDS:.0f} seconds.")
        self._piece = max(self._piece // _GROWTH, _SMALL_PIECE)

    def _too_large(self) -> Problem:
        return Problem(TOO_LARGE, f"The request has more than the {self._limit} bytes allowed.")


def _content_length(environ: dict[str, Any]) -> int | None:
    given = environ.get("CONTENT_LENGTH")
    if given in (None, "") or "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return None
    if not (given.isascii() and given.isdigit()):
        raise Problem(BAD_REQUEST, "The Content-Length is not a number.")
    return int(given)
