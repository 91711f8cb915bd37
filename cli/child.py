"""One child process of the supervisor: a process group of its own, with a log, that comes back when it dies."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from cli.embedded.processes import wait_until
from cli.programs import ROOT, Program

LONGEST_DELAY = 30.0
_FIRST_DELAY = 0.5
_HEALTHY_AFTER = 60.0
# Where nobody reaps orphans they stay as zombies: dead, and still members of the group.
_GONE_SECONDS = 1.0
_LOG_BYTES = 16 * 1024 * 1024


def restart_delay(deaths: int, longest: float = LONGEST_DELAY) -> float:
    """Return the seconds to wait before a start, after so many quick deaths in a row: 0.5, 1, 2, ... ``longest``."""
    return min(longest, _FIRST_DELAY * 2.0 ** min(deaths - 1, 10))


class Child:
    """A program and the process that runs it now, if any; ``longest_delay`` is that before a start, in seconds."""

    def __init__(self, program: Program, logs: Path, longest_delay: float = LONGEST_DELAY) -> None:
        self.program = program
        self.log = logs / f"{program.name}.log"
        self.deaths = 0
        self.due = 0.0
        self._longest_delay = longest_delay
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    @property
    def pid(self) -> int | None:
        """The leader of the process group, while the child runs."""
        return self._process.pid if self._process else None

    @property
    def delay(self) -> float:
        """Seconds that pass before the next start."""
        return restart_delay(self.deaths, self._longest_delay)

    def spawn(self) -> None:
        """Start the program; what it prints goes to its log, of which one older part is kept."""
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.program.command,
                cwd=ROOT,
                env=dict(self.program.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started = time.monotonic()

    def ended(self) -> bool:
        """Whether the leader has died and waits to be buried."""
        if self._process is None:
            return False
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def bury(self) -> str:
        """Kill what is left of the group, set the time of the next start, and say how the leader ended.

        The group is killed before the leader is reaped: until then nobody else can have its number.
        """
        if self._process is None:
            return "was not running"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        group = self._process.pid
        code = self._process.wait()
        wait_until(lambda: not _exists(group), _GONE_SECONDS, pause=0.01)
        self._process = None
        now = time.monotonic()
        self.deaths = 1 if now - self._started >= _HEALTHY_AFTER else self.deaths + 1
        self.due = now + self.delay
        return f"was killed by signal {-code}" if code < 0 else f"ended with {code}"

    def postpone(self) -> None:
        """Put the next start off once more."""
        self.due = time.monotonic() + self.delay

    def terminate(self) -> None:
        """Ask the leader to finish."""
        if self._process:
            # Popen.terminate would reap a leader that died this instant; only ``bury`` may.
            os.kill(self._process.pid, signal.SIGTERM)


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
