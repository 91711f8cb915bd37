"""Three ways to hear what happened, feed, stream and webhook, each by a client of its own, compared event by event."""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from shared.webhooks import KINDS
from tests.chaos.receivers import Receivers
from tests.chaos.running import Service, until
from tests.integration.web.sse import EventSource

#: The path of the receiver that keeps what it was told; no other endpoint may send there.
PATH = "told"
_AGAIN_SECONDS = 0.1
# A stream on which nothing comes for so long is left for another one, so that there are many breaks.
_STREAM_SECONDS = 3.0
# Happens to whom it is told of, or is for one receiver alone.
_NOT_OWED = ("endpoint.", "ping")


@dataclass
class Heard:
    """The events that one reader heard, as JSON text, in the order in which it heard them."""

    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    breaks: int = 0

    def hear(self, text: str) -> int:
        """Take note of an event, and return its number."""
        self.texts.append(text)
        self.numbers.append(int(json.loads(text)["data"]["sequence"]))
        return self.numbers[-1]


class Telling:
    """Reads the feed by pages and by streams while its block runs, from the events that follow its beginning."""

    def __init__(self, service: Service, receivers: Receivers) -> None:
        self._service, self._receivers = service, receivers
        self.feed, self.stream = Heard(), Heard()
        self.broken: list[str] = []
        self._ending = threading.Event()
        subscribe(service, receivers.url(PATH))
        self.after = self._last()

    def __enter__(self) -> Self:
        self._threads = [
            threading.Thread(target=self._run, args=(read,), name=read.__name__, daemon=True)
            for read in (self._read_pages, self._read_streams)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def await_all(self, seconds: float) -> None:
        """Wait until both readers have heard the last event there is; fails where they have not."""
        last = self._last()
        for name, heard in (("feed", self.feed), ("stream", self.stream)):
            until(
                lambda: bool(self.broken) or last in (self.after, *heard.numbers[-1:]),  # noqa: B023  # called at once
                f"the {name} tells event {last}",
                seconds,
            )

    def differences(self, seconds: float) -> list[str]:
        """Wait for the webhooks too; return in what the three differ, or one of them has a gap or a double."""
        events = [json.loads(text) for text in self.feed.texts]
        owed = {str(event["data"]["id"]) for event in events if not event["type"].startswith(_NOT_OWED)}
        missing = self._receivers.await_ids(PATH, owed, seconds)
        return [
            *self.broken,
            *(f"{it} never came as a webhook" for it in missing),
            *compare(self.after, self.feed, self.stream, self._receivers.bodies(PATH)),
        ]

    def _run(self, read: Any) -> None:
        try:
            while not self._ending.is_set():
                read()
                self._ending.wait(_AGAIN_SECONDS)
        except Exception as error:  # the edge of a thread: a reader that breaks must not be taken for a quiet one
            self.broken.append(f"{read.__name__} broke: {error!r}")
            raise

    def _read_pages(self) -> None:
        after = self.feed.numbers[-1] if self.feed.numbers else self.after
        try:
            with self._service.client() as client:
                answer = client.get(f"/v1/events?after={after}&limit=7", headers={"Prefer": "wait=1"})
        except httpx.TransportError:
            self.feed.breaks += 1
            return
        if answer.status_code in {429, 503}:
            return
        assert answer.status_code == 200, answer.text
        for event in answer.json()["events"]:
            self.feed.hear(json.dumps(event, ensure_ascii=False, separators=(",", ":")))

    def _read_streams(self) -> None:
        facts = self._service.facts
        last = str(self.stream.numbers[-1] if self.stream.numbers else self.after)
        try:
            source = EventSource(urlsplit(facts["url"]).port or 0, facts["api_key"], last, timeout=_STREAM_SECONDS)
        except (OSError, http.client.HTTPException):
            self.stream.breaks += 1
            return
        with contextlib.closing(source):
            if source.answer.status in {429, 503}:
                return
            assert source.answer.status == 200, source.answer.status
            for message in source:
                number = self.stream.hear(message.data)
                if message.id != str(number) or message.event != json.loads(message.data)["type"]:
                    self.broken.append(f"event {number} was told as {message.id}, {message.event}")
                if self._ending.is_set():
                    return
        self.stream.breaks += not source.is_whole

    def _last(self) -> int:
        key = self._service.facts["api_key"].split("_")[1]
        [(last,)] = self._service.rows(
            "SELECT coalesce(max(seq), 0) FROM event WHERE tenant_id = (SELECT tenant_id FROM api_key WHERE id = %s)",
            key,
        )
        return int(last)


def subscribe(service: Service, url: str) -> str:
    """Make a webhook endpoint that hears of everything, each photo too, and return its id."""
    with service.client() as client:
        answer = client.post("/v1/webhooks", json={"url": url, "events": list(KINDS)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def compare(after: int, feed: Heard, stream: Heard, bodies: Mapping[str, Sequence[bytes]]) -> list[str]:
    """Return in what the three differ; ``bodies`` are the webhooks' by their id, each body that came once."""
    wrong = []
    for name, heard in (("feed", feed), ("stream", stream)):
        expected = list(range(after + 1, after + 1 + len(heard.numbers)))
        if heard.numbers != expected:
            first = next(at for at, (is_, was) in enumerate(zip(heard.numbers, expected, strict=True)) if is_ != was)
            wrong.append(f"the {name} told event {heard.numbers[first]} instead of {expected[first]}")
    if len(feed.texts) != len(stream.texts):
        wrong.append(f"the feed told {len(feed.texts)} events, the stream {len(stream.texts)}")
    wrong += [
        f"feed and stream differ: {one} and {other}"
        for one, other in zip(feed.texts, stream.texts, strict=False)
        if one != other
    ]
    return [*wrong, *_of_webhooks([json.loads(text) for text in feed.texts], bodies)]


def _of_webhooks(events: Sequence[dict[str, Any]], bodies: Mapping[str, Sequence[bytes]]) -> Iterator[str]:
    known = {str(event["data"]["id"]): event for event in events}
    for name in bodies.keys() - known.keys():
        yield f"{name} came as a webhook and is in no feed"
    previous: str | None = None
    for name, event in known.items():
        if name not in bodies:
            continue
        if len(bodies[name]) > 1:
            yield f"{name} came with {len(bodies[name])} bodies"
        told = json.loads(bodies[name][0])
        before = told["data"].pop("previous_id", None)
        if told != event:
            yield f"webhook and feed differ: {told} and {event}"
        if before != previous and previous is not None:
            yield f"{name} names {before} as the one before it, not {previous}"
        previous = name
