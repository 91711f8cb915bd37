"""Keeps the processes of one machine running, and ends them in an order that loses nothing.

What dies comes back after a pause that grows; a dead worker's leases are released before its successor starts. A second
small process, the guard, ends everything when the supervisor itself is killed.
"""

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from cli.child import Child
from cli.guard import Guard
from cli.programs import KINDS, Program
from cli.servers import KeptServer, Server
from shared.errors import PoxVisioError

Pids = dict[str, list[int]]

_TICK = 0.2
# PostgreSQL's fast shutdown is SIGINT; with SIGTERM it would wait for its clients.
_STOP_SIGNALS = {"postgres": signal.SIGINT}


class Stopping(Exception):  # noqa: N818  # no fault: somebody asked for it
    """SIGTERM or SIGINT came while something else was waited for."""


class Supervisor:
    """Children and servers of one machine. Belongs to the main thread, which gets the signals.

    ``servers`` run already, in the order in which they were started. ``on_worker_death(node)`` is called at once when
    a worker is dead with its whole group; if it raises a ``PoxVisioError`` it is called again before the worker's
    successor starts. ``on_change(pids)`` is called whenever a process was replaced. ``guard_holds`` are descriptors
    that stay open, after a kill of this process, until the guard has ended everything.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        servers: Mapping[str, Server],
        logs: Path,
        *,
        on_worker_death: Callable[[str], None],
        on_change: Callable[[Pids], None] = lambda _: None,
        say: Callable[[str], None] = print,
        guard_holds: Sequence[int] = (),
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.children = [Child(program, logs) for program in programs]
        self.servers = [
            KeptServer(name, server, _STOP_SIGNALS.get(name, signal.SIGTERM), say) for name, server in servers.items()
        ]
        self._on_worker_death = on_worker_death
        self._on_change = on_change
        self._say = say
        self._guard = Guard(guard_holds)
        self._unreleased: set[str] = set()
        self._requests = 0
        self._wakeup: socket.socket | None = None

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as requests to stop while the block runs; a dead child wakes the wait."""
        taken = {signal.SIGTERM: self._on_stop, signal.SIGINT: self._on_stop, signal.SIGCHLD: lambda *_: None}
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.setblocking(False)
            writer.setblocking(False)
            self._wakeup = reader
            old = {number: signal.signal(number, handler) for number, handler in taken.items()}
            signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            try:
                yield
            finally:
                signal.set_wakeup_fd(-1)
                for number, handler in old.items():
                    signal.signal(number, handler)
                self._wakeup = None

    @property
    def stopping(self) -> bool:
        """Whether somebody asked to stop."""
        return self._requests > 0

    def check_stopping(self) -> None:
        """Raise ``Stopping`` if somebody asked to stop."""
        if self.stopping:
            raise Stopping

    def guard_servers(self) -> None:
        """Have the servers ended too, should this process be killed from now on."""
        self._tell_guard()

    def start(self) -> None:
        """Start every program for the first time."""
        for child in self.children:
            child.spawn()
            self._tell_guard()

    def pids(self) -> Pids:
        """Return the live leaders: servers by name, children by kind."""
        found = {kept.name: kept.server.pids() for kept in self.servers}
        for kind in KINDS:
            found[kind] = [child.pid for child in self.children if child.program.kind == kind and child.pid]
        return found

    def tick(self) -> None:
        """Wait a moment, then bring back what has died."""
        self._pause()
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
            self.check_stopping()
        return True

    def run(self) -> None:
        """Keep everything running until somebody asks to stop."""
        while not self.stopping:
            self.tick()

    def drain(self) -> None:
        """End everything in order.

        1. web stops accepting and finishes its requests;
        2. workers finish their batch and give the rest back;
        3. the deliverer, then the sweep finish what they are at;
        4. Valkey, then PostgreSQL shut down.

        Each child has its bound of patience and is killed after it. A second SIGINT ends all patience.
        """
        self._requests = max(self._requests, 1)
        for kind in KINDS:
            self._drain_kind([child for child in self.children if child.program.kind == kind and child.pid])
        for kept in reversed(self.servers):
            kept.stop()
        self._guard.dismiss()

    def _drain_kind(self, children: list[Child]) -> None:
        for child in children:
            child.terminate()
        end = time.monotonic() + max((child.program.patience for child in children), default=0.0)
        while not all(child.ended() for child in children) and self._requests == 1 and time.monotonic() < end:
            self._pause()
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
                if child.program.node in self._unreleased and not self._release(child):
                    child.postpone()
                    continue
                child.spawn()
                changed = True
        return changed

    def _release(self, child: Child) -> bool:
        """Give back what a dead worker held; its successor has its name, so this comes before the next start."""
        node = child.program.node
        if not node:
            return True
        try:
            self._on_worker_death(node)
        except PoxVisioError as error:
            self._say(f"{child.program.name}: its work is not given back yet: {error}")
            self._unreleased.add(node)
            return False
        self._unreleased.discard(node)
        return True

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        # The first request drains. Of the further ones only SIGINT, somebody at a terminal, means hurry.
        if number == signal.SIGINT or not self._requests:
            self._requests += 1

    def _pause(self) -> None:
        if self._wakeup is None:
            time.sleep(_TICK)
        elif select.select([self._wakeup], [], [], _TICK)[0]:
            self._wakeup.recv(4096)

    def _tell_guard(self) -> None:
        servers = [(pid, kept.stop_signal) for kept in reversed(self.servers) for pid in kept.server.pids()]
        self._guard.tell([child.pid for child in self.children if child.pid], servers)
