"""``poxvisio demo``: the whole way of the sample photos, on services of its own that leave nothing behind.

The services belong to the main thread, as signals do; the guest who sends the photos is a thread that asks them to stop
when it is through. Every figure it ends with is counted, none is assumed.
"""

import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from cli.embedded.ports import free_port
from cli.embedded.processes import wait_until
from cli.listing import RESEARCH_USE, counts_line, line, result_cells, size_text
from cli.options import example
from cli.photos import Photo, find_photos, listing
from cli.receiver import Receiver
from cli.sending import Sent, account, await_all, send
from cli.service import Service
from cli.up import up
from shared import verification
from shared.errors import Unavailable

PHOTOS: Final = Path(__file__).resolve().parent.parent / "models" / "demo" / "photos"
_READY_SECONDS: Final = 300.0
_JOB_SECONDS: Final = 300.0
_WEBHOOK_SECONDS: Final = 30.0
_WIDTHS: Final = (18, 6, 10, 17, 11, 25)


@dataclass
class Visit:
    """What the guest found; ``faults`` says what is missing, ``error`` why it could not go on.

    ``over`` is set when the services are no longer there, whether the guest is through or not.
    """

    sent: int = 0
    answered: int = 0
    faults: list[str] = field(default_factory=list)
    error: Exception | None = None
    through: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def unaccounted(self) -> int:
        """How many photos have no single answer."""
        return self.sent - self.answered


@click.command(epilog=example("poxvisio demo"))
def demo() -> None:
    """Run everything once with the sample photos and account for each one.

    Starts PostgreSQL, Valkey, web, worker, deliverer and sweep on free ports in a temporary directory, sends the sample
    photos through the HTTP API, receives the signed webhook, verifies the receipts, and stops and removes everything.
    Exit code 1 if anything is missing.
    """
    began = time.monotonic()
    photos = find_photos([str(PHOTOS)])
    visit = Visit(sent=len(photos))
    with _interruptible(), _temporary() as folder, Receiver() as receiver:
        ready = folder / "ready.json"
        guest = threading.Thread(target=_visit, args=(visit, photos, ready, receiver, began), daemon=True)
        click.echo(f"starting PostgreSQL, Valkey, web, worker, deliverer and sweep in {folder}")
        guest.start()
        loopback = {"POXVISIO_WEBHOOK_LOOPBACK": receiver.address}
        try:
            up(folder / "data", free_port(), 1, ready, settings=loopback, say=_say)
        finally:
            visit.over.set()
            # Interrupted, the guest finds the service gone; it gets the time to take its progress bar down.
            guest.join(5)
    if visit.error:
        raise visit.error
    if not visit.through:
        raise KeyboardInterrupt
    for fault in visit.faults:
        click.echo(f"missing: {fault}", err=True)
    click.echo(f"everything is stopped and removed, {time.monotonic() - began:.1f} s after the start")
    click.echo(f"demo: {visit.sent} photos sent, {visit.answered} answered, {visit.unaccounted} unaccounted")
    if visit.faults or visit.unaccounted:
        raise click.exceptions.Exit(1)


def _visit(visit: Visit, photos: Sequence[Photo], ready: Path, receiver: Receiver, began: float) -> None:
    try:
        facts = _await_services(ready, visit.over)
        click.echo(f"ready at {facts['url']} after {time.monotonic() - began:.1f} s")
        with Service(facts["url"], facts["api_key"], patience=30) as service:
            _follow(visit, photos, service, receiver)
        visit.through = True
    except Exception as error:  # noqa: BLE001 - the end of the thread: the main one raises it
        # Once the services are gone, so is what the guest was doing: then the end of the services is the news.
        visit.error = error if ready.exists() else None
    finally:
        if not visit.over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)


def _await_services(ready: Path, over: threading.Event) -> dict[str, Any]:
    wait_until(lambda: ready.exists() or over.is_set(), _READY_SECONDS)
    if not ready.exists():
        raise Unavailable("the services did not become ready")
    facts: dict[str, Any] = json.loads(ready.read_text(encoding="utf-8"))
    return facts


