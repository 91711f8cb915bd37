"""The feed as server-sent events (WHATWG HTML, section 9.2): one message an event, its number as the ``id``.

A stream holds one thread of the server as long as it goes on, and no connection to the database while it is idle. So
their number is bounded, each ends after a set time, and one whose client has gone is noticed by a heartbeat. While the
database is away it goes on without news: by the standard, a client that is refused once does not come back.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final
from uuid import UUID

from shared.errors import DatabaseAway
from shared.logs import logger
from shared.webhooks import Recorded
from web.news import PAGE, News, Reader
from web.services import Services

log = logger(__name__)

MEDIA_TYPE: Final = "text/event-stream"
HEARTBEAT_SECONDS: Final = 15.0
# What a client waits before it comes back; it loses nothing meanwhile.
_RETRY_MS: Final = 2000
_AWAY_SECONDS: Final = 1.0
_BEGINNING: Final = f": research use only\nretry: {_RETRY_MS}\n\n"
_HEARTBEAT: Final = ": still here\n\n"
_ENDING: Final = ": the service is about to end; come back with Last-Event-ID\n\n"
_GONE: Final = ": the next events are deleted; come back to hear from where on there are any\n\n"
_REFUSED: Final = ": the key is expired or revoked\n\n"


class Stream:
    """An iterable of messages that begins behind the event ``after`` of the key's tenant; ``tell`` is an event's JSON.

    It ends when its time is up, the process is to end, the key holds no longer, or the next events are deleted.
    """

    def __init__(self, here: Services, tenant: UUID, reader: Reader, tell: Callable[[Recorded], str]) -> None:
        self._here, self._tenant, self._reader, self._tell = here, tenant, reader, tell
        self._end = time.monotonic() + here.settings.event_stream_seconds
        self._is_behind = True
        self._since = time.monotonic()

    def __iter__(self) -> Iterator[bytes]:
        """Yield what is to be sent, each piece at once."""
        yield _BEGINNING.encode()
        while (left := self._end - time.monotonic()) > 0:
            if self._here.feed.ended:
                yield _ENDING.encode()
                return
            try:
                news = self._next(min(left, HEARTBEAT_SECONDS))
            except DatabaseAway as error:
                log.warning("stream_waits", why=str(error), tenant=str(self._tenant))
                self._is_behind = True
                self._here.feed.pause(min(left, _AWAY_SECONDS))
                yield b": the database is out of reach\n\n"
                continue
            if news.is_refused:
                yield _REFUSED.encode()
                return
            if news.oldest is not None:
                yield _GONE.encode()
                return
            yield "".join(map(self._message, news.events)).encode() or _HEARTBEAT.encode()

    def _next(self, seconds: float) -> News:
        """Return the next events, at once while the client is behind; else what comes within these seconds."""
        feed, news = self._here.feed, None
        if self._is_behind:
            news = feed.look(self._tenant, {self._reader}).get(self._reader)
        if news is None:
            news = feed.wait(self._tenant, self._reader, seconds, is_new=False, began=self._since) or News()
        if news.events:
            self._reader = replace(self._reader, after=news.events[-1].seq)
            self._since = time.monotonic()
        self._is_behind = len(news.events) == PAGE
        return news

    def _message(self, event: Recorded) -> str:
        # JSON has no line breaks of its own, so one line of data is one event.
        return f"id: {event.seq}\nevent: {event.kind}\ndata: {self._tell(event)}\n\n"
