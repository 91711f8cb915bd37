"""The way of photos through the service, as ``classify`` and ``demo`` go it: send, wait, account for each one."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.archives import ArchiveBody, is_archive, unaccounted
from cli.multipart import PhotoForm
from cli.photos import Photo
from cli.progress import progress
from cli.service import CLOSED, Service
from shared import verification
from shared.errors import Refused

BYTES_AT_ONCE = 2_000_000_000


class NotSaved(Refused):
    """What the service answered cannot be written to the file that was asked for."""


@dataclass(frozen=True)
class Sent:
    """A job as accepted, and what was sent in it, in order."""

    id: str
    accepted: dict[str, Any]
    photos: list[Photo]
    digests: list[str]
    is_archive: bool = False


@dataclass(frozen=True)
class Accounting:
    """A job's receipt held against what was sent."""

    total: int
    accounted: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every photo sent is in a receipt that holds."""
        return not self.problems and self.accounted == self.total


def send(
    service: Service,
    photos: Sequence[Photo],
    *,
    priority: str | None = None,
    custom_ids: bool = False,
    quiet: bool = False,
    on_job: Callable[[Sent], None] = lambda _: None,
) -> list[Sent]:
    """Send photos as one job, or as several where they do not fit one; ``on_job`` hears of each as it is accepted.

    An archive is a job of its own and goes as it is.
    """
    limits = service.limits()
    archives = [photo for photo in photos if is_archive(photo)]
    loose = [photo for photo in photos if not is_archive(photo)]
    jobs: list[Sent] = []
    before = 0
    with progress("sending", sum(photo.size for photo in photos), "bytes", quiet=quiet) as advance:
        for part in parts(loose, most=int(limits["max_photos"]), most_bytes=int(limits["max_request_bytes"])):
            done = before
            form = PhotoForm(_options(part, priority, custom_ids), part, lambda sent, done=done: advance(done + sent))  # type: ignore[misc]  # a default binds the value of this round
            accepted = service.submit(form)
            jobs.append(Sent(str(accepted["id"]), accepted, part, form.digests))
            on_job(jobs[-1])
            before += sum(photo.size for photo in part)
        for archive in archives:
            done = before
            body = ArchiveBody(archive, priority, lambda sent, done=done: advance(done + sent))  # type: ignore[misc]  # as above
            accepted = service.submit(body)
            jobs.append(Sent(str(accepted["id"]), accepted, [archive], body.digests, is_archive=True))
            on_job(jobs[-1])
            before += archive.size
    return jobs


def parts(photos: Sequence[Photo], *, most: int, most_bytes: int) -> list[list[Photo]]:
    """Split photos into jobs of at most ``most`` photos whose requests stay below ``most_bytes``."""
    # A part has a head of its own, well below this with the longest name there can be.
    head, room = 2048, min(most_bytes, BYTES_AT_ONCE)
    divided: list[list[Photo]] = [[]] if photos else []
    size = 0
    for photo in photos:
        if divided[-1] and (len(divided[-1]) == most or size + photo.size + head > room):
            divided.append([])
            size = 0
        divided[-1].append(photo)
        size += photo.size + head
    return divided


def await_all(
    service: Service, jobs: Sequence[Sent], timeout: float | None, *, quiet: bool = False
) -> list[dict[str, Any]]:
    """Return the jobs once all are closed."""
    closed: list[dict[str, Any]] = []
    before = 0
    with progress("classifying", sum(len(sent.photos) for sent in jobs), "photos", quiet=quiet) as advance:
        for sent in jobs:

            def told(job: dict[str, Any], before: int = before, is_archive: bool = sent.is_archive) -> None:
                answered = sum(job["counts"].values()) - job["counts"]["waiting"]
                # How many photos an archive has is not known before; in the bar it counts as one.
                advance(before + (int(job["state"] in CLOSED) if is_archive else answered))

            closed.append(service.wait(sent.id, told, timeout))
            before += len(sent.photos)
    return closed


def account(sent: Sent, receipt: dict[str, Any], keys: dict[str, Any]) -> Accounting:
    """Hold a receipt against what was sent: its signature, its own sums, and each photo by its place and its bytes."""
    report = verification.verify(receipt, keys)
    problems = list(report.problems)
    if not problems and report.job != sent.id:
        problems.append(f"the receipt is of {report.job}")
    entries = receipt["payload"]["entries"] if not report.problems else []
    if sent.is_archive:
        total, missing = unaccounted(sent.photos[0], sent.digests[0], entries)
        problems += [f"{name} is not in the receipt as it was sent" for name in missing]
        return Accounting(total, total - len(missing), tuple(problems))
    listed = {(entry["ordinal"], entry["sha256"]) for entry in entries}
    unlisted = 0
    for ordinal, (photo, digest) in enumerate(zip(sent.photos, sent.digests, strict=True)):
        if (ordinal, digest) not in listed:
            unlisted += 1
            problems.append(f"{photo.name} is not in the receipt as it was sent")
    return Accounting(len(sent.photos), len(sent.photos) - unlisted, tuple(problems))


def check_writable(path: Path) -> None:
    """Raise ``NotSaved`` unless a file can be written there; nothing is changed."""
    with saving(path):
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()


def save(document: dict[str, Any], path: Path) -> None:
    """Write a receipt to a file; raises ``NotSaved``."""
    with saving(path):
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn what the file system says against a file into ``NotSaved``."""
    try:
        yield
    except OSError as error:
        raise NotSaved(f"{path} cannot be written: {error.strerror}") from error


def save_whole(pieces: Iterable[bytes], path: Path) -> None:
    """Write pieces to a file that is there once the last has come, or not at all; raises ``NotSaved``."""
    part = path.with_name(f"{path.name}.part")
    try:
        with saving(path):
            with part.open("wb") as file:
                file.writelines(pieces)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _options(photos: Sequence[Photo], priority: str | None, custom_ids: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"priority": priority} if priority else {}
    if custom_ids:
        options["photos"] = [{"custom_id": photo.name} for photo in photos]
    return options