def _follow(visit: Visit, photos: Sequence[Photo], service: Service, receiver: Receiver) -> None:
    """Go with the photos.

    1. Ask for webhooks, and send the photos as one job.
    2. Fetch the receipt of acceptance; wait; fetch the results and the receipt of closing.
    3. Show each photo, then hold the webhook and both receipts against what was sent.
    """
    endpoint = service.post("/v1/webhooks", {"url": receiver.url, "events": ["job.completed"]})
    click.echo(f"sending {size_text(photos)}, through the HTTP API")
    began = time.monotonic()
    jobs = send(service, photos)
    accepted = service.receipt(jobs[0].id)
    closed = await_all(service, jobs, _JOB_SECONDS)
    took = time.monotonic() - began
    results = list(service.results(jobs[0].id))
    _show(photos, results)
    visit.answered = _answered(jobs[0], results)
    visit.faults += _without_answer(jobs[0], results)
    click.echo(counts_line(closed[0]["counts"]))
    _check_webhook(visit, receiver, jobs[0], closed[0], str(endpoint["secret"]))
    _check_receipts(visit, jobs[0], {"accepted": accepted, "closed": service.receipt(jobs[0].id)}, service.keys())
    click.echo(f"the job took {took:.1f} s from the first byte sent to the last answer")
    click.echo(RESEARCH_USE)


def _show(photos: Sequence[Photo], results: Sequence[Mapping[str, Any]]) -> None:
    truth = {entry["file"]: entry["truth"] for entry in json.loads((PHOTOS / "photos.json").read_bytes())["photos"]}
    by_ordinal = {result["ordinal"]: result for result in results}
    click.echo(line(("photo", "bytes", "outcome", "label", "probability", "generated as", "reasons"), _WIDTHS))
    for ordinal, photo in enumerate(photos):
        result = by_ordinal.get(ordinal, {"image": "", "outcome": "MISSING"})
        _, outcome, label, likely, reasons = result_cells(result)
        cells = (photo.name, str(photo.size), outcome, label, likely, truth.get(photo.name, "unknown"), reasons)
        click.echo(line(cells, _WIDTHS))


def _answered(sent: Sent, results: Sequence[Mapping[str, Any]]) -> int:
    """Return how many photos sent have exactly one result, of the very bytes that were sent."""
    return sum(len(_results_of(ordinal, digest, results)) == 1 for ordinal, digest in enumerate(sent.digests))


def _without_answer(sent: Sent, results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for ordinal, (photo, digest) in enumerate(zip(sent.photos, sent.digests, strict=True)):
        count = len(_results_of(ordinal, digest, results))
        if count != 1:
            yield f"{photo.name} has {count} results"
    if len(results) != len(sent.photos):
        yield f"{len(sent.photos)} photos were sent and there are {len(results)} results"


def _results_of(ordinal: int, digest: str, results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [
        result
        for result in results
        if result["ordinal"] == ordinal and result["sha256"] == digest and result["outcome"] is not None
    ]


def _check_webhook(visit: Visit, receiver: Receiver, sent: Sent, closed: Mapping[str, Any], secret: str) -> None:
    began = time.monotonic()
    message = receiver.wait_for("job.completed", sent.id, secret, _WEBHOOK_SECONDS)
    if message is None:
        visit.faults.append("no job.completed webhook with a good signature came")
        return
    if message["data"]["counts"] != {name: count for name, count in closed["counts"].items() if name != "waiting"}:
        visit.faults.append("the webhook's counts are not those of the job")
    late = max(0.0, time.monotonic() - began)
    click.echo(f"webhook job.completed received, signature verified by standardwebhooks (waited {late:.1f} s)")


def _check_receipts(visit: Visit, sent: Sent, documents: Mapping[str, dict[str, Any]], keys: dict[str, Any]) -> None:
    folder = listing(PHOTOS)
    for stage, document in documents.items():
        held = account(sent, document, keys)
        compared = verification.compare(document, folder) if held.ok else None
        problems = [*held.problems, *(compared.lines()[1:] if compared else ())]
        if document["payload"]["stage"] != stage:
            problems.append(f"it is the {document['payload']['stage']} one")
        visit.faults += [f"receipt ({stage}): {problem}" for problem in problems]
        verdict = "does not hold" if problems else "signature and Merkle root verified"
        click.echo(f"receipt ({stage}): {held.accounted} of {held.total} accounted for, {verdict}")


def _say(text: str) -> None:
    """Pass on what ``up`` says, but for what the demo says itself."""
    if not text.startswith(("PoxVisio is ready", "data in", "stopp")):
        click.echo(text, err=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, wherever it is."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="poxvisio-demo-"))
    try:
        yield folder
    finally:
        # Whoever is impatient now would leave the folder behind.
        old = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        shutil.rmtree(folder)
        for number, handler in old.items():
            signal.signal(number, handler)
