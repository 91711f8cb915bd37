"""Every accepted photo has exactly one result, whatever is killed, frozen or wiped while it is answered."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import psutil
import pytest
import redis

from shared import ids
from shared.crash_points import POINTS
from tests.chaos import promise
from tests.chaos.promise import Reference, Sampler
from tests.chaos.receivers import Receivers
from tests.chaos.running import LONG, SEED, Service, Up, job_of, until
from tests.chaos.samples import JPEGS, SAMPLES
from tests.chaos.victims import census

#: More than a unit.
PHOTOS = SAMPLES * 3
#: What costs the network nothing.
DAMAGED = SAMPLES[0]
#: Points that only an archive or a list of addresses passes.
EXPANDING = {"worker.receiving", "worker.appended"}


@pytest.fixture(autouse=True)
def _watched(watched: Sampler) -> None:
    """Look at the books in every test."""


def started(service: Service, group: Callable[[], set[int]] | None = None) -> UUID:
    """Submit all photos and return the job once a worker, one of the group where it is given, works on it."""
    job = service.submit(PHOTOS)

    def held() -> bool:
        # A name is HOST/PID/START.
        pids = {int(holder.split("/")[1]) for holder in holders(service, job)}
        return bool(pids if group is None else pids & group())

    until(held, "a worker takes up the job")
    return job


def ended(service: Service, job: UUID, reference: Reference, photos: list[bytes] = PHOTOS) -> None:
    """Wait for the job's end and hold it against the undisturbed answers."""
    promise.await_closed(service, [job], 90)
    assert promise.answers(service.rows, job, photos, reference) == []


@contextlib.contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def points(process: str, short: str) -> list[object]:
    """Return the points of a process; the short run has one of them."""
    return [
        pytest.param(point, marks=[] if point == short else [LONG])
        for point in POINTS
        if point.startswith(f"{process}.") and point not in EXPANDING
    ]


def group(service: Service, number: int = 0) -> list[psutil.Process]:
    parent = psutil.Process(service.pid("worker", number))
    return [parent, *parent.children(recursive=True)]


def test_worker_groups_killed_in_mid_batch(service: Service, reference: Reference) -> None:
    job = started(service)
    before = service.facts["pids"]["worker"]
    for number in (0, 1):
        for process in group(service, number):
            process.kill()
    ended(service, job, reference)
    assert service.rows("SELECT count(*) FROM unit WHERE job_id = %s AND crashes > 0", str(job)) > [(0,)]
    until(lambda: not set(before) & set(service.facts["pids"]["worker"]), "new workers stand in the ready file")


def test_a_worker_frozen_past_its_lease_changes_nothing_when_it_wakes(service: Service, reference: Reference) -> None:
    job = started(service, lambda: {process.pid for process in group(service)})
    statement = "SELECT image_id, fence, finished_at FROM result WHERE job_id = %s ORDER BY 1"
    with frozen(group(service)):
        promise.await_closed(service, [job], 90)
        answers = service.rows(statement, str(job))
    woken = service.rows("SELECT now()")[0][0]
    # A worker that is awake reports itself: by then it has tried to complete what it held.
    awake = "SELECT count(*) > 1 FROM worker_node WHERE last_seen > %s"
    until(lambda: service.rows(awake, woken) == [(True,)], "both workers report themselves")
    assert service.rows(statement, str(job)) == answers
    ended(service, job, reference)


def test_valkey_killed_and_wiped(service: Service, reference: Reference) -> None:
    job = started(service)
    with redis.Redis.from_url(service.facts["broker_url"]) as broker:
        broker.flushall()
    killed = service.pid("valkey")
    os.kill(killed, signal.SIGKILL)
    until(lambda: service.replaced("valkey", killed), "Valkey is back")
    second = service.submit(SAMPLES[:3])
    ended(service, job, reference)
    ended(service, second, reference, SAMPLES[:3])


def test_valkey_frozen(service: Service, reference: Reference) -> None:
    with frozen([psutil.Process(service.pid("valkey"))]):
        began = time.monotonic()
        job = service.submit(SAMPLES[:3])
        assert time.monotonic() - began < 10, "accepting waited for the broker"
    ended(service, job, reference, SAMPLES[:3])


def test_postgresql_killed(service: Service, reference: Reference) -> None:
    job = started(service)
    killed = service.pid("postgres")
    os.kill(killed, signal.SIGKILL)
    until(lambda: service.replaced("postgres", killed), "PostgreSQL is back")
    ended(service, job, reference)


def test_every_connection_terminated_again_and_again(service: Service, reference: Reference) -> None:
    job = started(service)
    for _ in range(5):
        service.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'poxvisio%%'")
        time.sleep(0.3)
    ended(service, job, reference)


@pytest.mark.parametrize("point", points("worker", short="worker.completing"))
def test_a_pool_child_killed_at_a_named_point(service: Service, reference: Reference, point: str) -> None:
    has_died = service.order_death(point)
    job = service.submit(SAMPLES[:6])
    until(has_died, f"a worker dies at {point}")
    ended(service, job, reference, SAMPLES[:6])


