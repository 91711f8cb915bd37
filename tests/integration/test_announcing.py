"""Word of photos about to be queued: heard by who has nothing else to do, missed by nobody where it is lost."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from cli.embedded.valkey import EmbeddedValkey
from shared.announcing import ANNOUNCED_KEY, Announced, Announcing
from shared.broker import Broker
from shared.settings import Settings
from worker.tokens import Tokens

SOON = 20.0
PHOTO = Announced("incoming/0123456789abcdef/00000", 4096, bytes(range(32)))


@pytest.fixture
def settings(environment: dict[str, str], valkey: EmbeddedValkey) -> Settings:
    return Settings.load(environment | {"REDIS_URL": valkey.start()})


@pytest.fixture
def announcing(settings: Settings) -> Iterator[Announcing]:
    with closing(Announcing(settings)) as made:
        yield made


def test_who_waits_for_tokens_hears_of_a_photo_and_goes_on_waiting(settings: Settings, announcing: Announcing) -> None:
    heard: list[Announced] = []
    with closing(Broker(settings)) as broker, closing(Tokens(settings, seconds=SOON)) as tokens:
        assert announcing.tell(PHOTO)
        assert broker.wake(["interactive"])
        assert tokens.take(heard.append)
    assert heard == [PHOTO]


def test_who_is_busy_with_others_photos_leaves_it(settings: Settings, announcing: Announcing) -> None:
    with closing(Tokens(settings, seconds=0.01)) as tokens:
        assert announcing.tell(PHOTO)
        assert not tokens.take()


def test_one_waits_at_most_and_not_for_long(settings: Settings, announcing: Announcing) -> None:
    with closing(redis.Redis.from_url(settings.broker_url.get_secret_value())) as looking:
        for _ in range(3):
            assert announcing.tell(PHOTO)
            assert int(looking.llen(ANNOUNCED_KEY)) <= 1
        end = time.monotonic() + SOON
        while looking.exists(ANNOUNCED_KEY):
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"short",
        PHOTO.packed()[:40],
        bytes(40) + b"../../etc/passwd",
        bytes(40) + b"/etc/passwd",
        bytes(40) + b"\xff",
    ],
)
def test_what_nobody_of_ours_says_is_not_heard(settings: Settings, said: bytes) -> None:
    heard: list[Announced] = []
    with (
        closing(redis.Redis.from_url(settings.broker_url.get_secret_value())) as stranger,
        closing(Broker(settings)) as broker,
        closing(Tokens(settings, seconds=SOON)) as tokens,
    ):
        stranger.lpush(ANNOUNCED_KEY, said)
        assert broker.wake(["interactive"])
        assert tokens.take(heard.append)
    assert heard == []


def test_a_frozen_valkey_delays_one_word_by_a_moment_and_the_next_ones_not_at_all(
    settings: Settings, valkey: EmbeddedValkey
) -> None:
    now = [0.0]
    with closing(Announcing(settings, clock=lambda: now[0])) as announcing:
        assert announcing.tell(PHOTO)
        for pid in valkey.pids():
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        assert not any(announcing.tell(PHOTO) for _ in range(100))
        assert time.monotonic() - began < SOON
        for pid in valkey.pids():
            os.kill(pid, signal.SIGCONT)
        assert not announcing.tell(PHOTO)
        now[0] += 60.0
        assert announcing.tell(PHOTO)


def test_where_valkeys_rules_forbid_scripts_nothing_is_announced_and_nothing_else_suffers(
    settings: Settings, announcing: Announcing
) -> None:
    made: Any = redis.Redis.from_url(settings.broker_url.get_secret_value())
    with closing(made) as owner:
        owner.execute_command("ACL", "SETUSER", "default", "-@scripting")
        try:
            assert [announcing.tell(PHOTO) for _ in range(2)] == [False, False]
        finally:
            owner.execute_command("ACL", "SETUSER", "default", "+@all")
        assert not announcing.tell(PHOTO)
        assert not owner.exists(ANNOUNCED_KEY)


def test_another_broker_passes_no_word_on(environment: dict[str, str]) -> None:
    settings = Settings.load(environment | {"BROKER_URL": "amqp://127.0.0.1:1//"})
    with closing(Announcing(settings)) as announcing:
        assert not announcing.tell(PHOTO)
