"""Benchmark of cost against work: jobs of 100 to 50,000 photos, sent, answered, read.

Through the whole service, everything that runs for it is counted. For sizes that would take half an hour so, and to see
what is ours alone, an engine that costs nothing answers: CPU seconds of web, PostgreSQL and the worker's Python, for
photos of 2 kB, so that hashing hardly counts.
"""

import http.client
import json
import secrets
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.accept import key_of, multipart, send, server
from benchmarks.ledger import answer_some
from benchmarks.machine import Span, tree_cpu
from benchmarks.report import Row, versus
from benchmarks.service import send_job
from benchmarks.services import Services, running
from benchmarks.whole import Whole, whole_service
from cli.embedded.ports import HOST

_BYTES: Final = 2_000
_SIZES: Final = (100, 1_000, 10_000, 50_000)
_PHOTOS: Final = 10_000
_FLAT: Final = 1.1
# Sizes of the jobs that the network answers, and how many of each at a time: the smallest first and last, since a
# machine that others use too is not as fast all the time.
_CLASSIFIED: Final = ((100, 5), (1_000, 1), (3_000, 1), (1_000, 1), (100, 5))
_WAIT_SECONDS: Final = 60


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
    """Measure what jobs of each size cost with the network, then without it."""
    yield from _through_the_network(((8, 1), (16, 1)) if quick else _CLASSIFIED)
    yield from _without_a_network(quick=quick)


def _through_the_network(turns: tuple[tuple[int, int], ...]) -> Iterator[Row]:
    """Send jobs to the whole service, read all answers; everything that runs for it is counted."""
    spent: dict[int, float] = defaultdict(float)
    answered: dict[int, int] = defaultdict(int)
    with whole_service() as whole:
        _in_and_out(whole, turns[0][0])
        for size, jobs in turns:
            with Span(whole.pids) as span:
                for _ in range(jobs):
                    _in_and_out(whole, size)
            spent[size] += span.ours
            answered[size] += jobs * size
    each = {size: 1000 * cost / answered[size] for size, cost in spent.items()}
    yield from _flat(each, {}, "through the whole service")


def _in_and_out(whole: Whole, size: int) -> None:
    job, key = send_job(whole, size), whole.facts["api_key"]
    headers = {"Authorization": f"Bearer {key}", "Prefer": f"wait={_WAIT_SECONDS}"}
    connection = http.client.HTTPConnection(HOST, whole.port, timeout=2 * _WAIT_SECONDS)
    state = "queued"
    while state in {"queued", "running"}:
        connection.request("GET", f"/v1/jobs/{job}", headers=headers)
        state = json.loads(connection.getresponse().read())["state"]
    connection.close()
    _read_out(whole.port, key, job, size)


def _without_a_network(*, quick: bool) -> Iterator[Row]:
    """Measure jobs of each size, about as many photos of each."""
    sizes = (20, 100) if quick else _SIZES
    with running(broker=True) as services, server(services) as (port, web):
        key = key_of(services)
        _measure(services, port, web, key, size=sizes[0], jobs=2)
        costs = {
            size: _measure(services, port, web, key, size=size, jobs=max(1, (200 if quick else _PHOTOS) // size))
            for size in sizes
        }
    small, next_size = sorted(costs)[:2]
    own = (costs[small].total - costs[next_size].total) / (1 / small - 1 / next_size)
    notes = {
        size: f"{cost.taken_in:.3f} taking in, {cost.answered:.3f} answering, {cost.read_out:.3f} reading out"
        for size, cost in costs.items()
    }
    notes[small] += f"; a job costs {own:.0f} ms of its own, whatever its size"
    yield from _flat({size: cost.total for size, cost in costs.items()}, notes, "without a network")


def _flat(costs: Mapping[int, float], notes: Mapping[int, str], how: str) -> Iterator[Row]:
    """Hold CPU milliseconds a photo, by the job's size, against their median."""
    middle = statistics.median(costs.values())
    for size, cost in sorted(costs.items()):
        what, note = f"job of {size:,} photos, in and out, {how}", notes.get(size, "")
        yield versus(what, cost, "ms CPU a photo", "median of all sizes, ms", middle, at_most=_FLAT, note=note)


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
            _read_out(port, key, job, size)
        read = _now(services, web)
    return _Cost(each * (taken - began), each * (answered - taken + ours), each * (read - answered))


def _now(services: Services, web: int) -> float:
    return tree_cpu(services.postgres) + tree_cpu(web)


def _read_out(port: int, key: str, job: str, size: int) -> None:
    """Read all results, which have to be so many, and the receipt."""
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
    if rows != size:
        raise RuntimeError(f"{rows} of {size} results")
