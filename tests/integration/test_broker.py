"""Waking workers: one message a lane on a living broker, and a quick shrug on a dead one."""

import base64
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.embedded.processes import wait_until
from cli.embedded.valkey import EmbeddedValkey
from shared import broker as sending
from shared.broker import DRAIN, TOKEN_SECONDS, Broker
from shared.errors import BrokerAway
from shared.settings import Settings
from shared.vocabulary import LANES
from tests.integration.rabbit import rabbit

PREFIX = "poxvisio:celery:"
# A refused connection takes no time and a silent one the socket's two seconds; a try again would pass this.
SOON = 5.0


@pytest.fixture
def valkey(services_dir: Path) -> Iterator[EmbeddedValkey]:
    """Return a Valkey of the test's own, which it may hurt."""
    server = EmbeddedValkey(services_dir / "valkey")
    server.start()
    yield server
    for pid in server.pids():
        os.kill(pid, signal.SIGCONT)
    server.stop()


def url_of(server: EmbeddedValkey) -> str:
    password = (server.base / "password").read_text(encoding="ascii")
    return f"redis://:{password}@127.0.0.1:{server.port}/0"


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[Any]:
    """Return a connection that looks at what is on the broker."""
    with closing(redis.Redis.from_url(url_of(valkey))) as connection:
        yield connection


def broker_at(environment: dict[str, str], url: str) -> Broker:
    return Broker(Settings.load(environment | {"REDIS_URL": url}))


@pytest.fixture
def broker(environment: dict[str, str], valkey: EmbeddedValkey) -> Iterator[Broker]:
    """Return the sending end of the test's own Valkey."""
    made = broker_at(environment, url_of(valkey))
    yield made
    made.close()


def messages(client: Any, lane: str) -> list[dict[str, Any]]:
    return [json.loads(item) for item in client.lrange(PREFIX + lane, 0, -1)]


def test_one_token_a_lane_lies_on_the_lanes_list(broker: Broker, client: Any) -> None:
    assert broker.wake(["interactive", "bulk"])
    assert {lane: len(messages(client, lane)) for lane in LANES} == {"interactive": 1, "normal": 0, "bulk": 1}


def test_a_token_that_waits_is_enough_and_as_many_wait_as_were_asked_for(broker: Broker, client: Any) -> None:
    for _ in range(3):
        assert broker.wake(["bulk"])
    assert len(messages(client, "bulk")) == 1
    assert broker.wake(["bulk", "bulk", "bulk", "normal"])
    assert {lane: len(messages(client, lane)) for lane in LANES} == {"interactive": 0, "normal": 1, "bulk": 3}
    client.lpop(PREFIX + "bulk", 2)
    assert broker.wake(["bulk", "bulk"])
    assert len(messages(client, "bulk")) == 2


def test_a_token_names_the_task_expires_and_carries_nothing(broker: Broker, client: Any) -> None:
    assert broker.wake(["normal"])
    [message] = messages(client, "normal")
    assert message["headers"]["task"] == DRAIN
    assert message["headers"]["ignore_result"] is True
    left = datetime.fromisoformat(message["headers"]["expires"]) - datetime.now(UTC)
    assert 0 < left.total_seconds() <= TOKEN_SECONDS
    assert message["content-type"] == "application/json"
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([], {})


