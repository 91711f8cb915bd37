"""Keeps the processes of one machine running, and ends them in an order that loses nothing.

What dies comes back after a pause that grows; a dead worker's leases are released before its successor starts. A second
small process, the guard, ends everything when the supervisor itself is killed.
"""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cli.child import LONGEST_DELAY, Child
from cli.guard import Guard
from cli.programs import KINDS, Program
from cli.servers import KeptServer, Server
from cli.stopping import StopRequests
from shared.errors import PoxVisioError

Pids = dict[str, list[int]]

_TICK = 0.2
# PostgreSQL's fast shutdown is SIGINT; with SIGTERM it would wait for its clients.
_STOP_SIGNALS = {"postgres": signal.SIGINT}


class Supervisor:
    """Children and servers of one machine.

    ``on_worker_death(name)`` is called at once when a worker is dead with its whole group; if it raises a
    ``PoxVisioError`` it is called again before the worker's successor starts. ``on_change(pids)`` is called whenever a
    process was replaced. ``guard`` ends everything should this process be killed. What dies again and again waits for
    ``longest_delay`` seconds at most.
    """

    def __init__(
        self,
        logs: Path,
        requests: StopRequests,
        *,
        on_worker_death: Callable[[str], None],
        on_change: Callable[[Pids], None] = lambda _: None,
        say: Callable[[str], None] = print,
        guard: Guard | None = None,
        longest_delay: float = LONGEST_DELAY,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.children: list[Child] = []
        self.servers: list[KeptServer] = []
        self._logs = logs
        self._requests = requests
        self._on_worker_death = on_worker_death
        self._on_change = on_change
        self._say = say
        self._guard = guard or Guard()
        self._longest_delay = longest_delay
        self._unreleased: set[str] = set()

    def serve(self, name: str, server: Server) -> str:
        """Start a server, keep it running from now on, and return its URL; the last one started is stopped first."""
        url = server.start()
        stop_signal = _STOP_SIGNALS.get(name, signal.SIGTERM)
        self.servers.append(KeptServer(name, server, stop_signal, self._say, self._longest_delay))
        self._tell_guard()
        return url

    def start(self, programs: Sequence[Program]) -> None:
        """Start programs and keep them running from now on."""
        for program in programs:
            child = Child(program, self._logs, self._longest_delay)
            child.spawn()
            self.children.append(child)
            self._tell_guard()

    def pids(self) -> Pids:
        """Return the live leaders: servers by name, children by kind."""
        found = {kept.name: kept.server.pids() for kept in self.servers}
        for kind in KINDS:
            found[kind] = [child.pid for child in self.children if child.program.kind == kind and child.pid]
        return found

    def tick(self) -> None:
        """Wait a moment, then bring back what has died."""
        self._requests.pause(_TICK)
        revived = [kept.revive() for kept in self.servers]
        changed = self._revive_children() or any(revived)
        self._tell_guard()
        if changed:
            self._on_change(self.pids())

    def run_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Keep everything running until the condition holds; says whether it came true in time.

        Raises ``Stopping`` when somebody asks to stop first.
        """
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                return False
            self.tick()
            self._requests.check()
        return True

    def run(self) -> None:
        """Keep everything running until somebody asks to stop."""
        while not self._requests.count:
            self.tick()

    def drain(self) -> None:
        """End everything in order.

        1. web stops accepting and finishes its requests;
        2. workers finish their batch and give the rest back;
        3. the deliverer, the sweep, then metrics finish what they are at;
        4. Valkey, then PostgreSQL shut down.

        Each child has its bound of patience and is killed after it. A second SIGINT ends all patience.
        """
        self._requests.count = max(self._requests.count, 1)
        for kind in KINDS:
            self._drain_kind([child for child in self.children if child.program.kind == kind and child.pid])
        for kept in reversed(self.servers):
            kept.stop()
        self._guard.dismiss()

    def _drain_kind(self, children: list[Child]) -> None:
        for child in children:
            child.terminate()
        end = time.monotonic() + max((child.program.patience for child in children), default=0.0)
        while not all(child.ended() for child in children) and not self._requests.hurry and time.monotonic() < end:
            self._requests.pause(_TICK)
        for child in children:
            finished = child.ended()
            how = child.bury()
            if not finished:
                self._say(f"{child.program.name} did not finish in time and {how}")
                self._release(child)
        self._tell_guard()

    def _revive_children(self) -> bool:
        changed = False
        for child in self.children:
            if child.ended():
                how = child.bury()
                self._say(f"{child.program.name} {how}; again in {child.delay:.1f} s (log: {child.log})")
                self._release(child)
                changed = True
            if child.pid is None and time.monotonic() >= child.due:
                if child.program.name in self._unreleased and not self._release(child):
                    child.postpone()
                    continue
                child.spawn()
                changed = True
        return changed

    def _release(self, child: Child) -> bool:
        """Give back what a dead worker held, before its successor starts."""
        if child.program.kind != "worker":
            return True
        name = child.program.name
        try:
            self._on_worker_death(name)
        except PoxVisioError as error:
            self._say(f"{name}: its work is not given back yet: {error}")
            self._unreleased.add(name)
            return False
        self._unreleased.discard(name)
        return True

    def _tell_guard(self) -> None:
        servers = [(pid, kept.stop_signal) for kept in reversed(self.servers) for pid in kept.server.pids()]
        self._guard.tell([child.pid for child in self.children if child.pid], servers)
