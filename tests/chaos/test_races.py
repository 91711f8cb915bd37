"""Every accepted photo has exactly one result, whatever races with its answer: poison, cancels, deadlines, restarts."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psutil
import pytest

from shared import ids
from tests.chaos import promise
from tests.chaos.load import Load
from tests.chaos.promise import Reference, Sampler
from tests.chaos.receivers import OTHERS, REFUSING, TAKING, Receivers
from tests.chaos.running import LONG, SEED, Up, until
from tests.chaos.samples import SAMPLES
from tests.chaos.victims import census


@pytest.fixture(autouse=True)
def _watched(watched: Sampler) -> None:
    """Look at the books in every test."""


def family(service: Up, kind: str) -> list[psutil.Process]:
    return census(psutil.Process(service.process.pid)).get(kind, [])


@contextlib.contextmanager
def poisonous(service: Up, job: UUID, ordinal: int) -> Iterator[list[int]]:
    """Kill whatever worker holds the photo, as a photo would that kills whoever works on it; yield who died."""
    killed: list[int] = []
    ending = threading.Event()
    holding = "SELECT leased_by FROM unit WHERE job_id = %s AND state = 'leased' AND %s BETWEEN first AND first + n - 1"

    def kill() -> None:
        while not ending.wait(0.01):
            for (holder,) in service.rows(holding, str(job), ordinal):
                pid = int(holder.split("/")[1])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield killed
    ending.set()
    thread.join()


@LONG
def test_a_photo_that_kills_its_worker_is_quarantined_and_its_neighbours_are_answered(
    service: Up, reference: Reference
) -> None:
    # The photo has to be held long enough to be seen: the workers sleep until its killer is awake.
    for process in family(service, "pool child"):
        process.suspend()
    job = service.submit(SAMPLES[:12])
    with poisonous(service, job, 5) as killed:
        for process in family(service, "pool child"):
            process.resume()
        promise.await_closed(service, [job], 120)
    assert len(set(killed)) >= 3
    assert service.rows("SELECT ordinal, reasons FROM result WHERE job_id = %s AND outcome = 'failed'", str(job)) == [
        (5, ["quarantined"])
    ]
    assert promise.answers(service.rows, job, SAMPLES[:12], reference) == []


@LONG
def test_a_child_that_dies_again_and_again_while_its_model_loads_slowly_comes_back(
    service: Up, reference: Reference
) -> None:
    for _ in range(2):
        before = {process.pid for process in family(service, "pool child")}
        for process in family(service, "pool child"):
            process.kill()
        until(
            lambda: len({p.pid for p in family(service, "pool child")} - before) == 2,  # noqa: B023  # called at once
            "new children start",
        )
        young = family(service, "pool child")
        for process in young:
            process.suspend()
        time.sleep(5)  # longer than Celery waits by its default before it kills a child that does not report
        for process in young:
            assert process.is_running(), "a child that loads slowly was given up"
            process.resume()
    job = service.submit(SAMPLES[:6])
    promise.await_closed(service, [job], 90)
    assert promise.answers(service.rows, job, SAMPLES[:6], reference) == []


@LONG
def test_deadlines_race_with_completions(service: Up, reference: Reference) -> None:
    chance = random.Random(SEED)
    for turn in range(3):
        deadline = datetime.now(UTC) + timedelta(seconds=chance.uniform(0.5, 3))
        job = service.submit(SAMPLES * 4, options={"deadline": deadline.isoformat()})
        promise.await_closed(service, [job], 60)
        wrong = promise.answers(service.rows, job, SAMPLES * 4, reference, {"expired"})
        assert wrong == [], f"seed {SEED}, turn {turn}"


@LONG
def test_receivers_of_every_bad_kind_delay_no_good_one_and_every_delivery_ends(
    service: Up, receivers: Receivers
) -> None:
    made = {}
    with service.client() as client:
        for behaviour in (*TAKING, *REFUSING, *OTHERS):
            body = {"url": receivers.url(behaviour), "events": ["job.completed"]}
            answer = client.post("/v1/webhooks", json=body)
            assert answer.status_code == 201, answer.text
            made[behaviour] = str(ids.parse("endpoint", answer.json()["id"]))
    job = service.submit(SAMPLES[:1])
    promise.await_closed(service, [job], 60)
    [(event,)] = service.rows("SELECT id FROM event WHERE job_id = %s AND kind = 'job.completed'", str(job))
    name = ids.text("event", UUID(event))
    for behaviour in TAKING:
        assert receivers.await_ids(behaviour, {name}, 20) == set(), behaviour
    until(lambda: promise.deliveries(service.rows) == [], "every delivery ends", 90)
    states = {
        behaviour: service.rows("SELECT state FROM delivery WHERE endpoint_id = %s", endpoint)[0][0]
        for behaviour, endpoint in made.items()
    }
    assert {behaviour: states[behaviour] for behaviour in TAKING} == dict.fromkeys(TAKING, "delivered")
    assert {behaviour: states[behaviour] for behaviour in REFUSING} == dict.fromkeys(REFUSING, "dead")
    assert service.rows("SELECT state FROM endpoint WHERE id = %s", made["gone"]) == [("disabled",)]
    assert receivers.ids("redirects")[name] > 0
    assert receivers.ids("good")[name] == 1, "a redirect was followed"


@LONG
def test_everything_is_restarted_in_turn_under_load(service: Up, reference: Reference, watched: Sampler) -> None:
    with Load(service, SAMPLES[:10], SEED, lambda: watched.results, most_photos=4, most_waiting=20) as load:
        until(lambda: len(load.jobs) >= 2, "jobs are accepted")
        for kind in ("web", "worker", "worker", "deliverer", "sweep"):
            old = service.facts["pids"][kind]
            os.kill(old[0], signal.SIGTERM)
            until(lambda: service.replaced(kind, old[0]), f"{kind} is back")  # noqa: B023  # called at once
            accepted = len(load.jobs)
            until(lambda: len(load.jobs) > accepted, "jobs are accepted after it")  # noqa: B023
    promise.await_closed(service, load.jobs, 90)
    assert load.broken == []
    for job, sent in load.jobs.items():
        also = {"cancelled"} if sent.cancelled else set()
        assert promise.answers(service.rows, job, sent.photos, reference, also) == [], f"seed {SEED}"
    assert promise.receipts(service, load.jobs) == []


@LONG
def test_twelve_clients_at_once_are_told_the_truth(service: Up, reference: Reference, watched: Sampler) -> None:
    with Load(
        service, SAMPLES[:10], SEED + 1, lambda: watched.results, clients=12, most_photos=3, most_waiting=200
    ) as load:
        until(lambda: len(load.jobs) >= 40, "jobs are accepted")
    promise.await_closed(service, load.jobs, 120)
    assert load.broken == []
    for job, sent in load.jobs.items():
        also = {"cancelled"} if sent.cancelled else set()
        assert promise.answers(service.rows, job, sent.photos, reference, also) == [], f"seed {SEED}"
