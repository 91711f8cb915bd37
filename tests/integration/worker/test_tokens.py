"""Tokens that a pool child takes itself: the very ones that would have come through Celery."""

import os
import signal
import threading
import time
from contextlib import closing

import pytest

from cli.embedded.valkey import EmbeddedValkey
from shared.broker import Broker
from shared.settings import Settings
from worker.tokens import Tokens

LONG = 600.0
SOON = 20.0


@pytest.fixture
def settings(environment: dict[str, str], valkey: EmbeddedValkey) -> Settings:
    return Settings.load(environment | {"REDIS_URL": valkey.start()})


def test_each_token_is_taken_once_whichever_lane_it_lies_in(settings: Settings) -> None:
    with closing(Broker(settings)) as broker, closing(Tokens(settings, seconds=0.1)) as tokens:
        assert broker.wake(["bulk", "interactive", "normal"])
        assert [tokens.take() for _ in range(4)] == [True, True, True, False]


def test_a_token_that_is_sent_meanwhile_ends_the_wait(settings: Settings) -> None:
    with closing(Broker(settings)) as broker, closing(Tokens(settings, seconds=LONG)) as tokens:
        sending = threading.Timer(0.1, broker.wake, [["normal"]])
        sending.start()
        assert tokens.take()
        sending.join()


def test_who_is_to_stop_waits_no_longer(settings: Settings) -> None:
    with closing(Tokens(settings, seconds=LONG)) as tokens:
        stopping = threading.Timer(0.1, tokens.stop)
        stopping.start()
        began = time.monotonic()
        assert not tokens.take()
        assert time.monotonic() - began < SOON
        stopping.join()


def test_a_frozen_valkey_holds_a_child_for_a_moment_and_is_left_alone_for_a_while(
    settings: Settings, valkey: EmbeddedValkey
) -> None:
    now = [0.0]
    with closing(Broker(settings)) as broker, closing(Tokens(settings, seconds=LONG, clock=lambda: now[0])) as tokens:
        for pid in valkey.pids():
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        assert not any(tokens.take() for _ in range(100))
        assert time.monotonic() - began < SOON
        for pid in valkey.pids():
            os.kill(pid, signal.SIGCONT)
        assert broker.wake(["normal"])
        assert not tokens.take()
        now[0] += 60.0
        # What was asked before the freeze may have taken it.
        assert broker.wake(["normal"])
        assert tokens.take()


def test_with_another_broker_tokens_come_through_celery_alone(environment: dict[str, str]) -> None:
    settings = Settings.load(environment | {"BROKER_URL": "amqp://127.0.0.1:1//"})
    with closing(Tokens(settings, seconds=LONG)) as tokens:
        assert not tokens.take()
