"""Connections that spare turns: what is sent with the first statement, and what is left of it afterwards."""

import io
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from psycopg2.errors import SyntaxError as SqlUnreadable
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS
from sqlalchemy.exc import DataError, ProgrammingError
from sqlalchemy.orm import Session

from shared.database import Database
from tests.conftest import make_tenant

TENANTS = sa.text("SELECT id FROM tenant")
BROKEN = sa.text("SELECT 1 / (SELECT count(*) FROM tenant WHERE false)")


@pytest.fixture
def single(web_url: str) -> Iterator[Database]:
    """Return the web's database with one connection, which every transaction gets."""
    database = Database(web_url, role="poxvisio_app", pool_size=1)
    yield database
    database.close()


def raw(session: Session) -> Any:
    return session.connection().connection.dbapi_connection


def sent(session: Session, text: str) -> bytes:
    """Return what goes to the server for a statement."""
    with raw(session).cursor() as cursor:
        cursor.execute(text)
        return bytes(cursor.query)


def seen(database: Database, tenant: UUID | None) -> list[UUID]:
    with database.transaction(tenant) as session:
        return list(session.scalars(TENANTS))


def test_a_transaction_begins_with_its_first_statement_in_one_turn(owner_db: Database, single: Database) -> None:
    tenant = make_tenant(owner_db, "one")
    with single.transaction(tenant) as session:
        first, second = sent(session, "SELECT 1"), sent(session, "SELECT 2")
    assert first == f"BEGIN; SELECT set_config('app.tenant', '{tenant}', true);SELECT 1".encode()
    assert second == b"SELECT 2"
    with single.transaction() as session:
        assert sent(session, "SELECT 1") == b"BEGIN;SELECT 1"


def test_what_a_block_wrote_stays_unless_it_failed(clean: None, worker_db: Database) -> None:
    written = sa.text("INSERT INTO worker_node (name, state) VALUES (:name, 'ready')")
    with worker_db.transaction() as session:
        session.execute(written, {"name": "kept"})
    with pytest.raises(ZeroDivisionError), worker_db.transaction() as session:
        session.execute(written, {"name": "lost"})
        raise ZeroDivisionError
    with worker_db.transaction() as session:
        assert list(session.scalars(sa.text("SELECT name FROM worker_node"))) == ["kept"]


@pytest.mark.parametrize("way", ["transaction", "looking"])
def test_a_first_statement_that_fails_leaves_neither_transaction_nor_tenant(
    owner_db: Database, single: Database, way: str
) -> None:
    tenant = make_tenant(owner_db, "one")
    with pytest.raises(DataError, match="division by zero"), getattr(single, way)(tenant) as session:
        connection = raw(session)
        session.execute(BROKEN)
    assert connection.get_transaction_status() == TRANSACTION_STATUS_IDLE
    assert connection.ahead == b""
    assert seen(single, None) == []
    assert seen(single, tenant) == [tenant]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(("SELECT %s", ["\0"]), id="that psycopg2 does not send"),
        pytest.param(("SELEKT 1", None), id="that the server cannot read"),
    ],
)
def test_what_comes_behind_a_broken_first_statement_is_the_tenants_and_in_a_transaction(
    owner_db: Database, single: Database, broken: tuple[str, Any]
) -> None:
    tenants = [make_tenant(owner_db, name) for name in ("first", "second")]
    with pytest.raises(ZeroDivisionError), single.transaction(tenants[0]) as session:
        with raw(session).cursor() as cursor, pytest.raises((ValueError, SqlUnreadable)):
            cursor.execute(*broken)
        assert list(session.scalars(TENANTS)) == tenants[:1]
        assert raw(session).get_transaction_status() == TRANSACTION_STATUS_INTRANS
        raise ZeroDivisionError
    assert seen(single, None) == []


