"""The servers that a supervisor keeps alive beside its children: PostgreSQL and Valkey."""

import time
from collections.abc import Callable
from typing import Protocol

from cli.child import LONGEST_DELAY, restart_delay
from shared.errors import PoxVisioError

_START_SECONDS = 30.0


class Server(Protocol):
    """A server with a life cycle of its own: it is adopted, not owned."""

    def start(self, timeout: float = ...) -> str:
        """Start or adopt it, at the same address as before; raises a ``PoxVisioError``."""

    def stop(self, timeout: float = ...) -> None:
        """Shut it down; raises a ``PoxVisioError``."""

    def pids(self) -> list[int]:
        """Return its live process, if there is one."""


class KeptServer:
    """A server that is started again when it dies; ``stop_signal`` is what shuts it down from outside."""

    def __init__(
        self,
        name: str,
        server: Server,
        stop_signal: int,
        say: Callable[[str], None],
        longest_delay: float = LONGEST_DELAY,
    ) -> None:
        self.name = name
        self.server = server
        self.stop_signal = stop_signal
        self._say = say
        self._longest_delay = longest_delay
        self._failures = 0
        self._due = 0.0

    def revive(self) -> bool:
        """Start the server again if it has died; says whether it had."""
        if time.monotonic() < self._due or self.server.pids():
            return False
        self._say(f"{self.name} died; starting it again")
        try:
            self.server.start(_START_SECONDS)
        except PoxVisioError as error:
            self._failures += 1
            delay = restart_delay(self._failures, self._longest_delay)
            self._due = time.monotonic() + delay
            self._say(f"{self.name}: {error}; again in {delay:.1f} s")
        else:
            self._failures = 0
        return True

    def stop(self) -> None:
        """Shut the server down, or say why it does not."""
        try:
            self.server.stop()
        except PoxVisioError as error:
            self._say(f"{self.name}: {error}")
