"""Answers that stream out: each holds a thread as long as its reader takes, so their number is bounded."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from flask import Response

from web.auth import caller
from web.places import Place, Places
from web.problems import TOO_MANY_STREAMS, Problem, retry_after
from web.services import services

_PATIENCE_SECONDS: Final = 5.0
# Rows are small, and each piece is a chunk on the wire.
_PIECE: Final = 16 * 1024


def streamed(lines: Iterable[str] | Iterable[bytes], content_type: str) -> Response:
    """Return an answer that sends these lines; raises ``Problem`` (503) where no place is free for some seconds."""
    place = services().streams.enter(caller().tenant_id, _PATIENCE_SECONDS)
    if place is None:
        raise Problem(TOO_MANY_STREAMS, "Too many results are streamed at once.", headers=retry_after())
    return in_place(services().streams, place, _gathered(lines), content_type)


def in_place(places: Places, place: Place, pieces: Iterable[bytes], content_type: str) -> Response:
    """Return an answer that sends these pieces from a place, each at once.

    The place is given back when the server closes the answer: at its end, or when the reader has gone.
    """

    def leave() -> None:
        places.leave(place)

    answer = Response(_until_the_end(pieces, leave), content_type=content_type)
    # The generator ends by itself or is closed, but one that never began does neither.
    answer.call_on_close(leave)
    return answer


def _until_the_end(pieces: Iterable[bytes], leave: Callable[[], None]) -> Iterator[bytes]:
    try:
        yield from pieces
    finally:
        leave()


def _gathered(lines: Iterable[str] | Iterable[bytes]) -> Iterator[bytes]:
    piece = bytearray()
    for line in lines:
        piece += line if isinstance(line, bytes) else line.encode()
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
