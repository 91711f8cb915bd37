"""The HTTP line to one service: what is sent again, how long an answer is waited for, and what a refusal says.

A request that may be sent again is sent again, with growing pauses: GETs always, POSTs because they carry an
``Idempotency-Key``. An answer of 409, 429 or 503 with ``Retry-After`` is obeyed.
"""

import ipaddress
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from cli.progress import tell
from shared.errors import Refused, Unavailable

_AGAIN: Final = frozenset({HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_TRIES_UNREACHED: Final = 2
_TOLD_FROM: Final = 2.0
_READ_SECONDS: Final = 120.0


class ServiceRefused(Refused):
    """The service answered that it will not do this."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ServiceAway(Unavailable):
    """The service is out of reach, or has no capacity, and stayed so; ``after`` is how many seconds it asked for."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Transport:
    """Requests to the service at ``url`` with one API key, tried again for ``patience`` seconds."""

    def __init__(self, url: str, key: str, *, patience: float) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        self._reached = False
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # Reading may take as long as the service is allowed to hold a poll, and then some.
            timeout=httpx.Timeout(30, connect=5, read=_READ_SECONDS),
            # A proxy of the environment must not come between us and this machine.
            trust_env=not _is_loopback(self.url),
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Return the JSON object of the answer."""
        return object_of(self.send(method, path, **request))

    def send(
        self,
        method: str,
        path: str,
        *,
        content: Callable[[], Iterable[bytes]] | None = None,
        **request: Any,
    ) -> httpx.Response:
        """Return the answer, sent again while that may help; ``content`` makes the body anew for each try.

        Raises ``ServiceRefused``, or ``ServiceAway`` once patience is at its end.
        """
        end = time.monotonic() + self._patience
        for number in itertools.count():
            try:
                answer = self._http.request(method, path, content=content() if content else None, **request)
            except httpx.TransportError as error:
                why = f"{self.url} is out of reach: {str(error) or type(error).__name__}"
                pause = _PAUSES[min(number, len(_PAUSES) - 1)] * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
                # A wrong address should be told at once; a service that was there may come back.
                if time.monotonic() + pause > end or (not self._reached and number >= _TRIES_UNREACHED):
                    raise ServiceAway(why) from error
            else:
                self._reached = True
                asked = pause_asked_for(answer)
                if answer.status_code not in _AGAIN or asked is None or time.monotonic() + asked > end:
                    return _unless_refused(answer, self.url)
                why, pause = _message(answer), max(asked, _PAUSES[0])
            if pause >= _TOLD_FROM:
                tell(f"{why.rstrip('.')}; trying again in {pause:.0f} s")
            time.sleep(pause)
        raise AssertionError("unreachable")

    @contextmanager
    def stream(
        self, path: str, kind: str, headers: Mapping[str, str] | None = None, read: float = _READ_SECONDS
    ) -> Iterator[httpx.Response]:
        """Open an answer of this media type that is read piece by piece, sent once; ``read`` in seconds of silence."""
        timeout = httpx.Timeout(30, connect=5, read=read)
        try:
            with self._http.stream("GET", path, headers={"Accept": kind, **(headers or {})}, timeout=timeout) as answer:
                if answer.is_error:
                    answer.read()
                yield _unless_refused(answer, self.url)
        except httpx.TransportError as error:
            raise ServiceAway(f"{self.url} went away: {str(error) or type(error).__name__}") from error


def lines_of(answer: httpx.Response) -> Iterator[bytes]:
    """Yield lines as the formats mean them: a custom_id may hold what Unicode, but not JSON, takes for a line's end."""
    rest = b""
    for piece in answer.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def object_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the JSON object that the answer holds."""
    try:
        body = answer.json()
    except ValueError as error:
        raise ServiceRefused(answer.status_code, "the answer is no JSON: is this a PoxVisio service?") from error
    if not isinstance(body, dict):
        raise ServiceRefused(answer.status_code, "the answer is no JSON object: is this a PoxVisio service?")
    return body


def pause_asked_for(answer: httpx.Response) -> float | None:
    """Seconds of ``Retry-After`` (RFC 9110), where it is a number."""
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _unless_refused(answer: httpx.Response, url: str) -> httpx.Response:
    if answer.status_code == HTTPStatus.NOT_MODIFIED or answer.is_success:
        return answer
    if answer.status_code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        raise ServiceAway(_message(answer), pause_asked_for(answer))
    if answer.is_redirect:
        raise ServiceRefused(answer.status_code, f"{url} answers with a redirect: is it a PoxVisio service?")
    raise ServiceRefused(answer.status_code, _message(answer))


def _message(answer: httpx.Response) -> str:
    """Return a problem (RFC 9457) in one line."""
    try:
        problem = answer.json()
        faults = [
            f"{fault.get('pointer', '')} {fault.get('detail', '')}".strip() for fault in problem.get("errors", [])
        ]
        text = str(problem.get("detail") or problem["title"])
        return f"{answer.status_code} {text}" + (f" ({'; '.join(faults)})" if faults else "")
    except (ValueError, AttributeError, KeyError):
        return f"{answer.status_code} {answer.reason_phrase}"


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
