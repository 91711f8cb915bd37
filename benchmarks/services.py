"""The services that some benchmarks need: PostgreSQL and Valkey from wheels, a folder of photos, tenants and jobs."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg2
import sqlalchemy as sa
from psycopg2 import sql

from benchmarks.apart import ROOT
from benchmarks.whole import MANY_CLIENTS
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.valkey import EmbeddedValkey
from cli.migrate import LOGINS, migrate
from shared.database import Database, new_id
from shared.ledger.submit import NewImage, NewJob, submit
from shared.settings import Settings
from shared.storage import open_storage


@dataclass(frozen=True)
class Services:
    """Running services, and the environments of processes that use them."""

    folder: Path
    superuser_url: str
    broker_url: str
    passwords: dict[str, str]
    postgres: int

    def url(self, login: str, database: str = "poxvisio") -> str:
        """Return the database as that login reaches it."""
        url = sa.make_url(self.superuser_url).set(username=login, password=self.passwords[login], database=database)
        return url.render_as_string(hide_password=False)

    def environment(self, login: str, cache: str = "cache") -> dict[str, str]:
        """Return the variables of a process that logs in so; processes that start at once need a cache each."""
        return {
            "DATABASE_URL": self.url(login),
            "REDIS_URL": self.broker_url,
            "STORAGE_URL": (self.folder / "photos").as_uri(),
            "SECRET_KEY": "only-for-the-benchmarks-of-this-machine",
            "MODEL": str(ROOT / "models" / "demo"),
            "POXVISIO_CACHE_DIR": str(self.folder / cache),
            "POXVISIO_HEARTBEAT_SECONDS": "0",
            **MANY_CLIENTS,
        }

    @contextmanager
    def database(self, role: str, database: str = "poxvisio") -> Iterator[Database]:
        """Open the database in a role."""
        login = next((name for name, of in LOGINS.items() if of == role), None)
        url = self.url(login, database) if login else self.superuser_url
        opened = Database(sa.make_url(url).set(database=database).render_as_string(hide_password=False), role=role)
        try:
            yield opened
        finally:
            opened.close()

    def another_database(self, name: str) -> None:
        """Make a further migrated database on the same server."""
        connection = psycopg2.connect(self.superuser_url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        connection.close()
        url = sa.make_url(self.superuser_url).set(database=name)
        migrate(url.render_as_string(hide_password=False), {})

    def tenant(self) -> UUID:
        """Return a fresh tenant."""
        tenant = new_id()
        with self.database("poxvisio_owner") as database, database.transaction() as session:
            session.execute(
                sa.text("INSERT INTO tenant (id, name) VALUES (:id, :name)"), {"id": tenant, "name": tenant.hex}
            )
        return tenant


@contextmanager
def running(*, broker: bool = False) -> Iterator[Services]:
    """Start the services in a folder that PostgreSQL's own user can reach, and remove everything afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="poxvisio-benchmarks-"))
    folder.chmod(0o755)
    postgres, valkey = EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey")
    passwords = {login: secrets.token_hex(16) for login in LOGINS}
    try:
        url = postgres.start()
        migrate(url, passwords)
        broker_url = valkey.start() if broker else "redis://127.0.0.1:1/0"
        yield Services(folder, url, broker_url, passwords, postgres.pids()[0])
    finally:
        postgres.stop()
        valkey.stop()
        shutil.rmtree(folder, ignore_errors=True)


def submit_photos(services: Services, database: Database, tenant: UUID, photos: Sequence[bytes], count: int) -> UUID:
    """Store ``count`` photos, the given ones in turn under keys of their own, and submit them as one job."""
    storage = open_storage(Settings.load(services.environment("poxvisio_web_login")))
    job = new_id()
    images = []
    for ordinal in range(count):
        key = f"incoming/{job.hex}/{ordinal:05d}"
        with storage.create(key, limit=50 << 20) as upload:
            upload.write(photos[ordinal % len(photos)])
            stored = upload.finish()
        images.append(NewImage(new_id(), ordinal, f"{ordinal}.jpg", None, key, stored.sha256, stored.size))
    with database.transaction(tenant) as session:
        submit(session, NewJob(job, tenant, None, "bulk", images))
    return job
