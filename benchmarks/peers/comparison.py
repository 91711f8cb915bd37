"""The comparison: photos a second, waiting, CPU, and what is lost when the process that holds the network is killed."""

import statistics
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.machine import Span
from benchmarks.peers.environment import NotInstalled
from benchmarks.peers.servers import PEERS, Peer, Server, ours, running
from benchmarks.report import Row, versus

OURS = "this service"
_AT_ONCE = (1, 8, 32)
_KILLED_UNDER = 8


@dataclass
class Found:
    """What one server showed: for each number of clients the rates and costs of its rounds and all its waits."""

    rates: dict[int, list[float]] = field(default_factory=dict)
    costs: dict[int, list[float]] = field(default_factory=dict)
    waits: dict[int, list[float]] = field(default_factory=dict)
    sent: int = 0
    unanswered: int = 0
    why: list[str] = field(default_factory=list)

    def rate(self, clients: int) -> float:
        """Photos a second."""
        return statistics.median(self.rates[clients])

    def told(self, clients: int) -> str:
        """Return waits and costs in words."""
        waits = self.waits[clients]
        slow = statistics.quantiles(waits, n=20)[-1] if len(waits) > 1 else waits[0]
        cpu = 1000 * statistics.median(self.costs[clients])
        return f"p50 {1000 * statistics.median(waits):.0f} ms, p95 {1000 * slow:.0f} ms, {cpu:.1f} ms CPU a photo"


def compare(*, quick: bool) -> Iterator[Row]:
    """Run each server by itself, all in turn; then hold ours against each."""
    seconds, rounds = (3.0, 1) if quick else (5.0, 3)
    found: dict[str, Found] = {OURS: Found(), **{peer.title: Found() for peer in PEERS}}
    absent: dict[str, str] = {}
    _measure(found[OURS], ours(), seconds, rounds)
    for peer in PEERS:
        try:
            _measure(found[peer.title], running(peer), seconds, rounds)
        except NotInstalled as error:
            absent[peer.title] = str(error)
    for peer in PEERS:
        yield from _rows(peer, found, absent)


def _measure(found: Found, started: AbstractContextManager[Server], seconds: float, rounds: int) -> None:
    with started as server:
        server.clients.ask(clients=_KILLED_UNDER, photos=4 * _KILLED_UNDER)
        for at_once in _AT_ONCE * rounds:
            with Span(server.roots) as span:
                said = server.clients.ask(clients=at_once, seconds=seconds).value
            if said["unanswered"]:
                raise RuntimeError(f"{said['unanswered']} photos were not answered: {said['why']}")
            count = len(said["answered"])
            found.rates.setdefault(at_once, []).append(count / said["seconds"])
            found.costs.setdefault(at_once, []).append(span.ours / count)
            found.waits.setdefault(at_once, []).extend(said["answered"])
        said = _killed(server, 2 * seconds)
        found.sent = len(said["answered"]) + said["unanswered"]
        found.unanswered, found.why = said["unanswered"], said["why"]


def _killed(server: Server, seconds: float) -> dict[str, Any]:
    """Send photos while the process that holds the network is killed, a third of the way."""

    def kill() -> None:
        for process in server.holders():
            process.kill()

    killing = threading.Timer(seconds / 3, kill)
    server.clients.tell(clients=_KILLED_UNDER, seconds=seconds)
    killing.start()
    said: dict[str, Any] = server.clients.hear().value
    killing.join()
    return said


def _rows(peer: Peer, found: dict[str, Found], absent: dict[str, str]) -> Iterator[Row]:
    mine, theirs = found[OURS], found[peer.title]
    if peer.title in absent:
        yield Row(
            f"against {peer.title}", None, "", "left out", note=f"it could not be installed: {absent[peer.title]}"
        )
        return
    for at_once in _AT_ONCE:
        yield versus(
            f"against {peer.title}, {at_once} client{'s' * (at_once > 1)}",
            mine.rate(at_once),
            "photos/s",
            f"{peer.title}, photos/s",
            theirs.rate(at_once),
            at_least=1.0,
            note=f"{mine.told(at_once)}; {peer.title}: {theirs.told(at_once)}",
        )
    yield Row(
        f"against {peer.title}, photos without an answer, the network's process killed once",
        mine.unanswered,
        f"of {mine.sent}",
        f"{peer.title}, of {theirs.sent}",
        theirs.unanswered,
        note=f"{peer.title} says: {'; '.join(theirs.why) or 'nothing'}",
    )
