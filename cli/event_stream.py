"""Server-sent events as a client reads them (WHATWG HTML, section 9.2.6): lines in, messages out."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Message(NamedTuple):
    """One message: the id to come back with, its type, its data."""

    id: str
    event: str
    data: str


def messages(lines: Iterable[bytes]) -> Iterator[Message]:
    """Yield the messages of lines that have lost their newline; one that breaks off before its empty line is none."""
    last, event, data = "", "", list[str]()
    for line in lines:
        name, _, value = line.decode("utf-8", "replace").removesuffix("\r").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last = value
        elif not name and not value and not line.startswith(b":"):
            if data:
                yield Message(last, event or "message", "\n".join(data))
            event, data = "", []
