"""Real services for every test: one PostgreSQL and one Valkey a test process, started here and stopped again.

The database is built by running the migrations, never from the classes.
"""

import contextlib
import gc
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg2
import pytest
import sqlalchemy as sa
import structlog
from xdist.scheduler import LoadFileScheduling

from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.valkey import EmbeddedValkey
from cli.migrate import migrate
from shared.bundle import load_bundle
from shared.database import Database, new_id
from shared.settings import Settings

if TYPE_CHECKING:
    from worker.inference.classifier import Classifier

LOGIN_PASSWORDS = {
    "poxvisio_web_login": "web-password-of-tests",
    "poxvisio_worker_login": "worker-password-of-tests",
    "poxvisio_reader_login": "reader-password-of-tests",
}

#: Files that take longest, the longest first (seconds of CPU in ``pytest --durations``). They begin, so that in the end
#: no process waits for one of them alone.
LONGEST = (
    "chaos/test_faults.py",
    "chaos/test_telling.py",
    "chaos/test_addresses.py",
    "chaos/test_clock.py",
    "e2e/test_commands.py",
    "e2e/test_logs.py",
    "e2e/test_page.py",
    "e2e/test_trained_here.py",
    "integration/worker/test_models.py",
    "integration/engines/test_engines.py",
    "unit/training/test_report.py",
    "integration/delivery/test_sending.py",
    "integration/test_up.py",
    "e2e/test_benchmarks.py",
    "chaos/test_links.py",
    "security/test_hostile_requests.py",
    "security/photos/test_sandbox.py",
    "e2e/test_demo.py",
    "integration/test_migrations.py",
    "integration/test_embedded_postgres.py",
    "integration/ledger/test_state_machine.py",
    "e2e/test_procfile.py",
)


#: Files that share what is dear to start, ``poxvisio up``, a server, TensorFlow or a network: one process runs
#: them.
TOGETHER = (
    (
        "tests/e2e/test_commands.py",
        "tests/e2e/test_logs.py",
        "tests/e2e/test_page.py",
        "tests/e2e/test_trained_here.py",
    ),
    (
        "tests/chaos/test_faults.py",
        "tests/chaos/test_telling.py",
        "tests/chaos/test_addresses.py",
        "tests/chaos/test_clock.py",
    ),
    (
        "tests/e2e/test_procfile.py",
        "tests/integration/test_fetching.py",
        "tests/integration/test_storage.py",
    ),
    (
        "tests/integration/engines/test_engines.py",
        "tests/integration/engines/test_classifier.py",
        "tests/integration/engines/test_int8.py",
        "tests/integration/engines/test_trust.py",
        "tests/unit/training/test_backbone.py",
        "tests/unit/training/test_augmentation.py",
        "tests/unit/training/test_member.py",
    ),
    (
        "tests/integration/web/test_event_stream.py",
        "tests/integration/web/test_docs.py",
        "tests/integration/web/test_integrators_page.py",
        "tests/integration/web/test_old_events.py",
        "tests/integration/web/test_page.py",
        "tests/integration/web/test_parquet.py",
        "tests/integration/web/test_server.py",
    ),
    (
        "tests/integration/worker/test_models.py",
        "tests/integration/worker/test_canary.py",
        "tests/integration/worker/test_classification.py",
        "tests/integration/worker/test_heartbeat.py",
        "tests/integration/worker/test_housekeeping.py",
        "tests/integration/worker/test_poison.py",
        "tests/integration/worker/test_receiver.py",
        "tests/integration/worker/test_shadow.py",
        "tests/integration/worker/test_suspects.py",
        "tests/security/test_hostile_files.py",
        "tests/security/test_hostile_names.py",
    ),
)


class Files(LoadFileScheduling):  # type: ignore[misc]  # xdist comes without types
    """Gives each file to one process, and those of ``TOGETHER`` to the same."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return next((files[0] for files in TOGETHER if file in files), file)


#: All that was loaded when the tests had been read, before the first of them ran.
LOADED_BY_READING = pytest.StashKey[frozenset[str]]()


def pytest_configure() -> None:
    """Write errors that are logged as Python does: structlog draws them, in a tenth of a second of CPU each."""
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, plain])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files:
    """Return who gives the tests to the processes of ``pytest -n``."""
    return Files(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Keep the collector from what is imported, which stays: looking through it again and again was a tenth of all."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        session.config.stash[LOADED_BY_READING] = frozenset(sys.modules)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Let plugins see everything again: Hypothesis asks the collector who refers to whom."""
    gc.unfreeze()