def test_tokens_are_copies_of_one_that_is_made_anew_long_before_it_expires(
    broker: Broker, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end() -> str:
        client.delete(PREFIX + "normal")
        assert broker.wake(["normal"])
        [message] = messages(client, "normal")
        return str(message["headers"]["expires"])

    assert sending._RENEWED_SECONDS <= TOKEN_SECONDS / 3
    monkeypatch.setattr(sending, "_RENEWED_SECONDS", 0.0)
    first = end()
    monkeypatch.setattr(sending, "_RENEWED_SECONDS", 1.0)
    second = end()
    assert first < second
    assert wait_until(lambda: end() > second, 10)


def shape(value: Any) -> Any:
    """Return a message without what differs from one to the next."""
    if isinstance(value, dict):
        return {
            name: shape(inner) for name, inner in value.items() if name not in {"expires", "id", "reply_to", "root_id"}
        }
    return value


def test_a_token_is_what_celery_itself_would_send_and_no_two_have_the_same_ids(broker: Broker, client: Any) -> None:
    assert broker.wake(["bulk", "bulk"])
    ours = messages(client, "bulk")
    client.delete(PREFIX + "bulk")
    client.execute_command("ACL", "SETUSER", "default", "-eval", "-evalsha")
    assert broker.wake(["bulk", "bulk"])
    theirs = messages(client, "bulk")
    ids = {message["headers"]["id"] for message in ours + theirs}
    tags = {message["properties"].pop("delivery_tag") for message in ours + theirs}
    assert {message["properties"].pop("correlation_id") for message in ours + theirs} == ids
    assert len(ids) == len(tags) == 4
    for one in ours + theirs:
        assert shape(one) == shape(theirs[0])


def test_every_key_on_the_shared_broker_has_the_prefix(broker: Broker, client: Any) -> None:
    assert broker.wake(LANES)
    keys = [key.decode() for key in client.scan_iter()]
    assert keys
    assert all(key.startswith(PREFIX) for key in keys)


def test_waking_nobody_asks_nobody(environment: dict[str, str]) -> None:
    assert broker_at(environment, "redis://127.0.0.1:1/0").wake([])


def told_in_time(broker: Broker, *, lanes: tuple[str, ...] = LANES) -> bool:
    started = time.monotonic()
    woken = broker.wake(lanes)
    assert time.monotonic() - started < SOON
    return woken


def test_with_the_broker_gone_it_says_so_at_once(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets this port
        broker = broker_at(environment, f"redis://127.0.0.1:{taken.getsockname()[1]}/0")
        assert told_in_time(broker) is False
        with pytest.raises(BrokerAway):
            broker.check()
        broker.close()


def test_with_the_broker_killed_it_says_so_and_wakes_again_when_it_is_back(
    broker: Broker, valkey: EmbeddedValkey
) -> None:
    assert broker.wake(["normal"])
    valkey.stop()
    assert told_in_time(broker) is False
    valkey.start()
    broker.check()
    assert broker.wake(["normal"])


@pytest.mark.parametrize("used_before", [False, True])
def test_with_the_broker_frozen_it_gives_up_soon(broker: Broker, valkey: EmbeddedValkey, used_before: bool) -> None:
    if used_before:
        assert broker.wake(["normal"])
    [pid] = valkey.pids()
    os.kill(pid, signal.SIGSTOP)
    assert told_in_time(broker) is False
    with pytest.raises(BrokerAway):
        broker.check()
    os.kill(pid, signal.SIGCONT)
    assert broker.wake(["normal"])


def test_with_a_wrong_password_it_says_so(environment: dict[str, str], valkey: EmbeddedValkey) -> None:
    broker = broker_at(environment, f"redis://:wrong@127.0.0.1:{valkey.port}/0")
    assert told_in_time(broker) is False
    with pytest.raises(BrokerAway):
        broker.check()
    broker.close()


def test_with_the_broker_full_it_says_so(broker: Broker, client: Any) -> None:
    assert broker.wake(["normal"])
    client.config_set("maxmemory", 1)
    assert told_in_time(broker) is False
    client.config_set("maxmemory", 0)
    assert broker.wake(["normal"])


def test_a_wiped_broker_takes_tokens_as_before(broker: Broker, client: Any) -> None:
    assert broker.wake(LANES)
    client.flushall()
    assert broker.wake(LANES)
    assert [len(messages(client, lane)) for lane in LANES] == [1, 1, 1]


def test_a_living_broker_passes_the_check(broker: Broker) -> None:
    broker.check()


def test_a_rabbitmq_that_never_answers_holds_nobody_up(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings.load(
            environment | {"BROKER_URL": f"amqp://guest:guest@127.0.0.1:{silent.getsockname()[1]}//"}
        )
        broker = Broker(settings)
        began = time.monotonic()
        assert not broker.wake(["bulk"])
        assert time.monotonic() - began < 3 * SOON
        broker.close()


def test_a_rabbitmq_that_falls_silent_between_two_tokens_holds_nobody_up(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_SECONDS", 1)  # of each answer; two more are waited for to close
    with ThreadPoolExecutor(1) as pool, rabbit() as server:
        broker = Broker(Settings.load(environment | {"BROKER_URL": server.url}))
        assert broker.wake(["normal"])
        server.silent.set()
        assert pool.submit(broker.wake, ["normal"]).result(3 * SOON) is False
        server.silent.clear()
        assert broker.wake(["normal"])
        broker.close()
