"""Connections to Valkey beside Celery's own, for what may be lost at any moment; none where the broker is another."""

import socket
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
# A host that vanished says nothing: what only listens would wait for the kernel's two hours.
_KEEPALIVE: Final = {
    getattr(socket, name): seconds
    for name, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}


def open_valkey(url: str, seconds: float) -> redis.Redis | None:
    """Return a client that gives up after so many seconds and tries nothing twice; None for a broker of another kind.

    It connects when it is first used.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        return None
    return redis.Redis.from_url(
        f"{_SCHEMES[scheme]}://{rest}",
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        socket_keepalive=True,
        socket_keepalive_options=_KEEPALIVE,
        retry=Retry(NoBackoff(), 0),
    )