def pytest_unconfigure() -> None:
    """Leave what lives until the end to the end of the process, instead of looking through it once more."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay as they were."""
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what ``make fuzz`` asks for."""
    group = parser.getgroup("hostile input")
    group.addoption("--long", action="store_true", help="run the long forms of the hostile-input tests")
    group.addoption("--seed", help="repeat a run of the long forms")


@pytest.fixture(scope="session")
def services_root() -> Iterator[Path]:
    """Return a folder that PostgreSQL's own user can reach too; pytest's is closed to it."""
    root = Path(tempfile.mkdtemp(prefix="poxvisio-tests-"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def owner_url(services_root: Path) -> Iterator[str]:
    """Return the superuser's URL of a migrated database."""
    server = EmbeddedPostgres(services_root / "postgres")
    url = server.start()
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        # A test connects a handful of times, and thousands of rounds of hashing are against who steals the hash.
        cursor.execute("ALTER SYSTEM SET scram_iterations = 1")
        cursor.execute("SELECT pg_reload_conf()")
        cursor.execute("SET scram_iterations = 1")
        cursor.execute("ALTER ROLE postgres PASSWORD %s", (sa.make_url(url).password,))
    migrate(url, LOGIN_PASSWORDS)
    with connection.cursor() as cursor:
        # A commit waits for no disk: it outlives a killed server all the same, and no test pulls the plug.
        cursor.execute("ALTER SYSTEM SET fsync = off")
        cursor.execute("SELECT pg_reload_conf()")
        # Leases that run out just after the server's start are forgiven, which no test but one is about.
        cursor.execute("SELECT pg_sleep(greatest(0, 4 - extract(epoch FROM now() - pg_postmaster_start_time())))")
    connection.close()
    yield url
    server.stop()