@pytest.mark.parametrize("point", points("web", short="web.written"))
def test_web_killed_at_a_named_point_with_the_clients_retry(service: Service, reference: Reference, point: str) -> None:
    before = service.rows("SELECT count(*) FROM job")[0][0]
    has_died = service.order_death(point)
    key = str(uuid4())
    job = service.insist(SAMPLES[:3], key)
    assert has_died()
    ended(service, job, reference, SAMPLES[:3])
    assert service.insist(SAMPLES[:3], key) == job
    assert service.rows("SELECT count(*) FROM job")[0][0] == before + 1


@LONG
def test_the_sweep_killed_while_it_takes_back_leases(service: Service, reference: Reference) -> None:
    has_died = service.order_death("sweep.reaping")
    job = started(service, lambda: {process.pid for process in group(service)})
    with frozen(group(service, 0)):
        until(has_died, "the sweep dies when it finds the frozen worker's leases")
    ended(service, job, reference)


def test_the_deliverer_killed_between_the_answer_and_its_record(service: Service, receivers: Receivers) -> None:
    with service.client() as client:
        made = client.post("/v1/webhooks", json={"url": receivers.url("good"), "events": ["job.completed"]})
        assert made.status_code == 201, made.text
    has_died = service.order_death("deliverer.answered")
    job = service.submit(SAMPLES[:1])
    until(has_died, "the deliverer dies")
    # Its lease has to run out before another may send: that takes longer than a test may, so the clock is moved.
    service.rows("UPDATE delivery SET lease_until = now() WHERE state = 'leased' RETURNING 1")
    [(event,)] = service.rows("SELECT id FROM event WHERE job_id = %s AND kind = 'job.completed'", str(job))
    name = f"evt_{UUID(event).hex}"
    until(lambda: receivers.ids("good")[name] == 2, "the message comes again, under its id")
    until(lambda: promise.deliveries(service.rows) == [], "every delivery ends")


def holders(service: Service, job: UUID) -> set[str]:
    """Return which workers hold units of the job now."""
    held = "SELECT DISTINCT leased_by FROM unit WHERE state = 'leased' AND job_id = %s"
    return {holder for (holder,) in service.rows(held, str(job))}


@pytest.mark.parametrize("point", ["worker.appended", pytest.param("worker.receiving", marks=LONG)])
def test_a_worker_killed_while_it_expands_an_archive(service: Service, reference: Reference, point: str) -> None:
    has_died = service.order_death(point)
    answer = service.post_archive(JPEGS, str(uuid4()))
    assert answer.status_code == 202, answer.text
    until(has_died, f"a worker dies at {point}")
    ended(service, job_of(answer), reference, JPEGS)


def test_a_worker_drained_at_full_load_gives_back_what_it_holds(service: Service, reference: Reference) -> None:
    """Two workers share the job; the one that is asked to stop leaves no crash, no lease and no second answer."""
    # Nine units; a third of their photos take the network's time.
    many = [*SAMPLES, *[DAMAGED] * 30] * (1 + 8 * 32 // (len(SAMPLES) + 30))
    jobs: list[UUID] = []

    def is_shared() -> bool:
        # One worker may be through with them before the other has looked: then both get another nine.
        if not jobs or service.rows("SELECT closed_at IS NOT NULL FROM job WHERE id = %s", str(jobs[-1])) == [(True,)]:
            jobs.append(service.submit(many))
        return len(holders(service, jobs[-1])) == 2

    until(is_shared, "both workers have a share")
    job = jobs[-1]
    pid = service.pid("worker")
    children = {child.pid for child in psutil.Process(pid).children(recursive=True)}
    os.kill(pid, signal.SIGTERM)
    until(lambda: service.replaced("worker", pid), "another worker stands in its place")
    # A name is HOST/PID/START.
    assert not {holder for holder in holders(service, job) if int(holder.split("/")[-2]) in children}
    for one in jobs:
        ended(service, one, reference, many)
        assert service.rows("SELECT count(*) FROM unit WHERE job_id = %s AND crashes > 0", str(one)) == [(0,)]


def test_cancels_race_with_completions(service: Service, reference: Reference) -> None:
    chance = random.Random(SEED)
    for turn in range(3):
        job = service.submit(PHOTOS)
        time.sleep(chance.uniform(0, 2.5))
        with service.client() as client:
            status = client.post(f"/v1/jobs/{ids.text('job', job)}/cancel").status_code
        assert status in {200, 202, 409}, f"seed {SEED}, turn {turn}"
        promise.await_closed(service, [job], 60)
        assert promise.answers(service.rows, job, PHOTOS, reference, {"cancelled"}) == [], f"seed {SEED}, turn {turn}"
        [(state,)] = service.rows("SELECT state FROM job WHERE id = %s", str(job))
        assert state == ("completed" if status == 409 else "cancelled"), f"seed {SEED}, turn {turn}"


@LONG
def test_everything_killed_at_once(service: Up, reference: Reference) -> None:
    job = started(service)
    found = census(psutil.Process(service.process.pid))
    assert {"web", "worker", "deliverer", "sweep", "valkey", "postgres"} <= set(found)
    for processes in found.values():
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    ended(service, job, reference)
