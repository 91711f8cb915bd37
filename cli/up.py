"""``poxvisio up``: everything on this machine, from the databases to the sweep, until somebody asks to stop."""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import sqlalchemy as sa

from cli.embedded.ports import HOST, hold_port
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.processes import tail
from cli.embedded.valkey import EmbeddedValkey
from cli.guard import Guard
from cli.instance import Instance, write_private
from cli.migrate import LOGINS, migrate
from cli.options import example
from cli.programs import KINDS, ROOT, programs
from cli.readiness import look
from cli.stopping import Stopping, StopRequests
from cli.supervisor import Pids, Supervisor
from shared.database import Database
from shared.errors import Unavailable
from shared.settings import Settings, inherited
from worker.holder import release_dead

_READY_SECONDS = 300.0
_HOPELESS = 5  # deaths in a row before anything was ready
_OWN = ("DATABASE_URL", "REDIS_URL", "BROKER_URL", "STORAGE_URL", "SECRET_KEY", "PUBLIC_URL", "MODEL")
_LOGINS = {"web": "poxvisio_web_login", "metrics": "poxvisio_reader_login"}
# For what is known only once the servers run.
_NOT_YET = {
    "DATABASE_URL": "postgresql://",
    "REDIS_URL": "redis://",
    "STORAGE_URL": "file:///",
    "SECRET_KEY": "0" * 32,
}

Say = Callable[[str], None]


def default_data_dir() -> Path:
    """Return where ``up`` keeps its data unless told otherwise: ``data`` below the current directory.

    Any directory will do, also below /root: the embedded PostgreSQL needs no way to its own.
    """
    return Path("data").resolve()


def up(
    data_dir: Path,
    port: int = 8000,
    workers: int = 1,
    ready_file: Path | None = None,
    *,
    model: Path | None = None,
    settings: Mapping[str, str] | None = None,
    say: Say = print,
) -> None:
    """Run everything until SIGTERM or SIGINT, then drain. Belongs in the main thread.

    ``settings`` are variables that every process gets beside those of the environment.

    1. Read the settings as the processes will, so that a wrong one is told before anything runs.
    2. Take the data directory; start PostgreSQL and Valkey; migrate; make the administrator's key.
    3. Start web, workers, deliverer, sweep and metrics; wait until web is ready and every worker has reported.
    4. Write ``ready_file``, and again whenever a process is replaced; it is removed when the end begins.

    Raises ``InvalidSetting``, ``Refused`` and ``Unavailable`` with what is wrong and where the log is.
    """
    if ready_file:
        ready_file.unlink(missing_ok=True)
    overrides = {**(settings or {}), **({"MODEL": str(model.resolve())} if model else {})}
    asked = Settings.load({**inherited(without=_OWN), **overrides, **_NOT_YET})
    instance = Instance(data_dir)
    with (
        StopRequests() as requests,
        instance.lock(say) as lock,
        _hold_port(port, say) as held,
        _hold_port(asked.metrics_port, say, "metrics: ") as held_for_metrics,
    ):
        run = _Run(instance, requests, lock, ready_file, say, longest_delay=asked.restart_seconds)
        try:
            metrics = {"POXVISIO_METRICS_HOST": HOST, "POXVISIO_METRICS_PORT": str(held_for_metrics.getsockname()[1])}
            run.start(held.getsockname()[1], workers, {**overrides, **metrics})
            run.supervisor.run()
        except Stopping:
            pass
        finally:
            if ready_file:
                ready_file.unlink(missing_ok=True)
            say("stopping; a second Ctrl-C hurries")
            run.supervisor.drain()
            run.close()
    say("stopped")


