"""A client of server-sent events as the standard describes it (WHATWG HTML, section 9.2.6), on a raw connection."""

import http.client
from collections.abc import Iterator
from typing import NamedTuple


class Message(NamedTuple):
    """What one message of a stream said."""

    id: str
    event: str
    data: str


class EventSource:
    """Reads one stream; only messages that have come whole count. ``last`` is the id to come back with."""

    def __init__(self, port: int, key: str, last: str = "", path: str = "/v1/events", timeout: float = 60) -> None:
        self.last = last
        self.retry: int | None = None
        self.comments = 0
        self.is_whole = False
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
        try:
            self._connection.request("GET", path, headers=headers | ({"Last-Event-ID": last} if last else {}))
            self.answer = self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise

    def __iter__(self) -> Iterator[Message]:
        """Yield each message until the stream ends, which ``is_whole`` says afterwards, or breaks off."""
        fields: dict[str, str] = {}
        try:
            while line := self.answer.readline():
                text = line.decode().rstrip("\n")
                if not line.endswith(b"\n"):
                    return  # cut in the middle of a line
                if text.startswith(":"):
                    self.comments += 1
                elif text:
                    name, _, value = text.partition(":")
                    fields[name] = value.removeprefix(" ")
                else:
                    if "retry" in fields:
                        self.retry = int(fields["retry"])
                    if "data" in fields:
                        self.last = fields.get("id", self.last)
                        yield Message(self.last, fields.get("event", "message"), fields["data"])
                    fields = {}
        except (OSError, http.client.HTTPException):
            return
        self.is_whole = self.answer.isclosed() and not fields

    def close(self) -> None:
        """Hang up."""
        self.answer.close()
        self._connection.close()
