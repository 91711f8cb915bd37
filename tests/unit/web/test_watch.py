"""When clients that wait for a job look at the database, and that one look serves them all."""

import threading
import time
from collections.abc import Collection, Mapping
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

    def look(self, _tenant: UUID, jobs: Collection[UUID]) -> Mapping[UUID, str]:
        self.looks.append(jobs)
        return {job: f"answer of {job}" for job in self.closed.intersection(jobs)}


def test_a_job_that_closes_is_seen_and_one_that_does_not_is_given_up_in_time() -> None:
    jobs, job = Jobs(), uuid4()
    watch = Watch(jobs.look)
    assert watch.wait(TENANT, job, 0.05) is None
    jobs.closed.add(job)
    assert watch.wait(TENANT, job, 60) == f"answer of {job}"


def test_one_look_serves_every_client_of_a_tenant_and_several_of_one_job() -> None:
    jobs, ids = Jobs(), [uuid4() for _ in range(8)]
    watch = Watch(jobs.look)
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(watch.wait, TENANT, job, 60) for job in ids * 2]
        while not jobs.looks or len(jobs.looks[-1]) < len(ids):
            time.sleep(0.001)
        jobs.closed.update(ids)
        assert [found.result(60) for found in waiting] == [f"answer of {job}" for job in ids * 2]


def test_looks_of_a_crowd_come_no_faster_than_those_of_one() -> None:
    jobs = Jobs()
    watch = Watch(jobs.look)
    watch.usual = 2.0
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda job: watch.wait(TENANT, job, 0.6), [uuid4() for _ in range(16)]))
    assert len(jobs.looks) <= 0.6 / 0.1 + 1


def test_a_look_that_fails_reaches_its_client_and_nobody_is_kept() -> None:
    def look(_tenant: UUID, _jobs: Collection[UUID]) -> Mapping[UUID, str]:
        raise ConnectionError

    watch = Watch(look)
    with pytest.raises(ConnectionError):
        watch.wait(TENANT, uuid4(), 60)
    assert watch._crowds == {}


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


def test_whoever_looks_hands_over_when_it_is_served_or_gives_up() -> None:
    jobs, first, last = Jobs(), uuid4(), uuid4()
    watch = Watch(jobs.look)
    with ThreadPoolExecutor(3) as pool:
        impatient = pool.submit(watch.wait, TENANT, uuid4(), 0.05)
        while not jobs.looks:
            time.sleep(0.001)
        others = [pool.submit(watch.wait, TENANT, job, 60) for job in (first, last)]
        assert impatient.result(60) is None
        jobs.closed.add(first)
        assert others[0].result(60)
        jobs.closed.add(last)
        assert others[1].result(60)
    assert watch._crowds == {}


def test_who_waits_for_long_is_looked_for_ever_less_often() -> None:
    jobs = Jobs()
    watch = Watch(jobs.look)
    watch.usual = 0.01
    assert watch.wait(TENANT, uuid4(), 1.0) is None
    assert len(jobs.looks) < 100  # 200, if all came a two-hundredth of a second apart


def test_what_may_have_closed_already_is_not_waited_for_as_something_new_is() -> None:
    jobs, job = Jobs(), uuid4()
    jobs.closed.add(job)
    watch = Watch(jobs.look)
    watch.usual = 60.0
    assert watch.wait(TENANT, job, 30, is_new=False)
    assert watch.usual == 60.0


def test_the_end_wakes_everybody_and_nobody_waits_after_it() -> None:
    jobs = Jobs()
    watch = Watch(jobs.look, longest=60.0)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(watch.wait, tenant, uuid4(), 600) for tenant in (TENANT, TENANT, uuid4(), uuid4())]
        while sum(len(crowd.waiting) for crowd in watch._crowds.values()) < 4:
            time.sleep(0.001)
        watch.end()
        assert [found.result(60) for found in waiting] == [None] * 4
    assert watch.ended
    assert watch.wait(TENANT, uuid4(), 600) is None
    watch.pause(600)
    assert watch._crowds == {}


def test_who_began_long_ago_is_looked_for_as_seldom_as_is_allowed() -> None:
    jobs = Jobs()
    watch = Watch(jobs.look, shortest=0.001, longest=0.2)
    began = time.monotonic() - 3600
    assert watch.wait(TENANT, uuid4(), 1.0, is_new=False, began=began) is None
    assert 1 <= len(jobs.looks) <= 5


