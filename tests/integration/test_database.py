"""Transactions: what counts as the database being away, and what a stuck neighbour can do."""

import contextlib
import threading

import psycopg2
import pytest
import sqlalchemy as sa

from shared.database import Database
from shared.errors import DatabaseAway


def test_a_server_that_takes_no_writes_is_away(worker_db: Database) -> None:
    with pytest.raises(DatabaseAway), worker_db.transaction() as session:
        session.execute(sa.text("SET TRANSACTION READ ONLY"))
        session.execute(sa.text("INSERT INTO worker_node (name, state) VALUES ('w', 'ready')"))


def test_a_lock_that_never_comes_free_is_an_answer_in_time(worker_db: Database, owner_url: str) -> None:
    holder = psycopg2.connect(owner_url)
    holder.cursor().execute("LOCK TABLE worker_node IN ACCESS EXCLUSIVE MODE")
    try:
        with pytest.raises(DatabaseAway), worker_db.transaction() as session:
            session.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            session.execute(sa.text("SELECT count(*) FROM worker_node"))
    finally:
        holder.rollback()
        holder.close()


def test_a_look_is_no_transaction_and_leaves_the_connection_as_it_was(clean: None, worker_url: str) -> None:
    # Of one connection, which both must take.
    worker_db = Database(worker_url, role="poxvisio_worker", pool_size=1)
    which = sa.text("SELECT pg_backend_pid(), pg_current_xact_id()")
    with worker_db.looking() as session:
        one, other = session.execute(which).one(), session.execute(which).one()
    assert one[1] != other[1]
    with worker_db.transaction() as session:
        begun, further = session.execute(which).one(), session.execute(which).one()
    assert begun == further
    assert begun[0] == one[0]
    worker_db.close()


def test_a_look_at_a_database_that_is_away_says_so() -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none", role="poxvisio_worker")
    with pytest.raises(DatabaseAway), away.looking() as session:
        session.execute(sa.text("SELECT 1"))


def test_every_connection_is_held_to_bounds(worker_db: Database) -> None:
    names = (
        "idle_in_transaction_session_timeout",
        "lock_timeout",
        "tcp_keepalives_idle",
        "tcp_user_timeout",
        "TimeZone",
    )
    with worker_db.transaction() as session:
        found = [session.execute(sa.text(f"SHOW {name}")).scalar_one() for name in names]
    assert found == ["30s", "10s", "10", "15000", "UTC"]


def test_a_client_frozen_in_its_transaction_lets_go_of_its_locks(worker_db: Database) -> None:
    frozen, done = threading.Event(), threading.Event()

    def freeze() -> None:
        with pytest.raises(DatabaseAway), worker_db.transaction() as session:
            session.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '100ms'"))
            session.execute(sa.text("SELECT pg_advisory_xact_lock(7)"))
            frozen.set()
            done.wait(20)

    thread = threading.Thread(target=freeze)
    thread.start()
    assert frozen.wait(20)
    with worker_db.transaction() as session:
        session.execute(sa.text("SELECT pg_advisory_xact_lock(7)"))
    done.set()
    thread.join(20)
    assert not thread.is_alive()


def test_an_error_does_not_tell_what_was_to_be_written(worker_db: Database) -> None:
    name = "Jane Doe 1980 arm.jpg"
    with pytest.raises(sa.exc.IntegrityError) as refused, worker_db.transaction() as session:
        session.execute(sa.text("INSERT INTO worker_node (name, state) VALUES (:name, NULL)"), {"name": name})
    assert name not in str(refused.value).partition("DETAIL")[0]
    assert "[parameters" not in str(refused.value)


def test_connections_that_the_server_closed_are_replaced_before_they_are_used(
    worker_db: Database, owner_url: str
) -> None:
    own = sa.text("SELECT pg_backend_pid()")
    with worker_db.transaction() as one, worker_db.transaction() as other:
        killed = [session.execute(own).scalar_one() for session in (one, other)]
    server = psycopg2.connect(owner_url)
    server.autocommit = True
    with contextlib.closing(server), server.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid, 10000) FROM unnest(%s) pid", (killed,))
        assert cursor.fetchall() == [(True,), (True,)]
    for _ in killed:
        with worker_db.transaction() as session:
            assert session.execute(own).scalar_one() not in killed
