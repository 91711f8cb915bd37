"""Waking workers: a best-effort Celery message that says "there is work in this lane" and carries nothing else.

A lost token costs at most one sweep, so nothing here may delay or fail a request: publishing happens after commit, is
not retried, and times out after two seconds. A token that still waits says all that a second one would: whoever takes
it looks at the ledger after that, and sees what was committed before. So none is sent beside it.

Valkey and Redis, where kombu keeps a queue as a list, are asked what waits and given what is missing in one turn.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final
from uuid import uuid4

import redis
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError
from kombu.utils.json import dumps
from redis.commands.core import Script

from shared.errors import BrokerAway
from shared.logs import logger
from shared.settings import Settings
from shared.valkey import open_valkey
from shared.vocabulary import LANES

_SECONDS = 2
DRAIN = "worker.tasks.drain"
#: What kombu puts before the name of a lane's list of tokens.
KEY_PREFIX = "poxvisio:celery:"
# A token nobody took within this time is noise: the sweep sends another while there is work.
TOKEN_SECONDS = 30
_RENEWED_SECONDS: Final = 5.0
_FILL: Final = """
    for place = redis.call('LLEN', KEYS[1]) + 1, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[place]) end
"""

log = logger(__name__)

_QUEUES = {lane: Queue(lane, Exchange("", type="direct"), routing_key=lane) for lane in LANES}


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Return the Celery settings that both ends of the broker must share."""
    url = settings.broker_url.get_secret_value()
    shared: dict[str, Any] = {
        "broker_url": url,
        # JSON only: a pickle from a shared Redis would be somebody else's code.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        # Direct queues survive FLUSHALL; topic exchanges would drop messages in silence.
        "task_queues": list(_QUEUES.values()),
        "task_default_queue": "normal",
        "task_create_missing_queues": False,
    }
    if url.startswith(("redis", "valkey", "sentinel")):
        shared["broker_transport_options"] = {
            # Without these a frozen Redis holds a publisher for ever.
            "socket_timeout": _SECONDS,
            "socket_connect_timeout": _SECONDS,
            "health_check_interval": 5,
            # The server may be somebody else's too.
            "global_keyprefix": KEY_PREFIX,
        }
    elif url.startswith("amqp"):
        # RabbitMQ takes no message in while its memory or disk runs short, and says nothing.
        shared["broker_transport_options"] = {"confirm_publish": True, "write_timeout": _SECONDS}
    return shared


def _waiting(producer: Any, lane: str) -> int:
    """Return how many tokens wait in a lane; raises what the broker's client library does."""
    # kombu would open a client and ask for the lists of four priorities. Tokens have none, which is the plain list.
    if client := getattr(producer.channel, "client", None):
        return int(client.llen(lane))
    declared: Any = _QUEUES[lane].queue_declare(channel=producer.channel)
    return int(declared.message_count)


def _send(app: Celery, producer: Any, lane: str) -> None:
    app.send_task(
        DRAIN,
        queue=lane,
        producer=producer,
        retry=False,
        ignore_result=True,
        expires=TOKEN_SECONDS,
        confirm_timeout=_SECONDS,
    )


class _Tokens:
    """What Celery would send to each lane: it makes one every few seconds, for nobody, and the rest differ by ids."""

    def __init__(self, settings: Settings) -> None:
        self._app = Celery("poxvisio-tokens", set_as_current=False)
        self._app.conf.update(celery_settings(settings) | {"broker_url": "memory://", "broker_transport_options": {}})
        self._lock = threading.Lock()
        self._made: dict[str, tuple[float, str, tuple[str, str]]] = {}

    def of(self, lane: str, number: int) -> list[str]:
        """Return so many tokens, each as it lies on the lane's list."""
        with self._lock:
            made = self._made.get(lane)
            if made is None or time.monotonic() >= made[0]:
                made = self._made[lane] = self._new(lane)
        _, text, (task, tag) = made
        return [text.replace(task, str(uuid4())).replace(tag, str(uuid4())) for _ in range(number)]

    def close(self) -> None:
        """Close what makes them."""
        self._app.close()

    def _new(self, lane: str) -> tuple[float, str, tuple[str, str]]:
        with self._app.producer_or_acquire() as producer:
            _send(self._app, producer, lane)
            message: Any = producer.channel._get(lane)  # noqa: SLF001  # what a transport of kombu has for its kind
        ids = message["headers"]["id"], message["properties"]["delivery_tag"]
        return time.monotonic() + _RENEWED_SECONDS, str(dumps(message)), ids


class Broker:
    """The sending end of the broker."""

    def __init__(self, settings: Settings) -> None:
        self._valkey = open_valkey(settings.broker_url.get_secret_value(), _SECONDS)
        self._fill = self._valkey.register_script(_FILL) if self._valkey else None
        self._tokens = _Tokens(settings)
        self._app = Celery("poxvisio-sender", set_as_current=False)
        self._app.conf.update(celery_settings(settings))
        # Apart from retry=False, which is about publishing: connecting would be tried again for six seconds.
        self._app.conf.broker_transport_options |= {"max_retries": 0}
        if settings.broker_url.get_secret_value().startswith("amqp"):
            # A RabbitMQ that takes nothing in answers nothing either, not even that a connection may be closed. Not for
            # workers: they listen for longer.
            self._app.conf.broker_transport_options |= {"read_timeout": _SECONDS}
        connection = self._app.connection_for_write()
        # What its client library raises where a question goes to it directly.
        self._faults: tuple[type[BaseException], ...] = (
            OperationalError,
            OSError,
            *connection.connection_errors,
            *connection.channel_errors,
        )

    def wake(self, lanes: Iterable[str]) -> bool:
        """Let as many tokens wait in each lane as it is named; return False, and log, where the broker is away.

        A token that waits has found no worker free, so one more would wake nobody either.
        """
        wanted = Counter(lanes)
        if not wanted:
            return True
        if self._fill is not None:
            try:
                return self._wake_at_once(self._fill, wanted)
            except redis.exceptions.NoPermissionError:
                log.warning("scripts_refused", why="tokens are sent by Celery, which takes longer")
                self._fill = None
        return self._wake_by_celery(wanted)

    def _wake_at_once(self, fill: Script, wanted: Counter[str]) -> bool:
        try:
            for lane, tokens in wanted.items():
                fill(keys=[KEY_PREFIX + lane], args=self._tokens.of(lane, tokens))
        except redis.exceptions.NoPermissionError:
            raise
        except (redis.RedisError, OSError) as error:
            log.warning("token_lost", error=type(error).__name__)
            return False
        return True

    def _wake_by_celery(self, wanted: Counter[str]) -> bool:
        try:
            with self._app.producer_or_acquire() as producer:
                for lane, tokens in wanted.items():
                    for _ in range(tokens - _waiting(producer, lane)):
                        _send(self._app, producer, lane)
        except self._faults as error:
            log.warning("token_lost", error=type(error).__name__)
            return False
        return True

    def check(self) -> None:
        """Raise ``BrokerAway`` unless the broker answers."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=2)
        except (OperationalError, OSError) as error:
            raise BrokerAway("the broker is out of reach; photos are accepted and wait") from error

    def close(self) -> None:
        """Close pooled connections."""
        if self._valkey is not None:
            self._valkey.close()
        self._tokens.close()
        self._app.close()