def test_any_name_of_a_wish_will_do_and_clients_of_different_wishes_are_served_each_their_own() -> None:
    def look(_tenant: UUID, numbers: Collection[int]) -> Mapping[int, list[int]]:
        return {number: list(range(number, 4)) for number in numbers if number < 4}

    watch = Watch(look)
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(watch.wait, TENANT, number, seconds) for number, seconds in ((1, 60), (3, 60), (4, 0.1))]
        assert [each.result(60) for each in found] == [[1, 2, 3], [3], None]


def hinted_at(watch: Watch[UUID, str], jobs: Jobs, job: UUID) -> None:
    """Close the job and hint at it when somebody waits for it."""
    while not watch._crowds:
        time.sleep(0.001)
    jobs.closed.add(job)
    watch.hint([uuid4(), job])


def test_a_hint_makes_who_waits_look_at_once() -> None:
    jobs, job = Jobs(), uuid4()
    watch = Watch(jobs.look, longest=600.0)
    watch.usual = 600.0
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(watch.wait, TENANT, job, 600)
        hinted_at(watch, jobs, job)
        assert waiting.result(60) == f"answer of {job}"
    assert len(jobs.looks) == 1
    assert watch.usual < 600.0


def test_a_hint_that_comes_before_its_client_waits_is_kept_for_it() -> None:
    jobs, job = Jobs(), uuid4()
    watch = Watch(jobs.look, longest=600.0)
    watch.usual = 600.0
    jobs.closed.add(job)
    watch.hint([job])
    assert watch.wait(TENANT, job, 600)
    assert len(jobs.looks) == 1


def test_who_waits_for_a_short_time_is_served_where_hints_came_once_and_come_no_more() -> None:
    jobs, job = Jobs(), uuid4()
    watch = Watch(jobs.look, longest=600.0)
    watch.usual = 600.0
    jobs.closed.add(job)
    watch.hint([job])
    assert watch.wait(TENANT, job, 600)
    unhinted = [uuid4(), uuid4()]
    jobs.closed.update(unhinted)
    assert [watch.wait(TENANT, each, 0.05) for each in unhinted] == [f"answer of {each}" for each in unhinted]


def test_hints_at_what_nobody_waits_for_lead_to_no_look_and_are_forgotten_in_the_end() -> None:
    jobs = Jobs()
    watch = Watch(jobs.look, longest=600.0)
    watch.usual = 600.0
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(watch.wait, TENANT, uuid4(), 0.2)
        for _ in range(200):
            watch.hint([uuid4() for _ in range(10)])
        assert waiting.result(60) is None
    assert jobs.looks == []
    assert len(watch._hints) <= 1000


def test_while_hints_come_nobody_looks_before_them_and_without_them_somebody_does_again() -> None:
    jobs, job = Jobs(), uuid4()
    watch = Watch(jobs.look)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(watch.wait, TENANT, job, 60)
        hinted_at(watch, jobs, job)
        assert waiting.result(60)
    for hints_are_missing in (False, False, True):
        watch.usual = 0.4
        jobs.looks.clear()
        # Nobody hints at this one, which is over before twice the usual time: it is looked for once, at its end.
        assert watch.wait(TENANT, uuid4(), 0.6) is None
        assert (len(jobs.looks) > 1) is hints_are_missing
        jobs.closed.add(unhinted := uuid4())
        assert watch.wait(TENANT, unhinted, 60)


def test_a_hint_at_a_job_reaches_all_its_clients_whatever_else_they_wish() -> None:
    jobs, job = Jobs(), uuid4()

    def look(_tenant: UUID, wishes: Collection[tuple[UUID, int]]) -> Mapping[tuple[UUID, int], int]:
        return {wish: wish[1] for wish in wishes if wish[0] in jobs.closed}

    watch = Watch(look, named=lambda wish: wish[0], longest=600.0)
    watch.usual = 600.0
    tenants = (TENANT, TENANT, uuid4())
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(watch.wait, tenant, (job, number), 600) for number, tenant in enumerate(tenants)]
        while sum(len(crowd.waiting) for crowd in watch._crowds.values()) < 3:
            time.sleep(0.001)
        jobs.closed.add(job)
        watch.hint([job])
        assert [each.result(60) for each in waiting] == [0, 1, 2]
