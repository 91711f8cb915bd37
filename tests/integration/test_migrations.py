"""The schema's way up and down, on databases of its own: rows stay, and the classes say what the tables are."""

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psycopg2
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from cli.embedded.postgres import EmbeddedPostgres
from cli.migrate import alembic_config, migrate
from shared import history
from shared.database import Database, new_id
from shared.job_search import Wanted, find
from shared.ledger.deletion import delete
from shared.ledger.submit import submit
from shared.tables import Base
from tests.conftest import LOGIN_PASSWORDS, make_tenant
from tests.integration.ledger.factories import change, check_invariants, finish, new_job, rows, submit_job, take
from tests.integration.ledger.said import ANSWER, said

ROOT = Path(__file__).resolve().parent.parent.parent
# What the first revision made, and no later one takes away.
FIRST_TABLES = {
    *("tenant", "api_key", "job", "image", "unit", "flow", "result", "event_counter", "event", "endpoint"),
    *("delivery", "attempt", "idempotency_key", "worker_node"),
}


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    """Run one statement as the superuser, outside any transaction."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@contextlib.contextmanager
def scratch_database(owner_url: str, options: str = "") -> Iterator[str]:
    """Make a database and drop it again; its URL is the superuser's."""
    name = f"scratch_{new_id().hex}"
    execute(owner_url, f"CREATE DATABASE {name} {options}")
    yield sa.make_url(owner_url).set(database=name).render_as_string(hide_password=False)
    execute(owner_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def fresh_url(owner_url: str) -> Iterator[str]:
    """Return the superuser's URL of an empty database."""
    with scratch_database(owner_url) as url:
        yield url


@pytest.fixture(scope="module")
def template(owner_url: str) -> Iterator[str]:
    """Return the name of a migrated database on which nobody works."""
    with scratch_database(owner_url) as url:
        migrate(url, {})
        yield str(sa.make_url(url).database)


@pytest.fixture
def migrated_url(owner_url: str, template: str) -> Iterator[str]:
    """Return the superuser's URL of a migrated database."""
    with scratch_database(owner_url, f"TEMPLATE {template}") as url:
        yield url


@pytest.fixture
def scratch(migrated_url: str) -> Iterator[Database]:
    """Return the migrated database as its owner sees it."""
    database = Database(migrated_url, role="poxvisio_owner", pool_size=2)
    yield database
    database.close()


Snapshot = dict[str, list[dict[str, object]]]


def snapshot(url: str) -> Snapshot:
    """Return every row of every table of ours that there is at this revision, as the superuser sees it."""
    found: Snapshot = {}
    there = sorted(set(Base.metadata.tables) & tables(url))
    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for table in there:
            cursor.execute(f"SELECT to_jsonb(x) FROM {table} x")
            found[table] = sorted((dict(row) for (row,) in cursor.fetchall()), key=str)
    return found


def shared_by(before: Snapshot, after: Snapshot) -> tuple[Snapshot, Snapshot]:
    """Return of both what both revisions know, tables and columns."""

    def cut(one: Snapshot, other: Snapshot) -> Snapshot:
        return {
            table: sorted(({name: row[name] for name in row if name in other[table][0]} for row in one[table]), key=str)
            for table in one
            if other.get(table)
        }

    return cut(before, after), cut(after, before)


def tables(url: str) -> set[str]:
    found = execute(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {str(row[0]) for row in found}


def fill(owner: Database, url: str) -> UUID:
    """Put rows into every table; return the tenant."""
    tenant = make_tenant(owner)
    app, worker = Database(url, role="poxvisio_app"), Database(url, role="poxvisio_worker")
    endpoint = new_id()
    for statement in (
        "INSERT INTO api_key (id, tenant_id, name, secret_hash, scopes) VALUES (:id, :tenant, 'k', 'x', '{admin}')",
        "INSERT INTO endpoint (id, tenant_id, url, secret) VALUES (:endpoint, :tenant, 'https://a.example', 's')",
        "INSERT INTO worker_node (name, state) VALUES ('alpha', 'ready')",
        """
        INSERT INTO backlog_count (counted_at, took, interactive, normal, bulk, leased, tags, ahead)
        VALUES (now(), 0.1, 0, 8, 32, 32, '{2}', '{8}')
        """,
        """
        INSERT INTO idempotency_key (tenant_id, key, fence, lease_until, expires_at)
        VALUES (:tenant, 'k', 1, now(), now())
        """,
    ):
        change(owner, statement, id=new_id(), tenant=tenant, endpoint=endpoint)
    submit_job(app, tenant, 40)
    finish(worker, take(worker, 1), reasons=("blurred",), decode_ms=41.23, **said())
    tried = """
        INSERT INTO attempt (id, tenant_id, delivery_id, number, duration_ms)
        SELECT :id, tenant_id, id, 1, 5 FROM delivery LIMIT 1
    """
    change(owner, tried, id=new_id())
    replaced = """
        INSERT INTO result_history (image_id, round, tenant_id, job_id, ordinal, fence, outcome, reasons, attempts,
                                    finished_at)
        SELECT image_id, 0, tenant_id, job_id, ordinal, fence, 'failed', '{}', 3, now() FROM result LIMIT 1
    """
    change(owner, replaced)
    change(owner, "INSERT INTO intake SELECT id, tenant_id, 'urls', 'a', NULL, NULL, NULL, 1, now(), NULL FROM job")
    change(owner, "INSERT INTO intake_url SELECT job_id, 0, tenant_id, 'https://a.example/1' FROM intake")
    # One that tells of no photo: what is still to be told keeps the way down closed.
    change(owner, "INSERT INTO untold SELECT id, tenant_id, 'job.cancelled', '{}', 0 FROM job")
    for statement in (
        """
        INSERT INTO model (digest, id, card, labels, clinical, synthetic, bytes)
        VALUES (repeat('ab', 32), 'second', '{}', '{a,b}', false, true, 5)
        """,
        "INSERT INTO model_serving (version, canary, canary_share) VALUES (1, repeat('ab', 32), 0.5)",
        "INSERT INTO model_change (id, kind, model_id) VALUES (gen_random_uuid(), 'canary', 'second')",
        "INSERT INTO heartbeat (id, model_id, digest, photos) VALUES (gen_random_uuid(), 'second', 'd', 4)",
        """
        INSERT INTO shadow_result (image_id, tenant_id, job_id, digest, outcome, label, p, live_digest, live_outcome,
                                   live_label, live_p)
        SELECT id, tenant_id, job_id, 'd', 'classified', 'a', 1, 'e', 'classified', 'a', 1 FROM image LIMIT 1
        """,
    ):
        change(owner, statement)
    app.close()
    worker.close()
    assert all(snapshot(url).values()), "a table without rows proves nothing"
    return tenant


# The classes and the migrations


def test_the_migrations_make_what_the_classes_say(migrated_url: str) -> None:
    command.check(alembic_config(migrated_url))


def schema(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Return columns, constraints and indexes in PostgreSQL's own words; Alembic compares only part of these."""
    ours = (
        "'public'::regnamespace AND k.relname <> 'alembic_version' AND NOT k.relispartition AND k.relkind IN ('r', 'p')"
    )
    return {
        "columns": execute(
            url,
            f"""
            SELECT k.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
              pg_get_expr(d.adbin, d.adrelid)
            FROM pg_class k JOIN pg_attribute a ON a.attrelid = k.oid AND a.attnum > 0 AND NOT a.attisdropped
            LEFT JOIN pg_attrdef d ON d.adrelid = k.oid AND d.adnum = a.attnum
            WHERE k.relnamespace = {ours} ORDER BY 1, 2
            """,
        ),
        "constraints": execute(
            url,
            f"""
            SELECT k.relname, c.conname, pg_get_constraintdef(c.oid)
            FROM pg_constraint c JOIN pg_class k ON k.oid = c.conrelid
            WHERE c.contype <> 'n' AND k.relnamespace = {ours} ORDER BY 1, 2
            """,
        ),
        "indexes": execute(
            url,
            f"""
            SELECT k.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class k ON k.oid = i.indrelid
            WHERE k.relnamespace = {ours} ORDER BY 1, 2
            """,
        ),
        "options": execute(
            url,
            f"""
            SELECT k.relname, ARRAY(SELECT unnest(k.reloptions) ORDER BY 1), pg_get_partkeydef(k.oid)
            FROM pg_class k WHERE k.relnamespace = {ours} ORDER BY 1
            """,
        ),
    }


def test_classes_and_migrations_agree_to_the_last_default_and_condition(fresh_url: str, owner_url: str) -> None:
    engine = sa.create_engine(sa.make_url(fresh_url).set(drivername="postgresql+psycopg2"))
    Base.metadata.create_all(engine)
    engine.dispose()
    of_classes, of_migrations = schema(fresh_url), schema(owner_url)
    for part in of_classes:
        assert of_migrations[part] == of_classes[part], part


# Up and down


def test_every_way_down_and_up_again_keeps_the_rows(migrated_url: str, scratch: Database) -> None:
    tenant = fill(scratch, migrated_url)
    config = alembic_config(migrated_url)
    before = snapshot(migrated_url)
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    scratch.close()  # a pooled connection would remember what a column was
    # Each step by itself, down, up and down, and then all the way up.
    for source, target in itertools.pairwise(revisions):
        command.downgrade(config, target)
        earlier = snapshot(migrated_url)
        assert set(earlier) >= FIRST_TABLES
        kept, left = shared_by(before, earlier)
        assert left == kept, target
        assert set(kept) == set(earlier), target
        command.upgrade(config, source)
        kept, back = shared_by(earlier, snapshot(migrated_url))
        assert back == kept, target
        assert set(kept) == set(earlier), target
        command.downgrade(config, target)
        assert snapshot(migrated_url) == earlier, target
        before = earlier
    command.upgrade(config, "head")
    kept, back = shared_by(before, snapshot(migrated_url))
    assert back == kept
    command.check(config)
    app = Database(migrated_url, role="poxvisio_app")
    job = submit_job(app, tenant, 3)
    with app.transaction() as session:
        assert session.execute(sa.text("SELECT 1 FROM job")).all() == []
    app.close()
    assert job.id in {row.id for row in rows(scratch, "SELECT id FROM job")}
    check_invariants(scratch)


def test_an_answer_is_spelled_out_on_the_way_down_and_packed_again_on_the_way_up(
    migrated_url: str, scratch: Database
) -> None:
    tenant = fill(scratch, migrated_url)
    scratch.close()
    config = alembic_config(migrated_url)
    command.downgrade(config, "0007")
    found = execute(migrated_url, "SELECT DISTINCT answer, model_id, model_digest, timings FROM result")
    assert found == [(ANSWER, "demo", "ab" * 32, {"decode_ms": 41.23})]
    command.upgrade(config, "head")
    app = Database(migrated_url, role="poxvisio_app")
    with app.transaction(tenant) as session:
        [job] = find(session, Wanted()).jobs
        views = list(history.stream_results(session, job))
    app.close()
    assert len(views) == len(rows(scratch, "SELECT 1 FROM result WHERE numbers IS NOT NULL")) > 1
    for view in views:
        assert (view.answer, view.model_id, view.timings) == (ANSWER, "demo", {"decode_ms": 41.23})


def test_the_way_down_drops_tombstones_once_their_photos_are_gone(migrated_url: str, scratch: Database) -> None:
    fill(scratch, migrated_url)
    kept = rows(scratch, "SELECT id FROM job")[0].id
    app, worker = Database(migrated_url, role="poxvisio_app"), Database(migrated_url, role="poxvisio_worker")
    tenant = make_tenant(scratch, "second")
    job = submit_job(app, tenant, 1, "interactive")
    assert finish(worker, take(worker, lanes=["interactive"])).closed == (job.id,)
    with app.transaction(tenant) as session:
        delete(session, tenant, job.id)
    for database in (app, worker, scratch):
        database.close()
    config = alembic_config(migrated_url)
    with pytest.raises(sa.exc.DBAPIError, match="still lie in the storage"):
        command.downgrade(config, "0003")
    change(scratch, "UPDATE job SET purged_at = now(), purge_at = NULL WHERE id = :job", job=job.id)
    scratch.close()
    command.downgrade(config, "0003")
    assert [row.id for row in rows(scratch, "SELECT id FROM job")] == [kept]


def test_the_way_down_waits_until_every_photo_is_told_of(migrated_url: str, scratch: Database) -> None:
    fill(scratch, migrated_url)
    change(scratch, "UPDATE untold SET written_in = (SELECT min(written_in) FROM result)")
    scratch.close()
    config = alembic_config(migrated_url)
    with pytest.raises(sa.exc.DBAPIError, match="still to be told of"):
        command.downgrade(config, "0019")
    change(scratch, "UPDATE untold SET upto = (SELECT max(ordinal) FROM result)")
    scratch.close()
    command.downgrade(config, "0019")
    assert "untold" not in tables(migrated_url)


def test_down_to_the_base_and_up_gives_an_empty_database_that_works(migrated_url: str, scratch: Database) -> None:
    fill(scratch, migrated_url)
    scratch.close()
    config = alembic_config(migrated_url)
    command.downgrade(config, "base")
    assert tables(migrated_url) == {"alembic_version"}
    for left in (
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('S', 'v')",
    ):
        assert execute(migrated_url, left) == []
    command.upgrade(config, "head")
    assert not any(snapshot(migrated_url).values())
    app, worker = Database(migrated_url, role="poxvisio_app"), Database(migrated_url, role="poxvisio_worker")
    tenant = make_tenant(scratch)
    job = new_job(tenant, 33)
    with app.transaction(tenant) as session:
        submit(session, job)
    assert finish(worker, take(worker)).closed == (job.id,)
    check_invariants(scratch)
    app.close()
    worker.close()


def test_rights_are_the_same_after_a_way_down_and_up(migrated_url: str) -> None:
    asked = """
        SELECT c.relname, c.relacl::text, c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner)
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S') ORDER BY 1
    """
    policies = "SELECT tablename, policyname, roles::text, cmd, qual, with_check FROM pg_policies ORDER BY 1, 2"
    columns = """
        SELECT attrelid::regclass::text, attname, attacl::text FROM pg_attribute WHERE attacl IS NOT NULL ORDER BY 1, 2
    """
    before = [execute(migrated_url, query) for query in (asked, policies, columns)]
    config = alembic_config(migrated_url)
    command.downgrade(config, "0001")
    command.upgrade(config, "head")
    assert [execute(migrated_url, query) for query in (asked, policies, columns)] == before


# Started more than once


def test_migrating_twice_is_harmless(migrated_url: str, scratch: Database) -> None:
    fill(scratch, migrated_url)
    before = snapshot(migrated_url)
    migrate(migrated_url, LOGIN_PASSWORDS)
    migrate(migrated_url, LOGIN_PASSWORDS)
    assert snapshot(migrated_url) == before


def start_migrating(url: str, *logins: str) -> subprocess.Popen[str]:
    code = (
        "import sys; from cli.migrate import migrate; migrate(sys.argv[1], dict.fromkeys(sys.argv[2:], 'a-password'))"
    )
    command_line = [sys.executable, "-c", code, url, *logins]
    return subprocess.Popen(command_line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_several_nodes_may_migrate_a_new_cluster_at_once(services_dir: Path) -> None:
    """Three on one database and one on another: roles belong to the cluster that they share."""
    server = EmbeddedPostgres(services_dir / "postgres")
    url = server.start()
    try:
        execute(url, "CREATE DATABASE second")
        second = sa.make_url(url).set(database="second").render_as_string(hide_password=False)
        running = [start_migrating(url, *LOGIN_PASSWORDS) for _ in range(3)] + [start_migrating(second)]
        for process in running:
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, said
        for target in (url, second):
            assert tables(target) > set(Base.metadata.tables)
            command.check(alembic_config(target))
    finally:
        server.stop()