@pytest.fixture(scope="session")
def broker_url(services_root: Path) -> Iterator[str]:
    """Return the URL of a running Valkey."""
    server = EmbeddedValkey(services_root / "valkey")
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Return the endpoint of an S3 server without buckets; each test makes its own."""
    from moto.server import ThreadedMotoServer  # most processes of tests want none

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def _login(owner_url: str, name: str) -> str:
    url = sa.make_url(owner_url).set(username=name, password=LOGIN_PASSWORDS[name])
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def web_url(owner_url: str) -> str:
    """Return the URL with which the web side logs in."""
    return _login(owner_url, "poxvisio_web_login")


@pytest.fixture(scope="session")
def worker_url(owner_url: str) -> str:
    """Return the URL with which workers log in."""
    return _login(owner_url, "poxvisio_worker_login")


@pytest.fixture(scope="session")
def emptying(owner_url: str) -> str:
    """Return the statements that empty every table; with few rows that costs far less than TRUNCATE."""
    connection = psycopg2.connect(owner_url)
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relispartition AND relname <> 'alembic_version' ORDER BY relname"
        )
        deletes = [f'DELETE FROM "{name}"' for (name,) in cursor.fetchall()]
    # Without foreign keys, whose order would have to be found, and triggers.
    return "; ".join(["SET session_replication_role = replica", *deletes])


@pytest.fixture(scope="session")
def emptier(owner_url: str) -> Iterator["psycopg2.extensions.connection"]:
    """Return the connection that empties the tables: to make one costs more than what it does."""
    connection = psycopg2.connect(owner_url)
    connection.autocommit = True
    with contextlib.closing(connection):
        yield connection


@pytest.fixture
def clean(emptier: "psycopg2.extensions.connection", emptying: str) -> None:
    """Empty every table before the test."""
    with emptier.cursor() as cursor:
        cursor.execute(emptying)


class Lent(Database):
    """A database for one test after the other: its connections stay, and what SQLAlchemy has written of statements.

    Where a test kept a connection, the next one finds none of these.
    """

    def close(self) -> None:
        pool = self._engine.pool
        if not isinstance(pool, sa.QueuePool) or pool.checkedout():
            self.end()

    def end(self) -> None:
        """Close every connection."""
        super().close()


@pytest.fixture(scope="session")
def owner_pool(owner_url: str) -> Iterator[Lent]:
    """Return what ``owner_db`` lends."""
    database = Lent(owner_url, role="poxvisio_owner", pool_size=4)
    yield database
    database.end()


@pytest.fixture(scope="session")
def app_pool(web_url: str) -> Iterator[Lent]:
    """Return what ``app_db`` lends."""
    database = Lent(web_url, role="poxvisio_app", pool_size=4)
    yield database
    database.end()


@pytest.fixture(scope="session")
def worker_pool(worker_url: str) -> Iterator[Lent]:
    """Return what ``worker_db`` lends."""
    database = Lent(worker_url, role="poxvisio_worker", pool_size=8)
    yield database
    database.end()


@pytest.fixture
def owner_db(clean: None, owner_pool: Lent) -> Iterator[Database]:
    """Return the database as its owner sees it: everything, for setting up and looking after."""
    yield owner_pool
    owner_pool.close()


@pytest.fixture
def app_db(clean: None, app_pool: Lent) -> Iterator[Database]:
    """Return the database as the web side sees it."""
    yield app_pool
    app_pool.close()


@pytest.fixture
def worker_db(clean: None, worker_pool: Lent) -> Iterator[Database]:
    """Return the database as workers see it."""
    yield worker_pool
    worker_pool.close()


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> "Classifier":
    """Return the demo network, compiled once."""
    from worker.inference.classifier import Classifier  # few tests want a network

    bundle = load_bundle(Path(__file__).parent.parent / "models" / "demo")
    return Classifier.load(bundle, engine="openvino", precision="f32", cache=tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="session")
def network(classifier: "Classifier") -> "Classifier":
    """Return the demo network for tests of all that lies around it."""
    from tests.integration.worker.conftest import remembering

    return remembering(classifier)


def make_tenant(database: Database, name: str = "clinic") -> UUID:
    """Insert a tenant and return its id."""
    tenant = new_id()
    with database.transaction() as session:
        session.execute(sa.text("INSERT INTO tenant (id, name) VALUES (:id, :name)"), {"id": tenant, "name": name})
    return tenant


@pytest.fixture
def tenant(owner_db: Database) -> UUID:
    """Return a fresh tenant."""
    return make_tenant(owner_db)


def variables_of(web_url: str, broker_url: str, photos_folder: Path) -> dict[str, str]:
    """Return the variables of a web process in front of the test services."""
    return {
        "DATABASE_URL": web_url,
        "REDIS_URL": broker_url,
        "STORAGE_URL": f"file://{photos_folder}",
        "SECRET_KEY": "a-secret-of-the-tests-32-characters-long",
        "PUBLIC_URL": "http://127.0.0.1:8000",
        "MODEL": str(Path(__file__).parent.parent / "models" / "demo"),
        # A test that wants known answers to go through asks for them.
        "POXVISIO_HEARTBEAT_SECONDS": "0",
        "HOME": os.environ.get("HOME", "/"),
        # Tests ask faster than anybody may; those of the rates set their own.
        "POXVISIO_KEY_RATE": "100000",
        "POXVISIO_TENANT_RATE": "100000",
        "POXVISIO_REFUSED_KEYS": "100000",
        "POXVISIO_ADDRESS_RATE": "100000",
    }


@pytest.fixture
def photos_folder(tmp_path: Path) -> Path:
    """Return the folder of the photo storage; it is empty."""
    return tmp_path / "photos"


@pytest.fixture
def environment(web_url: str, broker_url: str, photos_folder: Path) -> dict[str, str]:
    """Return the variables of a web process in front of the test services, with an empty storage folder."""
    return variables_of(web_url, broker_url, photos_folder)


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    """Return the settings of a web process in front of the test services."""
    return Settings.load(environment)


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return every address that any socket of Python's is told to connect to; nothing is really dialled.

    But the web's thread that tells its rates to Valkey, which begins with the first request, goes on.
    """
    seen: list[Any] = []

    def guarded(usual: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            if threading.current_thread().name == "rates":
                return usual(self, address)
            seen.append(address)
            raise ConnectionRefusedError(111, "not dialled in tests")

        return connect

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
    return seen
