"""Hints that jobs are closed: heard through a living Valkey, and missed by nobody where it is away."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import UUID, uuid4

import pytest
import redis

from cli.embedded.valkey import EmbeddedValkey
from shared.hints import Hearing, Hinting
from shared.settings import Settings

SOON = 20.0


@pytest.fixture
def settings(environment: dict[str, str], valkey: EmbeddedValkey) -> Settings:
    return Settings.load(environment | {"REDIS_URL": valkey.start()})


@pytest.fixture
def heard(settings: Settings) -> Iterator[list[UUID]]:
    """Return the jobs that were hinted at, as they come; somebody listens."""
    jobs: list[UUID] = []
    hearing = Hearing(settings, jobs.extend)
    hearing.begin()
    assert hearing.listens.wait(SOON)
    yield jobs
    hearing.close()


@pytest.fixture
def hinting(settings: Settings) -> Iterator[Hinting]:
    with closing(Hinting(settings)) as made:
        yield made


def eventually(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + SOON
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()


def test_whoever_listens_hears_which_jobs_are_closed(hinting: Hinting, heard: list[UUID]) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    assert hinting.tell([first, second])
    assert hinting.tell([third])
    assert eventually(lambda: heard == [first, second, third])


def test_what_is_no_hint_is_not_taken_for_one(settings: Settings, hinting: Hinting, heard: list[UUID]) -> None:
    job = uuid4()
    with closing(redis.Redis.from_url(settings.broker_url.get_secret_value())) as stranger:
        stranger.publish("poxvisio:closed", b"no job has such a name")
    hinting.tell([job])
    assert eventually(lambda: bool(heard))
    assert heard == [job]


def test_a_listener_hears_again_after_its_valkey_was_killed(
    valkey: EmbeddedValkey, settings: Settings, heard: list[UUID]
) -> None:
    for pid in valkey.pids():
        os.kill(pid, signal.SIGKILL)
    valkey.start()
    job = uuid4()

    def told_until_heard() -> bool:
        with closing(Hinting(settings)) as again:
            again.tell([job])
        return job in heard

    assert eventually(told_until_heard)


def test_a_frozen_valkey_holds_up_who_tells_once_and_not_each_time(valkey: EmbeddedValkey, settings: Settings) -> None:
    now = [0.0]
    with closing(Hinting(settings, clock=lambda: now[0])) as hinting:
        assert hinting.tell([uuid4()])
        for pid in valkey.pids():
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        assert not any(hinting.tell([uuid4()]) for _ in range(100))
        assert time.monotonic() - began < 10
        for pid in valkey.pids():
            os.kill(pid, signal.SIGCONT)
        now[0] += 60.0
        assert hinting.tell([uuid4()])


def test_with_another_broker_nothing_is_told_and_nobody_listens(environment: dict[str, str]) -> None:
    settings = Settings.load(environment | {"BROKER_URL": "amqp://127.0.0.1:1//"})
    hearing = Hearing(settings, lambda _: None)
    hearing.begin()
    hearing.close()
    assert not hearing.listens.is_set()
    with closing(Hinting(settings)) as hinting:
        assert not hinting.tell([uuid4()])
