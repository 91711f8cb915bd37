"""Benchmark of cost against work: jobs of 100 to 50,000 photos, sent, answered by an engine that costs nothing, read.

CPU seconds of web, PostgreSQL and the worker's Python a photo. Photos are of 2 kB, so that what is counted is ours and
not the hashing of bytes.
"""

import http.client
import secrets
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.accept import key_of, multipart, send, server
from benchmarks.ledger import answer_some
from benchmarks.machine import tree_cpu
from benchmarks.report import Row, versus
from benchmarks.services import Services, running
from cli.embedded.ports import HOST

_BYTES: Final = 2_000
_SIZES: Final = (100, 1_000, 10_000, 50_000)
_PHOTOS: Final = 10_000
_FLAT: Final = 1.1


@dataclass
class _Cost:
    """CPU milliseconds a photo: of taking in, of answering and of reading out."""

    taken_in: float
    answered: float
    read_out: float

    @property
    def total(self) -> float:
        return self.taken_in + self.answered + self.read_out


def run(*, quick: bool) -> Iterator[Row]:
    """Measure jobs of each size, about as many photos of each."""
    sizes = (20, 100) if quick else _SIZES
    with running(broker=True) as services, server(services) as (port, web):
        key = key_of(services)
        _measure(services, port, web, key, size=sizes[0], jobs=2)
        costs = {
            size: _measure(services, port, web, key, size=size, jobs=max(1, (200 if quick else _PHOTOS) // size))
            for size in sizes
        }
    middle = statistics.median(cost.total for cost in costs.values())
    small, next_size = sorted(costs)[:2]
    own = (costs[small].total - costs[next_size].total) / (1 / small - 1 / next_size)
    for size, cost in costs.items():
        note = f"{cost.taken_in:.3f} taking in, {cost.answered:.3f} answering, {cost.read_out:.3f} reading out"
        if size == small:
            note += f"; a job costs {own:.0f} ms of its own, whatever its size"
        what = f"job of {size:,} photos, in and out"
        yield versus(what, cost.total, "ms CPU a photo", "median of all sizes, ms", middle, at_most=_FLAT, note=note)


def _measure(services: Services, port: int, web: int, key: str, *, size: int, jobs: int) -> _Cost:
    body = multipart([b"\xff\xd8\xff\xe0" + secrets.token_bytes(_BYTES - 4) for _ in range(size)])
    each = 1000 / (jobs * size)
    with services.database("poxvisio_worker") as database:
        began = _now(services, web)
        sent = [send(port, key, body) for _ in range(jobs)]
        taken, here = _now(services, web), time.process_time()
        while answer_some(database, with_answers=True):
            continue
        ours, answered = time.process_time() - here, _now(services, web)
        for job in sent:
            if (rows := _read_out(port, key, job)) != size:
                raise RuntimeError(f"{rows} of {size} results")
        read = _now(services, web)
    return _Cost(each * (taken - began), each * (answered - taken + ours), each * (read - answered))


def _now(services: Services, web: int) -> float:
    return tree_cpu(services.postgres) + tree_cpu(web)


def _read_out(port: int, key: str, job: str) -> int:
    """Read all results and the receipt; return how many results there were."""
    connection = http.client.HTTPConnection(HOST, port, timeout=300)
    wanted = {"Authorization": f"Bearer {key}", "Accept": "application/x-ndjson"}
    connection.request("GET", f"/v1/jobs/{job}/results", headers=wanted)
    rows = connection.getresponse().read().count(b"\n")
    connection.request("GET", f"/v1/jobs/{job}/receipt", headers={"Authorization": f"Bearer {key}"})
    receipt = connection.getresponse()
    receipt.read()
    connection.close()
    if receipt.status != http.client.OK:
        raise RuntimeError(f"the receipt came with {receipt.status}")
    return rows
