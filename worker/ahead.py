"""A photo decoded before anybody has claimed it: whoever claims it is given what became of it.

What was announced proves nothing (``shared/announcing.py``), so it is given out for a claimed photo of the same key,
size and digest alone; and what says nothing about the photo itself, as that it was not there yet, is given to nobody.
"""

from collections.abc import Callable
from concurrent.futures import Future

from worker.decoding.outcomes import Decoded, Outcome, Rejected
from worker.feeding import Reading, Request


class Ahead(Reading):
    """The reading of one such photo."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._request = request
        self._found: Future[Outcome | BaseException] = Future()

    def tell(self, _: Request, answer: Outcome | BaseException) -> None:
        """Keep what became of the photo."""
        self._found.set_result(answer)

    def is_of(self, request: Request) -> bool:
        """Return whether this is the photo that is asked for."""
        mine = self._request
        return (mine.key, mine.size, mine.sha256) == (request.key, request.size, request.sha256)

    def give(self, reading: Reading, request: Request, otherwise: Callable[[], None]) -> None:
        """Tell the reading what became of the photo, now or once it is known; or do ``otherwise``."""

        def pass_on(found: Future[Outcome | BaseException]) -> None:
            answer = found.result()
            if isinstance(answer, Decoded | Rejected):
                reading.tell(request, answer)
            else:
                otherwise()

        self._found.add_done_callback(pass_on)
