"""Steps of the database's clock, the only one that leases and deadlines know.

A clock that is set forward by an hour makes every time that was written before an hour older. That can be done without
touching the machine's clock: every stored time is set back by an hour.
"""

import time
from typing import Final
from uuid import UUID

import psycopg2
from psycopg2 import sql

from tests.chaos.running import Service

_TIMES: Final = """
    SELECT c.table_name, array_agg(c.column_name::text) FROM information_schema.columns c
    JOIN information_schema.tables t USING (table_schema, table_name)
    WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE' AND c.data_type = 'timestamp with time zone'
    GROUP BY c.table_name ORDER BY c.table_name
"""


_HELD: Final = "SELECT FROM unit WHERE state = 'leased' AND job_id = %s LIMIT 1"


def step(service: Service, seconds: float, *, once_free: UUID | None = None) -> None:
    """Set the clock forward by so many seconds, or back where they are negative, in one moment for all tables.

    ``once_free`` is a job that nobody must have a lease of in that moment.
    """
    while not _stepped(service, seconds, once_free):
        time.sleep(0.05)


def _stepped(service: Service, seconds: float, once_free: UUID | None) -> bool:
    connection = psycopg2.connect(service.facts["database_url"], connect_timeout=3)
    try:
        with connection, connection.cursor() as cursor:
            return _shift(cursor, seconds, once_free)
    except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
        return False
    finally:
        connection.close()


def _shift(cursor: "psycopg2.extensions.cursor", seconds: float, once_free: UUID | None) -> bool:
    cursor.execute(_TIMES)
    columns = dict(cursor.fetchall())
    # A deadlock has to be ended by giving way here: a victim in the service would be a fault of the test's making.
    cursor.execute("SET LOCAL lock_timeout = '300ms'; SET LOCAL deadlock_timeout = '10s'")
    tables = sql.SQL(", ").join(map(sql.Identifier, columns))
    cursor.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(tables))
    if once_free is not None:
        cursor.execute(_HELD, (str(once_free),))
        if cursor.rowcount:
            return False
    for table, names in columns.items():
        moved = (sql.SQL("{0} = {0} - make_interval(secs => %(by)s)").format(sql.Identifier(name)) for name in names)
        statement = sql.SQL("UPDATE {} SET {}").format(sql.Identifier(table), sql.SQL(", ").join(moved))
        cursor.execute(statement, {"by": seconds})
    return True
