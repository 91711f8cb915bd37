"""Brings a database to the present schema, and makes the logins of the processes."""

from collections.abc import Mapping
from pathlib import Path

import psycopg2
from alembic import command
from alembic.config import Config
from psycopg2 import sql

from shared.tables import Base

ROOT = Path(__file__).resolve().parent.parent

# Each process logs in as itself and may do what its role may, no more.
LOGINS = {
    "poxvisio_web_login": "poxvisio_app",
    "poxvisio_worker_login": "poxvisio_worker",
    "poxvisio_reader_login": "poxvisio_reader",
}


def alembic_config(url: str) -> Config:
    """Return Alembic's configuration for the database at ``url``."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    config.attributes["metadata"] = Base.metadata
    return config


def migrate(superuser_url: str, passwords: Mapping[str, str], revision: str = "head") -> None:
    """Migrate the database, then give each login of ``LOGINS`` its password and role.

    ``superuser_url`` must log in as a user that may create roles. ``passwords`` maps login names to passwords; a login
    without one is left as it is.
    """
    command.upgrade(alembic_config(superuser_url), revision)
    connection = psycopg2.connect(superuser_url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('poxvisio logins'))")
            for login, password in passwords.items():
                _make_login(cursor, login, LOGINS[login], password)
    finally:
        connection.close()


def _make_login(cursor: "psycopg2.extensions.cursor", login: str, role: str, password: str) -> None:
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (login,))
    verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
    name = sql.Identifier(login)
    cursor.execute(
        sql.SQL("{} ROLE {} LOGIN NOINHERIT NOBYPASSRLS PASSWORD {}").format(verb, name, sql.Literal(password))
    )
    cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), name))
