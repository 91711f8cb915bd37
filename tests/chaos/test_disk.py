"""Every accepted photo has exactly one result, and nothing is accepted that is not kept, while a disk is full.

The disks are small ones in memory, which only root may mount; where that is not allowed the tests are skipped.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from tests.chaos import promise
from tests.chaos.promise import Sampler, undisturbed
from tests.chaos.running import LONG, Up, running, until
from tests.chaos.samples import SAMPLES

FEW = SAMPLES[:6]


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Have a small disk at the folder; skip the test where mounting is not allowed."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until the disk is full; return what to delete."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return ballast


def ended(service: Up, job: UUID, reference: promise.Reference) -> None:
    promise.await_closed(service, [job], 120)
    assert promise.answers(service.rows, job, FEW, reference) == []


@LONG
def test_a_full_disk_of_photos_refuses_and_delays_and_loses_nothing(tmp_path: Path) -> None:
    photos = tmp_path / "data" / "photos"
    with disk(photos, 16), running(tmp_path) as service, Sampler(lambda: str(service.facts["database_url"])) as sampler:
        reference = undisturbed(service)
        until(lambda: not any((photos / "incoming").glob("*/*")), "the originals of the first job are gone")
        early = service.submit(FEW)
        ballast = fill(photos)
        refused = service.post([max(SAMPLES, key=len) * 40], key="kept-only-once")
        assert refused.status_code == 503, refused.text
        assert refused.json()["type"].endswith("/problems/storage-away")
        ballast.unlink()
        ended(service, early, reference)
        ended(service, service.insist(FEW, "after"), reference)
        assert service.rows("SELECT count(*) FROM job") == [(3,)]
        assert promise.books(service.rows) == []
    assert sampler.broken == []


@LONG
def test_a_full_disk_of_the_database_refuses_and_delays_and_loses_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    cluster = tmp_path / "data" / "postgres"
    with disk(cluster, 160), running(tmp_path) as service:
        reference = undisturbed(service)
        early = service.submit(FEW)
        ballast = fill(cluster)
        statuses: list[int] = []
        end = time.monotonic() + 10
        while time.monotonic() < end:
            answer = service.post(FEW, key=f"full-{len(statuses)}")
            statuses.append(answer.status_code)
        assert 503 in statuses, "the disk was never full"
        assert set(statuses) <= {202, 503}
        ballast.unlink()
        accepted = sum(status == 202 for status in statuses)
        ended(service, early, reference)
        ended(service, service.insist(FEW, "after"), reference)
        open_jobs = "SELECT count(*) FROM job WHERE closed_at IS NULL"
        until(lambda: service.rows(open_jobs) == [(0,)], "every job closes")
        # A COMMIT whose answer was lost may have made a job that the client was not told of, never the other way.
        [(jobs,)] = service.rows("SELECT count(*) FROM job")
        assert accepted + 3 <= jobs <= len(statuses) + 3
        assert promise.books(service.rows) == []
