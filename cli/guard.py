"""Ends what a killed supervisor leaves behind: the small process that does it, and the supervisor's hold on it.

The supervisor writes a line whenever something starts or dies: ``{"groups": [pgid], "servers": [[pid, signal]]}``. The
end of the pipe means that the supervisor is gone, however it went; then the last line says what is left to end. The
process runs this file alone, with nothing but the standard library.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

_GROUP_SECONDS = 5.0
_KILL_SECONDS = 1.0  # bounded: where nobody reaps orphans they stay as zombies
_SERVER_SECONDS = 15.0


class Guard:
    """The supervisor's end of the pipe.

    ``holds`` are descriptors the guard keeps open as long as it has work, ``removes`` files that are wrong once the
    supervisor is gone.
    """

    def __init__(self, holds: Sequence[int] = (), removes: Sequence[Path] = ()) -> None:
        self._holds = tuple(holds)
        self._removes = tuple(removes)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: FileIO | None = None
        self._orders = b""

    def tell(self, groups: Sequence[int], servers: Sequence[tuple[int, int]]) -> None:
        """Say what would have to be ended now: process groups, then servers with the signal that shuts each down.

        Starts the guard where there is none, or none any more.
        """
        orders = json.dumps({"groups": groups, "servers": servers}).encode() + b"\n"
        if self._process is not None and self._process.poll() is not None:
            self._close(self._process)
            self._process = None
        if self._process is None:
            self._process = self._spawn(orders)
        elif orders != self._orders and self._pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # it died this instant: the next call starts another
                self._pipe.write(orders)
                self._orders = orders

    def dismiss(self) -> None:
        """End the guard with nothing to do."""
        self.tell([], [])
        if self._process is not None:
            self._close(self._process)
            self._process = None

    def _spawn(self, orders: bytes) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-I", str(Path(__file__).resolve()), *map(str, self._removes)]
        reading, writing = os.pipe()
        self._pipe = FileIO(writing, "w")
        # Before the guard lives: a supervisor killed the moment after would leave one that knows of nothing.
        self._pipe.write(orders)
        self._orders = orders
        try:
            return subprocess.Popen(command, stdin=reading, pass_fds=self._holds, start_new_session=True)
        finally:
            os.close(reading)

    def _close(self, process: "subprocess.Popen[bytes]") -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        process.wait()


def main() -> None:
    """Read orders until the supervisor is gone, then end what it left: programs first, then servers.

    The arguments are files to remove before that.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: list[int] = []
    servers: list[list[int]] = []
    for line in sys.stdin:
        if line.endswith("\n"):  # a supervisor killed while it wrote leaves half a line
            orders = json.loads(line)
            groups, servers = orders["groups"], orders["servers"]
    for path in sys.argv[1:]:
        Path(path).unlink(missing_ok=True)
    end_groups(groups)
    end_servers(servers)


def end_groups(groups: list[int]) -> None:
    """Ask the leaders to finish, then kill whatever is left of their groups."""
    _send(os.kill, [(group, signal.SIGTERM) for group in groups])
    _wait(os.killpg, groups, _GROUP_SECONDS)
    _send(os.killpg, [(group, signal.SIGKILL) for group in groups])
    _wait(os.killpg, groups, _KILL_SECONDS)


def end_servers(servers: list[list[int]]) -> None:
    """Shut the servers down, each by its own signal; one that takes longer is left for the next start to adopt."""
    _send(os.kill, [(pid, number) for pid, number in servers])
    _wait(os.kill, [pid for pid, _ in servers], _SERVER_SECONDS)


def _send(kill: Callable[[int, int], None], signals: list[tuple[int, int]]) -> None:
    for target, number in signals:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(target, number)


def _wait(kill: Callable[[int, int], None], targets: list[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(_exists(kill, target) for target in targets) and time.monotonic() < end:
        time.sleep(0.05)


def _exists(kill: Callable[[int, int], None], target: int) -> bool:
    try:
        kill(target, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main()