@pytest.mark.parametrize("way", ["executemany", "callproc", "copy_expert"])
def test_a_transaction_begins_whatever_way_its_first_statement_is_sent(
    owner_db: Database, single: Database, way: str
) -> None:
    tenant = make_tenant(owner_db, "one")
    given: dict[str, Any] = {
        "executemany": ("SELECT %s", [[1], [2]]),
        "callproc": ("now",),
        "copy_expert": ("COPY (SELECT 1) TO STDOUT", io.StringIO()),
    }
    with single.transaction(tenant) as session:
        with raw(session).cursor() as cursor:
            getattr(cursor, way)(*given[way])
        assert raw(session).get_transaction_status() == TRANSACTION_STATUS_INTRANS
        assert list(session.scalars(TENANTS)) == [tenant]


def test_rows_are_not_streamed_where_each_statement_is_a_transaction(owner_db: Database, single: Database) -> None:
    tenant = make_tenant(owner_db, "one")
    for whose in (tenant, None):
        with pytest.raises(ProgrammingError, match="needs a transaction"), single.looking(whose) as session:
            session.scalars(TENANTS.execution_options(yield_per=2)).all()
    with single.transaction() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM pg_cursors")) == 0


def test_a_savepoint_begins_no_transaction_of_its_own(owner_db: Database, single: Database) -> None:
    tenant = make_tenant(owner_db, "one")
    with single.transaction(tenant) as session:
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            assert list(session.scalars(TENANTS)) == [tenant]
            raise ZeroDivisionError
        assert sent(session, "SELECT 1") == b"SELECT 1"
        with session.begin_nested():
            assert sent(session, "SELECT 2") == b"SELECT 2"
        assert list(session.scalars(TENANTS)) == [tenant]
        assert raw(session).notices == []


def test_each_look_sees_the_tenants_rows_and_the_next_user_of_the_connection_none(
    owner_db: Database, single: Database
) -> None:
    tenants = [make_tenant(owner_db, name) for name in ("first", "second")]
    for tenant in tenants:
        with single.looking(tenant) as session:
            assert [list(session.scalars(TENANTS)) for _ in range(2)] == [[tenant]] * 2
            assert raw(session).get_transaction_status() == TRANSACTION_STATUS_IDLE
    with single.looking() as session:
        assert list(session.scalars(TENANTS)) == []
    assert seen(single, None) == []


def test_nothing_was_asked_so_nothing_is_sent_with_what_comes_next(owner_db: Database, single: Database) -> None:
    tenant = make_tenant(owner_db, "one")
    with single.transaction(tenant) as session:
        connection = raw(session)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM tenant")
        assert cursor.fetchall() == []


def test_rows_that_are_streamed_are_the_tenants_and_their_cursor_goes_with_the_transaction(
    owner_db: Database, single: Database
) -> None:
    tenant = make_tenant(owner_db, "one")
    many = sa.text("SELECT t.id FROM tenant t, generate_series(1, 5)").execution_options(yield_per=2)
    with single.transaction(tenant) as session:
        assert list(session.scalars(many)) == [tenant] * 5
    with pytest.raises(ZeroDivisionError), single.transaction(tenant) as session:
        next(session.scalars(many))
        raise ZeroDivisionError
    with single.transaction(tenant) as session:
        assert next(session.scalars(many)) == tenant
    with single.transaction() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM pg_cursors")) == 0


def test_a_transaction_of_one_moment_sees_nothing_that_came_since(clean: None, worker_db: Database) -> None:
    count = sa.text("SELECT count(*) FROM worker_node")
    with worker_db.transaction(of_one_moment=True) as session:
        before = session.scalar(count)
        with worker_db.transaction() as other:
            other.execute(sa.text("INSERT INTO worker_node (name, state) VALUES ('came', 'ready')"))
        assert session.scalar(count) == before
    with worker_db.transaction() as session:
        assert session.scalar(count) == before + 1


def test_a_commit_waits_for_the_disk_unless_what_it_writes_is_written_anew_anyway(worker_db: Database) -> None:
    how = sa.text("SHOW synchronous_commit")
    with worker_db.transaction() as session:
        lasting = session.scalar(how)
    with worker_db.transaction(lasting=False) as session:
        assert session.scalar(how) == "off"
    with worker_db.transaction() as session:
        assert session.scalar(how) == lasting != "off"
