"""When clients that wait for a job look at the database, and that one look serves them all."""

import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from web.watch import Watch

TENANT = uuid4()


class Jobs:
    """Jobs that close when the test says so, and the looks at them."""

    def __init__(self) -> None:
        self.closed: set[UUID] = set()
        self.looks: list[Collection[UUID]] = []

    def look(self, _tenant: UUID, jobs: Collection[UUID]) -> Collection[UUID]:
        self.looks.append(jobs)
        return self.closed.intersection(jobs)


def test_a_job_that_closes_is_seen_and_one_that_does_not_is_given_up_in_time() -> None:
    jobs, job = Jobs(), uuid4()
    watch = Watch(jobs.look)
    assert not watch.wait(TENANT, job, 0.05)
    jobs.closed.add(job)
    assert watch.wait(TENANT, job, 60)


def test_one_look_serves_every_client_of_a_tenant_and_several_of_one_job() -> None:
    jobs, ids = Jobs(), [uuid4() for _ in range(8)]
    watch = Watch(jobs.look)
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(watch.wait, TENANT, job, 60) for job in ids * 2]
        while not jobs.looks or len(jobs.looks[-1]) < len(ids):
            time.sleep(0.001)
        jobs.closed.update(ids)
        assert all(found.result(60) for found in waiting)


def test_looks_of_a_crowd_come_no_faster_than_those_of_one() -> None:
    jobs = Jobs()
    watch = Watch(jobs.look)
    watch.usual = 2.0
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda job: watch.wait(TENANT, job, 0.6), [uuid4() for _ in range(16)]))
    assert len(jobs.looks) <= 0.6 / 0.1 + 1


def test_a_look_that_fails_reaches_its_client_and_nobody_is_kept() -> None:
    def look(_tenant: UUID, _jobs: Collection[UUID]) -> Collection[UUID]:
        raise ConnectionError

    watch = Watch(look)
    with pytest.raises(ConnectionError):
        watch.wait(TENANT, uuid4(), 60)
    assert watch._waiting == {}


def test_what_is_usual_is_learnt_and_unlearnt() -> None:
    jobs, job = Jobs(), uuid4()
    watch = Watch(jobs.look)
    closing = threading.Timer(0.2, jobs.closed.add, [job])
    closing.start()
    assert watch.wait(TENANT, job, 60)
    closing.join()
    after_a_slow_one = watch.usual
    for _ in range(4):
        assert watch.wait(TENANT, job, 60)
    assert watch.usual < after_a_slow_one