class _Run:
    """One life of an instance."""

    def __init__(
        self,
        instance: Instance,
        requests: StopRequests,
        lock: int,
        ready_file: Path | None,
        say: Say,
        *,
        longest_delay: float,
    ) -> None:
        self._instance = instance
        self._requests = requests
        self._ready_file = ready_file
        self._say = say
        self._facts: dict[str, object] = {}
        self._database: Database | None = None
        self.supervisor = Supervisor(
            instance.logs,
            requests,
            on_worker_death=self._on_worker_death,
            on_change=self._write_ready,
            say=say,
            guard=Guard(holds=[lock], removes=[ready_file.resolve()] if ready_file else []),
            longest_delay=longest_delay,
        )

    def start(self, port: int, workers: int, settings: Mapping[str, str]) -> None:
        instance = self._instance
        database_url = self.supervisor.serve("postgres", EmbeddedPostgres(instance.folder / "postgres"))
        broker_url = self.supervisor.serve("valkey", EmbeddedValkey(instance.folder / "valkey"))
        self._requests.check()
        secrets = instance.secrets()
        migrate(database_url, {login: secrets[login] for login in LOGINS})
        self._requests.check()
        self._database = Database(database_url, role="poxvisio_worker", pool_size=1)
        key = _administrator_key(instance, database_url)
        self._forget_predecessors()
        url = f"http://{HOST}:{port}"
        environments = _environments(instance, database_url, broker_url, url, settings)
        self.supervisor.start(programs(environments, HOST, port, workers))
        self._await_ready(port, workers)
        self._facts = {
            "url": url,
            "api_key": key,
            "data_dir": str(instance.folder),
            "database_url": database_url,
            "broker_url": broker_url,
            "metrics_url": f"http://{HOST}:{settings['POXVISIO_METRICS_PORT']}/metrics",
        }
        self._write_ready(self.supervisor.pids())
        self._say(f"PoxVisio is ready at {url}")
        self._say(f"data in {instance.folder}; the administrator's key is in {instance.key_file}")

    def close(self) -> None:
        if self._database:
            self._database.close()

    def _forget_predecessors(self) -> None:
        """Nobody else works on this database: whoever is in it as a worker, or holds a lease from here, is dead."""
        assert self._database  # noqa: S101  # set just before
        release_dead(self._database)
        with self._database.transaction() as session:
            session.execute(sa.text("DELETE FROM worker_node"))

    def _on_worker_death(self, _name: str) -> None:
        if self._database:
            release_dead(self._database)

    def _await_ready(self, port: int, workers: int) -> None:
        told = ""

        def ready() -> bool:
            nonlocal told
            hopeless = [child for child in self.supervisor.children if child.deaths >= _HOPELESS]
            if hopeless:
                log = hopeless[0].log
                raise Unavailable(f"{hopeless[0].program.name} does not start; {log} ends with:\n{tail(log)}")
            found = look(port)
            if found.problem != told:
                told = found.problem
                self._say(f"waiting, for this is wrong: {told}" if told else "it is right now")
            return found.ready and found.workers >= workers

        if not self.supervisor.run_until(ready, _READY_SECONDS):
            logs = self._instance.logs
            raise Unavailable(f"not ready after {_READY_SECONDS:.0f} s: {told or 'no worker reports'}; see {logs}")

    def _write_ready(self, pids: Pids) -> None:
        if self._ready_file and self._facts:
            write_private(self._ready_file, json.dumps({**self._facts, "pids": pids}, indent=2) + "\n")


def _administrator_key(instance: Instance, database_url: str) -> str:
    owner = Database(database_url, role="poxvisio_owner", pool_size=1)
    try:
        return instance.administrator_key(owner)
    finally:
        owner.close()


def _environments(
    instance: Instance,
    database_url: str,
    broker_url: str,
    url: str,
    settings: Mapping[str, str],
) -> dict[str, dict[str, str]]:
    """Return the environment of each kind of process; each logs in to the database as itself."""
    secrets = instance.secrets()
    common = {
        "POXVISIO_CACHE_DIR": str(instance.cache),
        "MODEL": str(ROOT / "models/demo"),
        **inherited(without=_OWN),
        **settings,
        "REDIS_URL": broker_url,
        "STORAGE_URL": instance.photos.as_uri(),
        "SECRET_KEY": secrets["SECRET_KEY"],
        "PUBLIC_URL": url,
        "PYTHONUNBUFFERED": "1",
    }
    logins = {kind: _LOGINS.get(kind, "poxvisio_worker_login") for kind in KINDS}
    return {
        kind: {
            **common,
            "DATABASE_URL": sa.make_url(database_url)
            .set(username=login, password=secrets[login])
            .render_as_string(hide_password=False),
        }
        for kind, login in logins.items()
    }


def _hold_port(port: int, say: Say, what: str = "") -> socket.socket:
    """Hold the wanted port, or a free one, as long as the service runs: the web process shares its port unasked."""
    if held := hold_port(port):
        return held
    other = hold_port(0)
    if other is None:
        raise Unavailable(f"{HOST} has no free port left")
    say(f"{what}port {port} is taken; using {other.getsockname()[1]}")
    return other


@click.command("up", epilog=example("poxvisio up --data-dir data --workers 2"))
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where everything is kept.  [default: ./data]",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Another one if taken.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Written (JSON, mode 0600) once everything is ready, and again when a process is replaced.",
)
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Folder of the bundle to serve.  [default: the demo bundle]",
)
def up_command(data_dir: Path | None, port: int, workers: int, ready_file: Path | None, model: Path | None) -> None:
    """Run everything on this machine: PostgreSQL, Valkey, web, workers, deliverer, sweep and metrics.

    Nothing needs to be installed or running. The first start makes an administrator's key and keeps it in
    DIR/admin.key. Ctrl-C drains and stops everything; a second one hurries. Settings named POXVISIO_* are passed on.
    """
    up(data_dir or default_data_dir(), port, workers, ready_file, model=model, say=click.echo)
