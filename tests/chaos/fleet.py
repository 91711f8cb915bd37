"""The same processes as ``poxvisio up`` has, but with a proxy on each link between them and their servers."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cli.embedded.ports import HOST, free_port
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.valkey import EmbeddedValkey
from cli.instance import Instance
from cli.migrate import LOGINS, migrate
from cli.programs import programs
from cli.readiness import look
from cli.stopping import StopRequests
from cli.supervisor import Supervisor
from cli.up import _administrator_key, _environments
from shared.database import Database
from tests.chaos.proxy import Proxy
from tests.chaos.running import QUICK, START_SECONDS, Service, until
from worker.holder import release_dead


@dataclass
class Fleet(Service):
    """A service whose links can be cut. ``told`` are its facts; its own questions go past the proxies."""

    told: dict[str, Any]
    supervisor: Supervisor
    database: Proxy
    broker: Proxy

    @property
    def facts(self) -> dict[str, Any]:
        """What ``up`` would write into the ready file."""
        return {**self.told, "pids": self.supervisor.pids()}


@contextmanager
def fleet(
    folder: Path,
    *,
    workers: int = 2,
    settings: Mapping[str, str] | None = None,
    storage: Mapping[str, str] | None = None,
) -> Iterator[Fleet]:
    """Run the processes behind proxies, under the real supervisor, whose ticks a thread makes.

    ``storage`` are the variables of another storage than a folder.
    """
    points = folder / "points"
    points.mkdir()
    instance = Instance(folder / "data")
    with ExitStack() as stack:
        stack.enter_context(instance.lock(print))
        postgres, valkey = EmbeddedPostgres(instance.folder / "postgres"), EmbeddedValkey(instance.folder / "valkey")
        database_url, broker_url = postgres.start(), valkey.start()
        stack.callback(postgres.stop)
        stack.callback(valkey.stop)
        database = stack.enter_context(Proxy(_address(database_url), reads_sql=True))
        broker = stack.enter_context(Proxy(_address(broker_url)))
        migrate(database_url, {login: instance.secrets()[login] for login in LOGINS})
        port = free_port()
        told = {
            "url": f"http://{HOST}:{port}",
            "api_key": _administrator_key(instance, database_url),
            "database_url": database_url,
            "broker_url": broker_url,
            "data_dir": str(instance.folder),
        }
        environments = _environments(
            instance,
            _through(database, database_url),
            _through(broker, broker_url),
            told["url"],
            {**QUICK, "POXVISIO_CRASH_POINT": str(points), **(settings or {})},
        )
        environments = {kind: {**environment, **(storage or {})} for kind, environment in environments.items()}
        supervisor = _supervise(stack, instance, database_url)
        stack.callback(database.mend)
        stack.callback(broker.mend)
        supervisor.start(programs(environments, HOST, port, workers))
        until(lambda: look(port).ready and look(port).workers >= workers, "the fleet is ready", START_SECONDS)
        yield Fleet(points, told, supervisor, database, broker)


def _supervise(stack: ExitStack, instance: Instance, database_url: str) -> Supervisor:
    worker_db = Database(database_url, role="poxvisio_worker", pool_size=1)
    stack.callback(worker_db.close)

    def on_worker_death(_: str) -> None:
        release_dead(worker_db)

    supervisor = Supervisor(
        instance.logs, StopRequests(), on_worker_death=on_worker_death, say=lambda _: None, longest_delay=0.2
    )
    stack.callback(supervisor.drain)
    ending = threading.Event()

    def tick() -> None:
        while not ending.is_set():
            supervisor.tick()

    thread = threading.Thread(target=tick, name="supervisor", daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(ending.set)
    return supervisor


def _address(url: str) -> tuple[str, int]:
    return HOST, int(sa.make_url(url).port or 0)


def _through(proxy: Proxy, url: str) -> str:
    return sa.make_url(url).set(port=proxy.port).render_as_string(hide_password=False)
