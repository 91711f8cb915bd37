"""The HTTP client of the commands: one service, one key, and what to do when the line breaks.

A request that may be sent again is sent again, with growing pauses: GETs always, POSTs because they carry an
``Idempotency-Key``. An answer of 409, 429 or 503 with ``Retry-After`` is obeyed.
"""

import ipaddress
import itertools
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from cli.archives import ArchiveBody
from cli.bundle_form import BundleForm
from cli.event_stream import messages
from cli.multipart import PhotoForm
from cli.progress import tell
from shared.errors import Refused, Unavailable

CLOSED: Final = frozenset({"completed", "stopped", "cancelled", "expired"})
_AGAIN: Final = frozenset({HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_TRIES_UNREACHED: Final = 2
_TOLD_FROM: Final = 2.0
_HOLD_SECONDS: Final = 20
_READ_SECONDS: Final = 120.0
# A stream of events says something every 15 s.
_SILENCE: Final = 50.0
_PAGE: Final = 500
# What stands behind a Parquet file's table of contents, which the service writes last.
_PARQUET_END: Final = b"PAR1"


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


class WaitedTooLong(Unavailable):
    """The job is not closed yet; it goes on without us."""


class Service:
    """A PoxVisio service at ``url``, spoken to with one API key.

    ``patience`` is for how many seconds a request may be tried again; the default outlasts the lease of a submission
    whose web process was killed.
    """

    def __init__(self, url: str, key: str, *, patience: float = 600.0) -> None:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def limits(self) -> dict[str, Any]:
        """Return the published limits."""
        return self._json("GET", "/v1/limits")

    def submit(self, form: PhotoForm | ArchiveBody | BundleForm) -> dict[str, Any]:
        """Send a job in one request and return it, as accepted.

        The key of idempotency is new for each call and the same for each try, so that a connection lost after the
        service had taken the job in does not make a second one.
        """
        headers = {**form.headers, "Idempotency-Key": f'"{uuid.uuid4()}"'}
        return _object(self._send("POST", form.path, content=lambda: form, headers=headers))

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job as it stands."""
        return self._json("GET", f"/v1/jobs/{job_id}")

    def jobs(self, conditions: Mapping[str, str] | None = None, *, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest jobs that fulfil the conditions, as ``GET /v1/jobs`` names them, newest first."""
        found: list[dict[str, Any]] = []
        params: dict[str, str | int] = {**(conditions or {}), "limit": limit}
        while True:
            page = self._json("GET", "/v1/jobs", params=params)
            found += page["jobs"]
            # A page of a search may be short while there is more to look through.
            if len(found) >= limit or page.get("next") is None:
                return found[:limit]
            params |= {"cursor": page["next"], "limit": limit - len(found)}

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job; what is finished stays."""
        return self._change(job_id, "cancel")

    def retry(self, job_id: str) -> dict[str, Any]:
        """Try the failed photos of a closed job again."""
        return self._change(job_id, "retry")

    def delete(self, job_id: str) -> None:
        """Delete a closed job; raises ``ServiceRefused`` while it is open."""
        self._send("DELETE", f"/v1/jobs/{job_id}")

    def _change(self, job_id: str, how: str) -> dict[str, Any]:
        headers = {"Idempotency-Key": f'"{uuid.uuid4()}"'}
        return _object(self._send("POST", f"/v1/jobs/{job_id}/{how}", headers=headers))

    def wait(
        self, job_id: str, told: Callable[[dict[str, Any]], None] = lambda _: None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Return the job once it is closed; ``told`` hears of every change on the way.

        Long polls, each answered when something changed. Raises ``WaitedTooLong`` after ``timeout`` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        etag: str | None = None
        job: dict[str, Any] = {}
        while True:
            left = None if end is None else end - time.monotonic()
            hold = _HOLD_SECONDS if left is None else max(0, min(_HOLD_SECONDS, int(left)))
            headers = {"Prefer": f"wait={hold}", "If-None-Match": etag} if etag else {}
            asked = time.monotonic()
            answer = self._send("GET", f"/v1/jobs/{job_id}", headers=headers)
            if answer.status_code != HTTPStatus.NOT_MODIFIED:
                job, etag = _object(answer), answer.headers.get("ETag")
                told(job)
            if job.get("state") in CLOSED:
                return job
            if left is not None and left <= 0:
                raise WaitedTooLong(f"{job_id} is still {job.get('state', 'open')}; see: poxvisio jobs wait {job_id}")
            if answer.status_code == HTTPStatus.NOT_MODIFIED and time.monotonic() - asked < 1:
                time.sleep(_pause_asked_for(answer) or 0.5)  # too many wait already, so we were answered at once

    def results(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Yield what became of each photo, in order once the job is closed.

        Raises ``ServiceAway`` where the service says in its last line that it had to break off.
        """
        with self._stream(f"/v1/jobs/{job_id}/results", "application/x-ndjson") as answer:
            for line in _lines(answer):
                row = json.loads(line)
                if "status" in row and "outcome" not in row:
                    raise ServiceAway(row.get("detail", "the service broke off in the middle of the results"))
                yield row

    def results_csv(self, job_id: str) -> Iterator[str]:
        """Yield the results as lines of CSV, the names of the columns first."""
        with self._stream(f"/v1/jobs/{job_id}/results", "text/csv") as answer:
            for line in _lines(answer):
                text = line.decode()
                if text.startswith("INCOMPLETE:"):
                    raise ServiceAway(text)
                yield text

    def results_parquet(self, job_id: str) -> Iterator[bytes]:
        """Yield the results as pieces of a Parquet file; raises ``ServiceAway`` at its end where it has none."""
        with self._stream(f"/v1/jobs/{job_id}/results", "application/vnd.apache.parquet") as answer:
            end = b""
            for piece in answer.iter_bytes():
                end = (end + piece)[-len(_PARQUET_END) :]
                yield piece
        if end != _PARQUET_END:
            raise ServiceAway("the service broke off in the middle of the results")

    def events(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield what happened behind this number, in order, to the end of the feed as it is now."""
        while True:
            page = self._json("GET", "/v1/events", params={"after": after, "limit": _PAGE})
            yield from page["events"]
            if len(page["events"]) < _PAGE:
                return
            after = page["next"]

    @contextmanager
    def event_stream(self, after: int) -> Iterator[Iterator[dict[str, Any]]]:
        """Open a stream of what happened behind this number and of what happens from now on (SSE).

        Raises ``ServiceAway`` where it breaks off, or nothing is heard for longer than the service is ever silent.
        """
        with self._stream("/v1/events", "text/event-stream", {"Last-Event-ID": str(after)}, _SILENCE) as answer:
            if answer.headers.get("Content-Type", "").partition(";")[0] != "text/event-stream":
                raise ServiceRefused(answer.status_code, "the answer is no event stream: is this a PoxVisio service?")
            yield (json.loads(message.data) for message in messages(_lines(answer)))

    def models(self) -> list[dict[str, Any]]:
        """Return the models there are."""
        return list(self._json("GET", "/v1/models")["models"])

    def shadow_report(self, model_id: str) -> dict[str, Any]:
        """Return how a shadow compares with what stands."""
        return self._json("GET", f"/v1/models/{model_id}/shadow", params={"limit": 1000})

    def photo(self, image_id: str) -> bytes:
        """Return the working copy of a photo, a JPEG."""
        return self._send("GET", f"/v1/images/{image_id}/photo").content

    def model_change(self, change_id: str) -> dict[str, Any]:
        """Return a change of what serves, as it stands."""
        return self._json("GET", f"/v1/models/changes/{change_id}")

    def receipt(self, job_id: str, stage: str | None = None) -> dict[str, Any]:
        """Return the job's signed receipt: the latest, or the one of a stage (``accepted``, ``closed``)."""
        return self._json("GET", f"/v1/jobs/{job_id}/receipt", params={"stage": stage} if stage else {})

    def keys(self) -> dict[str, Any]:
        """Return the JWK set that receipts are verified with."""
        return self._json("GET", "/.well-known/poxvisio-keys.json")

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post a JSON body and return the answer's."""
        headers = {"Idempotency-Key": f'"{uuid.uuid4()}"'}
        return _object(self._send("POST", path, json=dict(body), headers=headers))

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        return _object(self._send(method, path, **request))

    def _send(
        self,
        method: str,
        path: str,
        *,
        content: Callable[[], PhotoForm | ArchiveBody | BundleForm] | None = None,
        **request: Any,
    ) -> httpx.Response:
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
                asked = _pause_asked_for(answer)
                if answer.status_code not in _AGAIN or asked is None or time.monotonic() + asked > end:
                    return _unless_refused(answer, self.url)
                why, pause = _message(answer), max(asked, _PAUSES[0])
            if pause >= _TOLD_FROM:
                tell(f"{why.rstrip('.')}; trying again in {pause:.0f} s")
            time.sleep(pause)
        raise AssertionError("unreachable")

    @contextmanager
    def _stream(
        self, path: str, kind: str, headers: Mapping[str, str] | None = None, read: float = _READ_SECONDS
    ) -> Iterator[httpx.Response]:
        timeout = httpx.Timeout(30, connect=5, read=read)
        try:
            with self._http.stream("GET", path, headers={"Accept": kind, **(headers or {})}, timeout=timeout) as answer:
                if answer.is_error:
                    answer.read()
                yield _unless_refused(answer, self.url)
        except httpx.TransportError as error:
            raise ServiceAway(f"{self.url} went away: {str(error) or type(error).__name__}") from error


def _unless_refused(answer: httpx.Response, url: str) -> httpx.Response:
    if answer.status_code == HTTPStatus.NOT_MODIFIED or answer.is_success:
        return answer
    if answer.status_code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        raise ServiceAway(_message(answer), _pause_asked_for(answer))
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


def _lines(answer: httpx.Response) -> Iterator[bytes]:
    """Yield lines as the formats mean them: a custom_id may hold what Unicode, but not JSON, takes for a line's end."""
    rest = b""
    for piece in answer.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError as error:
        raise ServiceRefused(answer.status_code, "the answer is no JSON: is this a PoxVisio service?") from error
    if not isinstance(body, dict):
        raise ServiceRefused(answer.status_code, "the answer is no JSON object: is this a PoxVisio service?")
    return body


def _pause_asked_for(answer: httpx.Response) -> float | None:
    """Seconds of ``Retry-After`` (RFC 9110), where it is a number."""
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
