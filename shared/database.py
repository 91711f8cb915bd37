"""Connections and transactions: one engine a process, a role and a tenant for every transaction.

The tenant is set when a transaction begins, so that no call can forget it; without one the web's role sees no rows at
all (row-level security, forced).
"""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import psycopg2.extensions
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.orm import Session, SessionTransaction
from uuid_utils import compat

from shared.errors import DatabaseAway
from shared.settings import Settings
from shared.turns import Connection

# What the server holds this client to. A client that vanishes or freezes inside a transaction must not keep its locks
# for the server's two hours, and whoever waits for a lock hears of it in time to answer.
_SESSION = (
    ("timezone", "UTC"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("lock_timeout", "10s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "3"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "15s"),
)
# A standby after a failover, a full disk that made the server read-only, a transaction that idled too long.
_AWAY_STATES = frozenset({"25006", "25P03", "53100"})

_AHEAD: Final = "ahead"
_LOOSE: Final = "; SET LOCAL synchronous_commit = off"


def new_id() -> UUID:
    """Return a fresh UUIDv7 (RFC 9562): ids sort by the time they were made."""
    return compat.uuid7()


class Database:
    """An engine whose connections hold one role. Threads may share it; processes may not."""

    def __init__(self, url: str, *, role: str, pool_size: int = 8) -> None:
        self.role = role
        self._engine = sa.create_engine(
            sa.make_url(url).set(drivername="postgresql+psycopg2"),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5,
            executemany_mode="values_plus_batch",
            # An error's text goes into logs, and parameters are file names, metadata and addresses of webhooks.
            hide_parameters=True,
            connect_args={
                "connect_timeout": 3,
                "options": " ".join(f"-c {name}={value}" for name, value in (("role", role), *_SESSION)),
                "application_name": role,
                "connection_factory": Connection,
                # A database host that vanished must not hold a caller for the kernel's 15 minutes.
                "keepalives_idle": 10,
                "keepalives_interval": 3,
                "keepalives_count": 3,
                "tcp_user_timeout": 15_000,
            },
        )
        event.listen(self._engine, "checkout", _refuse_closed)

    @classmethod
    def open(cls, settings: Settings, role: str) -> "Database":
        """Open the database of the settings in the given role, unless the settings name another."""
        url = settings.database_url.get_secret_value()
        return cls(url, role=settings.database_role or role, pool_size=settings.database_pool)

    @contextmanager
    def transaction(
        self, tenant: UUID | None = None, *, of_one_moment: bool = False, lasting: bool = True
    ) -> Iterator[Session]:
        """Open a transaction for one tenant, or for none; it commits when the block is left without an error.

        All its statements see the database ``of_one_moment`` where that is asked for (REPEATABLE READ). What is not
        ``lasting`` may be lost if the database dies within a second: its COMMIT does not wait for the disk. That is for
        what is written anew within seconds, and for nothing that anybody was told.

        Raises ``DatabaseAway`` where PostgreSQL is out of reach or no connection is free. A COMMIT whose answer was
        lost raises it too: the caller settles what happened by reading its fence, key or result.
        """
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ" if of_one_moment else "BEGIN"
        session = _Session(
            self._engine,
            expire_on_commit=False,
            autoflush=False,
            info={_AHEAD: begin + _LOOSE * (not lasting) + _for(tenant)},
        )
        with _away_is_said(), session, session.begin():
            yield session

    @contextmanager
    def looking(self, tenant: UUID | None = None) -> Iterator[Session]:
        """Open a session for statements that are a transaction each, for one tenant or for none: a turn instead of two.

        For one statement that reads, or for several that need not see the same. Raises ``DatabaseAway`` as
        ``transaction`` does.
        """
        session = _Session(self._engine, autoflush=False, info={_AHEAD: _for(tenant).lstrip(";")})
        with _away_is_said(), session:
            yield session

    def check(self) -> None:
        """Raise ``DatabaseAway`` unless the database answers."""
        with self.transaction() as session:
            session.execute(sa.text("SELECT 1"))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _for(tenant: UUID | None) -> str:
    """Return what sets the tenant for the transaction that is being opened."""
    return ";" if tenant is None else f"; SELECT set_config('app.tenant', '{UUID(str(tenant))}', true);"


class _Session(Session):
    """A session whose ``info`` says what opens its transaction or, where nothing does, goes before each statement."""


@event.listens_for(_Session, "after_begin")
def _open(session: Session, _: SessionTransaction, connection: sa.Connection) -> None:
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, Connection)  # noqa: S101  # the engine makes no other
    raw.open_with(session.info[_AHEAD])


@contextmanager
def _away_is_said() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolExhausted) as error:
        raise DatabaseAway("the database is out of reach; try again in a moment") from error
    except DBAPIError as error:
        if not error.connection_invalidated and getattr(error.orig, "pgcode", None) not in _AWAY_STATES:
            raise
        raise DatabaseAway("the connection to the database was lost; try again in a moment") from error


def _refuse_closed(connection: "psycopg2.extensions.connection", _: object, __: object) -> None:
    """Let the pool connect anew where the server has closed a pooled connection (killed, restarted, terminated).

    Between two uses a server says nothing but its farewell. To look for that costs next to nothing, where the question
    that ``pool_pre_ping`` asks is a round trip for every transaction.
    """
    watched = select.poll()
    watched.register(connection, select.POLLIN | select.POLLRDHUP)
    if watched.poll(0):
        raise InvalidatePoolError
