"""What the web process says of itself at ``/readyz``, as ``up`` asks it."""

import http.client
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from cli.embedded.ports import HOST

_TIMEOUT = 5.0
_PARTS = ("database", "storage", "bundle", "migrations")


@dataclass(frozen=True)
class Readiness:
    """Whether web is ready, how many workers it counts, and else what is wrong, in words."""

    ready: bool = False
    workers: int = 0
    problem: str = ""


def look(port: int) -> Readiness:
    """Ask the web process on this port; while it does not answer, nothing is ready and nothing known to be wrong."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body: dict[str, Any] = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        return Readiness()
    finally:
        connection.close()
    told = ((name, body.get(name, {}).get("problem")) for name in _PARTS)
    problem = "; ".join(f"{name}: {problem}" for name, problem in told if problem)
    return Readiness(response.status == HTTPStatus.OK, int(body.get("workers", 0)), problem)
