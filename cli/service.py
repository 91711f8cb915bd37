"""The HTTP client of the commands: what may be asked of one service with one key."""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

from cli.archives import ArchiveBody
from cli.bundle_form import BundleForm
from cli.event_stream import messages
from cli.multipart import PhotoForm
from cli.transport import ServiceAway, ServiceRefused, Transport, lines_of, object_of, pause_asked_for
from shared.errors import Unavailable

CLOSED: Final = frozenset({"completed", "stopped", "cancelled", "expired"})
_HOLD_SECONDS: Final = 20
# A stream of events says something every 15 s.
_SILENCE: Final = 50.0
_PAGE: Final = 500
# What stands behind a Parquet file's table of contents, which the service writes last.
_PARQUET_END: Final = b"PAR1"


class WaitedTooLong(Unavailable):
    """The job is not closed yet; it goes on without us."""


class Service:
    """A PoxVisio service at ``url``, spoken to with one API key.

    ``patience`` is for how many seconds a request may be tried again; the default outlasts the lease of a submission
    whose web process was killed.
    """

    def __init__(self, url: str, key: str, *, patience: float = 600.0) -> None:
        self._line = Transport(url, key, patience=patience)
        self.url = self._line.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._line.close()

    def limits(self) -> dict[str, Any]:
        """Return the published limits."""
        return self._line.json("GET", "/v1/limits")

    def submit(self, form: PhotoForm | ArchiveBody | BundleForm) -> dict[str, Any]:
        """Send a job in one request and return it, as accepted.

        The key of idempotency is new for each call and the same for each try, so that a connection lost after the
        service had taken the job in does not make a second one.
        """
        headers = {**form.headers, "Idempotency-Key": f'"{uuid.uuid4()}"'}
        return object_of(self._line.send("POST", form.path, content=lambda: form, headers=headers))

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job as it stands."""
        return self._line.json("GET", f"/v1/jobs/{job_id}")

    def jobs(self, conditions: Mapping[str, str] | None = None, *, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest jobs that fulfil the conditions, as ``GET /v1/jobs`` names them, newest first."""
        found: list[dict[str, Any]] = []
        params: dict[str, str | int] = {**(conditions or {}), "limit": limit}
        while True:
            page = self._line.json("GET", "/v1/jobs", params=params)
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
        self._line.send("DELETE", f"/v1/jobs/{job_id}")

    def _change(self, job_id: str, how: str) -> dict[str, Any]:
        headers = {"Idempotency-Key": f'"{uuid.uuid4()}"'}
        return object_of(self._line.send("POST", f"/v1/jobs/{job_id}/{how}", headers=headers))

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
            answer = self._line.send("GET", f"/v1/jobs/{job_id}", headers=headers)
            if answer.status_code != HTTPStatus.NOT_MODIFIED:
                job, etag = object_of(answer), answer.headers.get("ETag")
                told(job)
            if job.get("state") in CLOSED:
                return job
            if left is not None and left <= 0:
                raise WaitedTooLong(f"{job_id} is still {job.get('state', 'open')}; see: poxvisio jobs wait {job_id}")
            if answer.status_code == HTTPStatus.NOT_MODIFIED and time.monotonic() - asked < 1:
                time.sleep(pause_asked_for(answer) or 0.5)  # too many wait already, so we were answered at once

    def results(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Yield what became of each photo, in order once the job is closed.

        Raises ``ServiceAway`` where the service says in its last line that it had to break off.
        """
        with self._line.stream(f"/v1/jobs/{job_id}/results", "application/x-ndjson") as answer:
            for line in lines_of(answer):
                row = json.loads(line)
                if "status" in row and "outcome" not in row:
                    raise ServiceAway(row.get("detail", "the service broke off in the middle of the results"))
                yield row

    def results_csv(self, job_id: str) -> Iterator[str]:
        """Yield the results as lines of CSV, the names of the columns first."""
        with self._line.stream(f"/v1/jobs/{job_id}/results", "text/csv") as answer:
            for line in lines_of(answer):
                text = line.decode()
                if text.startswith("INCOMPLETE:"):
                    raise ServiceAway(text)
                yield text

    def results_parquet(self, job_id: str) -> Iterator[bytes]:
        """Yield the results as pieces of a Parquet file; raises ``ServiceAway`` at its end where it has none."""
        with self._line.stream(f"/v1/jobs/{job_id}/results", "application/vnd.apache.parquet") as answer:
            end = b""
            for piece in answer.iter_bytes():
                end = (end + piece)[-len(_PARQUET_END) :]
                yield piece
        if end != _PARQUET_END:
            raise ServiceAway("the service broke off in the middle of the results")

    def events(self, after: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield what happened behind this number, in order, to the end of the feed as it is now.

        Without a number it begins with the oldest event there is. Raises ``ServiceRefused`` (410) where what follows
        the number is deleted.
        """
        while True:
            begin = {} if after is None else {"after": after}
            page = self._line.json("GET", "/v1/events", params=begin | {"limit": _PAGE})
            yield from page["events"]
            if len(page["events"]) < _PAGE:
                return
            after = page["next"]

    @contextmanager
    def event_stream(self, after: int | None) -> Iterator[Iterator[dict[str, Any]]]:
        """Open a stream of what happened behind this number and of what happens from now on (SSE).

        Raises ``ServiceAway`` where it breaks off, or nothing is heard for longer than the service is ever silent, and
        ``ServiceRefused`` (410) where what follows the number is deleted.
        """
        begin = {} if after is None else {"Last-Event-ID": str(after)}
        with self._line.stream("/v1/events", "text/event-stream", begin, _SILENCE) as answer:
            if answer.headers.get("Content-Type", "").partition(";")[0] != "text/event-stream":
                raise ServiceRefused(answer.status_code, "the answer is no event stream: is this a PoxVisio service?")
            yield (json.loads(message.data) for message in messages(lines_of(answer)))

    def models(self) -> list[dict[str, Any]]:
        """Return the models there are."""
        return list(self._line.json("GET", "/v1/models")["models"])

    def shadow_report(self, model_id: str) -> dict[str, Any]:
        """Return how a shadow compares with what stands."""
        return self._line.json("GET", f"/v1/models/{model_id}/shadow", params={"limit": 1000})

    def model_report(self, model_id: str) -> bytes:
        """Return the page that came with a model; raises ``ServiceRefused`` where none did."""
        return self._line.send("GET", f"/v1/models/{model_id}/report").content

    def photo(self, image_id: str) -> bytes:
        """Return the working copy of a photo, a JPEG."""
        return self._line.send("GET", f"/v1/images/{image_id}/photo").content

    def model_change(self, change_id: str) -> dict[str, Any]:
        """Return a change of what serves, as it stands."""
        return self._line.json("GET", f"/v1/models/changes/{change_id}")

    def receipt(self, job_id: str, stage: str | None = None) -> dict[str, Any]:
        """Return the job's signed receipt: the latest, or the one of a stage (``accepted``, ``closed``)."""
        return self._line.json("GET", f"/v1/jobs/{job_id}/receipt", params={"stage": stage} if stage else {})

    def keys(self) -> dict[str, Any]:
        """Return the JWK set that receipts are verified with."""
        return self._line.json("GET", "/.well-known/poxvisio-keys.json")

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post a JSON body and return the answer's."""
        headers = {"Idempotency-Key": f'"{uuid.uuid4()}"'}
        return object_of(self._line.send("POST", path, json=dict(body), headers=headers))
