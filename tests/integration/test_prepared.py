"""Prepared statements: read once a connection, kept over a rollback, and mended where something else undid them."""

from collections.abc import Iterator
from uuid import UUID

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DataError, ProgrammingError

from shared.database import Database
from shared.errors import DatabaseAway
from shared.prepared import Prepared, array, number_array, text_array
from tests.conftest import make_tenant

ADDED = Prepared(
    "SELECT :one + x.n AS sum, 'at 10:30' AS told FROM unnest(:others) AS x(n)", {"one": "int", "others": "int[]"}
)
BARE = Prepared("SELECT 7 AS found", {})
KNOWN = "SELECT count(*) FROM pg_prepared_statements"


@pytest.fixture
def single(worker_url: str) -> Iterator[Database]:
    """Return a database with one connection, which every transaction gets."""
    database = Database(worker_url, role="poxvisio_worker", pool_size=1)
    yield database
    database.close()


def known(database: Database) -> int:
    with database.transaction() as session:
        return int(session.execute(sa.text(KNOWN)).scalar_one())


def test_a_statement_is_prepared_once_and_run_often(single: Database) -> None:
    for one in range(3):
        with single.transaction() as session:
            rows = ADDED.run(session, {"one": one, "others": array(["10", "NULL", "20"])})
        assert [(row.sum, row.told) for row in rows] == [
            (one + 10, "at 10:30"),
            (None, "at 10:30"),
            (one + 20, "at 10:30"),
        ]
    assert known(single) == 1
    with single.transaction() as session:
        assert [row.found for row in BARE.run(session, {})] == [7]
    assert known(single) == 2


def test_what_was_prepared_outlives_a_rollback(single: Database) -> None:
    with pytest.raises(ZeroDivisionError), single.transaction() as session:
        BARE.run(session, {})
        raise ZeroDivisionError
    assert known(single) == 1
    with single.transaction() as session:
        assert BARE.run(session, {})[0].found == 7


def test_a_wrong_value_is_the_callers_error_and_costs_no_connection(single: Database) -> None:
    with pytest.raises(DataError, match="invalid input syntax") as refused, single.transaction() as session:
        ADDED.run(session, {"one": "secret-name.jpg", "others": "{}"})
    assert not refused.value.connection_invalidated
    with single.transaction() as session:
        assert ADDED.run(session, {"one": 1, "others": array(["2"])})[0].sum == 3


@pytest.mark.parametrize("undo", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_statements_that_somebody_discarded_are_prepared_again(single: Database, undo: str) -> None:
    with single.transaction() as session:
        BARE.run(session, {})
        connection = session.connection().connection.dbapi_connection
    assert connection is not None
    connection.autocommit = True
    connection.cursor().execute(undo)
    connection.autocommit = False
    with pytest.raises(DatabaseAway, match="prepared"), single.transaction() as session:
        BARE.run(session, {})
    with single.transaction() as session:
        assert BARE.run(session, {})[0].found == 7


def test_a_statement_that_was_prepared_and_not_noted_spoils_no_connection_for_good(single: Database) -> None:
    with single.transaction() as session:
        BARE.run(session, {})
        session.connection().info.clear()
    with pytest.raises(DatabaseAway, match="prepared"), single.transaction() as session:
        BARE.run(session, {})
    with single.transaction() as session:
        assert BARE.run(session, {})[0].found == 7


def test_a_migration_beneath_a_statement_is_got_over(owner_url: str) -> None:
    whole = Prepared("SELECT * FROM changing", {})
    owner = psycopg2.connect(owner_url)
    owner.autocommit = True
    with owner.cursor() as cursor:
        cursor.execute("CREATE TABLE changing (a int); GRANT SELECT ON changing TO poxvisio_owner")
        try:
            single = Database(owner_url, role="poxvisio_owner", pool_size=1)
            with single.transaction() as session:
                assert whole.run(session, {}) == []
            cursor.execute("ALTER TABLE changing ADD b int; INSERT INTO changing VALUES (1, 2)")
            with pytest.raises(DatabaseAway, match="prepared"), single.transaction() as session:
                whole.run(session, {})
            with single.transaction() as session:
                assert [(row.a, row.b) for row in whole.run(session, {})] == [(1, 2)]
            single.close()
        finally:
            cursor.execute("DROP TABLE changing")
    owner.close()


def test_a_connection_that_was_ended_is_the_database_being_away(single: Database, owner_url: str) -> None:
    owner = psycopg2.connect(owner_url)
    owner.autocommit = True
    with pytest.raises(DatabaseAway), single.transaction() as session:
        pid = session.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        owner.cursor().execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        BARE.run(session, {})
    with single.transaction() as session:
        assert BARE.run(session, {})[0].found == 7
    owner.close()


def test_a_plan_that_is_kept_shows_each_transaction_the_rows_of_its_own_tenant(
    owner_db: Database, web_url: str
) -> None:
    tenants = [make_tenant(owner_db, name) for name in ("first", "second")]
    seen = Prepared("SELECT id FROM tenant WHERE weight >= :least", {"least": "float8"})
    generic = "SELECT generic_plans FROM pg_prepared_statements"

    def looked(database: Database, whose: UUID | None) -> list[UUID]:
        with database.transaction(whose) as session:
            return [row.id for row in seen.run(session, {"least": 0.0})]

    web = Database(web_url, role="poxvisio_app", pool_size=1)
    for _ in range(8):
        for whose in tenants:
            assert looked(web, whose) == [whose]
        assert looked(web, None) == []
    with web.transaction() as session:
        assert session.execute(sa.text(generic)).scalar_one() > len(tenants)
        # Another role on the same connection is held to its own policies, too.
        session.execute(sa.text("SET LOCAL ROLE NONE"))
        with pytest.raises(ProgrammingError, match="permission denied"):
            seen.run(session, {"least": 0.0})
    web.close()


def test_arrays_come_back_as_they_went_in(single: Database) -> None:
    told = Prepared("SELECT :names AS names, :sizes AS sizes", {"names": "text[]", "sizes": "float8[]"})
    names = ["plain.jpg", 'quo"ted\\ {a,b}', "", None, "NULL", "null", "it's 100 %s é\n", " spaces "]
    sizes = [1, -2.5, None, 1e-7, 50_000_000_000]
    with single.transaction() as session:
        [row] = told.run(session, {"names": text_array(names), "sizes": number_array(sizes)})
    assert (row.names, row.sizes) == (names, sizes)
