"""Every accepted photo has exactly one result, whatever is killed, frozen or wiped while it is answered."""

import os
import signal
import threading
import time
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import psycopg2
import redis

from tests.chaos.conftest import PHOTOS, Service, until

Reference = list[tuple[int, str, str | None]]


def started(service: Service, at_least: int = 1) -> UUID:
    """Submit all photos and return the job when some, but not all, are answered."""
    job = service.submit()
    until(lambda: service.answered(job) >= at_least, "the first photos are answered")
    assert service.answered(job) < len(PHOTOS), "the job was over before it could be disturbed"
    return job


def ended(service: Service, job: UUID, reference: Reference) -> None:
    """Wait for the job's end and hold it against the promise and the undisturbed answers."""
    service.await_end(job)
    service.check(job, len(PHOTOS))
    assert service.labels(job) == reference


def members(service: Service, number: int = 0) -> list[psutil.Process]:
    parent = psutil.Process(service.pid("worker", number))
    return [parent, *parent.children(recursive=True)]


def test_worker_groups_killed_in_mid_batch(service: Service, reference: Reference) -> None:
    job = started(service)
    before = service.facts["pids"]["worker"]
    for number in (0, 1):
        for process in members(service, number):
            process.kill()
    ended(service, job, reference)
    assert service.rows("SELECT count(*) FROM unit WHERE job_id = %s AND crashes > 0", str(job)) > [(0,)]
    until(lambda: not set(before) & set(service.facts["pids"]["worker"]), "new workers stand in the ready file")


def test_pool_children_killed_under_living_parents(service: Service, reference: Reference) -> None:
    job = started(service)
    for number in (0, 1):
        parent, *children = members(service, number)
        [child] = [process for process in children if "spawn_main" in " ".join(process.cmdline())]
        child.kill()
        assert parent.is_running()
    ended(service, job, reference)


def test_a_worker_frozen_past_its_lease_changes_nothing_when_it_wakes(service: Service, reference: Reference) -> None:
    job = started(service)
    frozen = members(service, 0)
    for process in frozen:
        process.suspend()
    try:
        service.await_end(job)
        answers = service.rows("SELECT image_id, fence, finished_at FROM result WHERE job_id = %s ORDER BY 1", str(job))
    finally:
        for process in frozen:
            process.resume()
    time.sleep(2)
    later = service.rows("SELECT image_id, fence, finished_at FROM result WHERE job_id = %s ORDER BY 1", str(job))
    assert later == answers
    ended(service, job, reference)


def test_valkey_killed_and_wiped(service: Service, reference: Reference) -> None:
    job = started(service)
    url = service.facts["broker_url"]
    with redis.Redis.from_url(url) as broker:
        broker.flushall()
    killed = service.pid("valkey")
    os.kill(killed, signal.SIGKILL)
    until(lambda: service.replaced("valkey", killed), "Valkey is back")
    second = service.submit(PHOTOS[:3])
    ended(service, job, reference)
    service.await_end(second)
    service.check(second, 3)


def test_postgresql_killed(service: Service, reference: Reference) -> None:
    job = started(service)
    killed = service.pid("postgres")
    os.kill(killed, signal.SIGKILL)
    until(lambda: service.replaced("postgres", killed), "PostgreSQL is back")
    ended(service, job, reference)


def stored(service: Service) -> set[str]:
    incoming = Path(service.facts["data_dir"]) / "photos" / "incoming"
    return {folder.name for folder in incoming.iterdir()} if incoming.exists() else set()


def test_web_killed_between_storing_and_committing_with_the_clients_retry(service: Service) -> None:
    until(lambda: not stored(service), "the originals of earlier jobs are gone")
    jobs_before = service.rows("SELECT count(*) FROM job")[0][0]
    lock = psycopg2.connect(service.facts["database_url"])
    lock.cursor().execute("LOCK TABLE job IN ACCESS EXCLUSIVE MODE")  # web stops where it would commit
    cut: list[BaseException] = []

    def send() -> None:
        try:
            service.submit(PHOTOS[:5], key="one-key-for-both")
        except (httpx.TransportError, AssertionError) as error:
            cut.append(error)

    first = threading.Thread(target=send)
    first.start()
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE '%%INSERT INTO job%%'"
    )
    until(lambda: service.rows(waiting) > [(0,)], "web waits for its commit")
    assert len(stored(service)) == 1
    killed = service.pid("web")
    for process in [*psutil.Process(killed).children(recursive=True), psutil.Process(killed)]:
        process.kill()
    first.join(60)
    lock.rollback()
    lock.close()
    assert cut, "the client was told nothing"
    assert service.rows("SELECT count(*) FROM job")[0][0] == jobs_before

    until(lambda: service.replaced("web", killed), "web is back")
    job = retried(service)
    service.await_end(job)
    service.check(job, 5)
    assert service.submit(PHOTOS[:5], key="one-key-for-both") == job
    assert service.rows("SELECT count(*) FROM job")[0][0] == jobs_before + 1


def retried(service: Service) -> UUID:
    """Send the same photos under the same key until the dead request's lease is over, as a client would."""
    files = [("photos", (f"{place}.jpg", data, "image/jpeg")) for place, data in enumerate(PHOTOS[:5])]
    statuses = []
    while True:
        try:
            with service.client() as client:
                answer = client.post("/v1/jobs", files=files, headers={"Idempotency-Key": "one-key-for-both"})
        except httpx.TransportError:
            time.sleep(0.2)
            continue
        statuses.append(answer.status_code)
        if answer.status_code == 202:
            return UUID(hex=answer.json()["id"].removeprefix("job_"))
        assert answer.status_code in {409, 503}, answer.text
        assert len(statuses) < 100, "the key was never free again"
        time.sleep(min(1.0, float(answer.headers["Retry-After"])))
