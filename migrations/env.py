"""How Alembic reaches the database: with the URL it is given, as the role that owns the schema."""

import os
from pathlib import Path

import sqlalchemy as sa
from alembic import context

ROLES = Path(__file__).parent / "roles.sql"


def _url() -> sa.URL:
    given = context.config.attributes.get("url") or os.environ.get("DATABASE_URL")
    if not given:
        raise SystemExit("DATABASE_URL is missing: it must name the database to migrate")
    return sa.make_url(str(given)).set(drivername="postgresql+psycopg2")


def _is_ours(name: str | None, kind: str, _: object) -> bool:
    """Leave out the partitions of ``attempt``: they come and go with the months."""
    return not (kind == "table" and (name or "").startswith("attempt_"))


def run() -> None:
    """Make the roles, become the owner, and run what is asked for in one transaction."""
    engine = sa.create_engine(_url(), poolclass=sa.NullPool)
    with engine.begin() as connection:
        # One migration at a time, roles and their grants included, however many nodes are started at once.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('poxvisio migrations'))")
        connection.exec_driver_sql(ROLES.read_text(encoding="utf-8").replace("%", "%%"))
        connection.exec_driver_sql("SET LOCAL ROLE poxvisio_owner")
        context.configure(
            connection=connection,
            target_metadata=context.config.attributes.get("metadata"),
            transactional_ddl=True,
            compare_type=True,
            compare_server_default=False,
            include_name=_is_ours,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
