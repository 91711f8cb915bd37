"""Benchmark of fairness: a person's photo while thousands of bulk photos wait, and clinics that share the workers.

The first row is the whole service over HTTP with its real network; the single photos come before the bulk and while it
waits. The others are the ledger's alone: who is answered in which order depends on no clock.
"""

import http.client
import json
import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Final

from benchmarks.accept import multipart, send
from benchmarks.apart import Apart
from benchmarks.ledger import submit_job
from benchmarks.paced import PacedWorker
from benchmarks.pictures import SMALL, photos
from benchmarks.report import Row, versus
from benchmarks.services import running
from benchmarks.whole import Whole, whole_service
from cli.embedded.ports import HOST

_FAST: Final = 1e9
_DIFFERENT: Final = 8
_AT_ONCE: Final = 500


def run(*, quick: bool) -> Iterator[Row]:
    """Measure the single photo, then the shares."""
    yield _single(bulk=120 if quick else 10_000, count=2 if quick else 60)
    yield from _shares(each=1_000 if quick else 10_000)


def _single(bulk: int, count: int) -> Row:
    """One client, one photo after the other, idle and behind bulk that the same clinic sent."""
    with whole_service() as whole:
        key = whole.facts["api_key"]
        setup = {"dialect": "poxvisio", "kind": SMALL.name, "different": _DIFFERENT, "key": key}
        with Apart("benchmarks.clients:Clients", port=whole.port, **setup) as clients:
            clients.ask(clients=1, photos=4)
            idle = clients.ask(clients=1, photos=2 * count).value["answered"]
            body = multipart((photos(SMALL, _DIFFERENT) * -(-min(bulk, _AT_ONCE) // _DIFFERENT))[: min(bulk, _AT_ONCE)])
            jobs = [send(whole.port, key, body) for _ in range(-(-bulk // _AT_ONCE))]
            crowded = clients.ask(clients=1, photos=2 * count).value["answered"]
            left = sum(_cancelled(whole, key, job) for job in reversed(jobs))
    if not left:
        raise RuntimeError("the bulk was over before the single photos were")
    slow, fast = (1000 * statistics.quantiles(found, n=20)[-1] for found in (crowded, idle))
    middle, usual = (1000 * statistics.median(found) for found in (crowded, idle))
    note = f"the median is {middle:.0f} ms against {usual:.0f}; {left:,} of the bulk still waited at the end"
    what = f"single photo of 1 MP while {bulk:,} bulk photos wait, p95"
    return versus(what, slow, "ms", "idle, ms", fast, at_most=2.0, note=note)


def _cancelled(whole: Whole, key: str, job: str) -> int:
    """Cancel the job and return how many of its photos had no answer yet."""
    connection = http.client.HTTPConnection(HOST, whole.port, timeout=120)
    connection.request("POST", f"/v1/jobs/{job}/cancel", headers={"Authorization": f"Bearer {key}"})
    said = json.loads(connection.getresponse().read())
    connection.close()
    return int(said["counts"]["cancelled"]) if "counts" in said else 0


def _shares(each: int) -> Iterator[Row]:
    with (
        running() as services,
        services.database("poxvisio_app") as web,
        services.database("poxvisio_worker") as database,
    ):
        worker = PacedWorker(database, "paced/1/1", _FAST)
        first, second, third = (services.tenant() for _ in range(3))
        submit_job(web, first, each)
        worker.step(8)
        submit_job(web, second, each)
        worker.order.clear()
        while sum(unit.n for unit in worker.order) < each:
            worker.step(8)
        shares = Counter[object]()
        for unit in worker.order:
            shares[unit.tenant_id] += unit.n
        few, many = sorted((shares[first], shares[second]))
        what = f"two clinics of equal weight, the lesser share of {few + many:,} photos"
        yield versus(what, few, "photos", "the other's", many, at_least=0.95)
        single, claims = submit_job(web, third, 1, "interactive"), 0
        worker.order.clear()
        while all(unit.job_id != single for unit in worker.order):
            worker.step(8)
            claims += 1
        what = "claims until a third clinic's single photo is taken"
        yield versus(what, claims, "claims", "the very next", 1, at_most=1.0)
