"""Benchmark of a worker's memory: after the first 500 of 20,000 photos, and after all of them."""

import statistics
from collections.abc import Iterator, Sequence

from benchmarks.apart import Apart
from benchmarks.pictures import TINY, photos
from benchmarks.pipeline import check_answers
from benchmarks.report import Row, versus
from benchmarks.services import running, submit_photos

_SETTLED = 500


def run(*, quick: bool) -> Iterator[Row]:
    """Answer many small photos in one drain and compare its beginning with its end."""
    count, settled = (200, 50) if quick else (20_000, _SETTLED)
    with running() as services:
        environment = services.environment("poxvisio_worker_login")
        tenant = services.tenant()
        with (
            Apart("benchmarks.pipeline:Worker", environment=environment) as worker,
            services.database("poxvisio_app") as database,
        ):
            job = submit_photos(services, database, tenant, photos(TINY, 32), count)
            took = worker.ask(watched=True).value
            check_answers(database, tenant, job, count, took["answered"])
    yield from _rows(took["memory"], count, settled)


def _rows(memory: Sequence[tuple[int, float, float]], count: int, settled: int) -> Iterator[Row]:
    """Compare medians over as many photos at the beginning as at the end, since memory breathes with each batch."""
    begun = [seen for seen in memory if settled <= seen[0] <= 2 * settled] or memory[:1]
    ended = [seen for seen in memory if seen[0] >= count - settled]
    for column, who in ((1, "a worker"), (2, "its decoding children")):
        first, last = (statistics.median(seen[column] for seen in part) for part in (begun, ended))
        most = max(seen[column] for seen in memory)
        what = f"memory of {who} after {count:,} photos"
        yield versus(what, last, "MiB", f"after {settled}, MiB", first, at_most=1.05, note=f"{most:.0f} MiB at most")
