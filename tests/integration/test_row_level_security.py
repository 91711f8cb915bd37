"""Row-level security on its own: what the database lets each role see and do, without any filter of our code."""

from collections.abc import Iterator
from uuid import UUID

import psycopg2.errors
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from shared.database import Database, new_id
from shared.registry.heartbeats import SYSTEM
from shared.tables import Base
from tests.conftest import LOGIN_PASSWORDS, make_tenant
from tests.integration.ledger.factories import change, finish, rows, submit_job, take

# Tenant tables, the column that names the tenant, and what the web may do there besides reading.
TENANT_TABLES = {
    "api_key": {"INSERT", "UPDATE"},
    "attempt": set(),
    "delivery": {"INSERT", "UPDATE"},
    "endpoint": {"INSERT", "UPDATE", "DELETE"},
    "event": {"INSERT"},
    "event_counter": {"INSERT", "UPDATE"},
    "flow": {"INSERT", "UPDATE"},
    "idempotency_key": {"INSERT", "UPDATE", "DELETE"},
    "image": {"INSERT", "DELETE"},
    "intake": {"INSERT", "UPDATE", "DELETE"},
    "intake_url": {"INSERT", "DELETE"},
    "job": {"INSERT", "UPDATE", "DELETE"},
    "result": {"INSERT", "DELETE"},
    "result_history": {"INSERT"},
    "shadow_result": set(),
    "tenant": set(),
    "unit": {"INSERT", "UPDATE", "DELETE"},
    "untold": {"INSERT"},
}
# Of no tenant: what serves is the same for all.
REGISTER = ("heartbeat", "model", "model_change", "model_serving")
NEVER_OF_WORKERS = {"tenant", "api_key"}
LOOKUP_TABLES = {"api_key", "tenant", "unit", "flow", "shadow_result"}
ROLES = ("poxvisio_owner", "poxvisio_app", "poxvisio_worker", "poxvisio_reader", "poxvisio_lookup")
LOGINS = {
    "poxvisio_web_login": "poxvisio_app",
    "poxvisio_worker_login": "poxvisio_worker",
    "poxvisio_reader_login": "poxvisio_reader",
}
OWN = "(tenant_id = (NULLIF(current_setting('app.tenant'::text, true), ''::text))::uuid)"
# A row for each table that no job fills.
FILLING = (
    "INSERT INTO api_key (id, tenant_id, name, secret_hash, scopes) VALUES (:id, :tenant, 'k', 'x', '{admin}')",
    "INSERT INTO endpoint (id, tenant_id, url, secret) VALUES (:endpoint, :tenant, 'https://a.example', 's')",
    "INSERT INTO delivery (id, tenant_id, endpoint_id, event_seq) VALUES (:delivery, :tenant, :endpoint, 1)",
    "INSERT INTO attempt (id, tenant_id, delivery_id, number, duration_ms) VALUES (:id, :tenant, :delivery, 1, 5)",
    """
    INSERT INTO idempotency_key (tenant_id, key, fence, lease_until, expires_at)
    VALUES (:tenant, 'k', 1, now(), now())
    """,
    """
    INSERT INTO intake (job_id, tenant_id, kind, weight)
    SELECT id, tenant_id, 'urls', 1 FROM job WHERE tenant_id = :tenant LIMIT 1
    """,
    """
    INSERT INTO intake_url (job_id, ordinal, tenant_id, url)
    SELECT job_id, 0, tenant_id, 'https://photos.example/1' FROM intake WHERE tenant_id = :tenant
    """,
    """
    INSERT INTO shadow_result (image_id, tenant_id, job_id, digest, outcome, label, p, live_digest, live_outcome,
                               live_label, live_p)
    SELECT id, tenant_id, job_id, 'd', 'classified', 'a', 1, 'e', 'classified', 'a', 1 FROM image
    WHERE tenant_id = :tenant LIMIT 1
    """,
    """
    INSERT INTO untold (job_id, tenant_id, kind, body)
    SELECT id, tenant_id, 'job.cancelled', '{}' FROM job WHERE tenant_id = :tenant LIMIT 1
    """,
    """
    INSERT INTO result_history (image_id, round, tenant_id, job_id, ordinal, fence, outcome, reasons, attempts,
                                finished_at)
    SELECT image_id, 0, tenant_id, job_id, ordinal, fence, 'failed', '{}', 3, now() FROM result
    WHERE tenant_id = :tenant LIMIT 1
    """,
)


def column(table: str) -> str:
    return "id" if table == "tenant" else "tenant_id"


@pytest.fixture
def pair(owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID) -> tuple[UUID, UUID]:
    """Return two tenants that have rows in every table."""
    other = make_tenant(owner_db, "other clinic")
    for mine in (tenant, other):
        submit_job(app_db, mine, 3)
    finish(worker_db, take(worker_db))
    for mine in (tenant, other):
        submit_job(app_db, mine, 1)
        values = {"id": new_id(), "tenant": mine, "endpoint": new_id(), "delivery": new_id()}
        for statement in FILLING:
            change(owner_db, statement, **values)
    return tenant, other


def counts(database: Database, tenant: UUID | None, where: UUID | None = None) -> dict[str, int]:
    """Return how many rows of each tenant table a transaction sees, of all tenants or of one."""
    found = {}
    with database.transaction(tenant) as session:
        for table in TENANT_TABLES:
            query = f"SELECT count(*) FROM {table}" + (f" WHERE {column(table)} = :tenant" if where else "")
            found[table] = int(session.execute(sa.text(query), {"tenant": where}).scalar_one())
    return found


def refused(error: DBAPIError, because: str) -> bool:
    return isinstance(error.orig, psycopg2.errors.InsufficientPrivilege) and because in str(error.orig)


# What the web sees and does


def test_every_class_of_a_tenant_is_in_the_list() -> None:
    named = {table.name for table in Base.metadata.sorted_tables if "tenant_id" in table.columns}
    assert named | {"tenant"} == set(TENANT_TABLES)


def test_a_tenant_sees_its_own_rows_and_no_others(
    owner_db: Database, app_db: Database, pair: tuple[UUID, UUID]
) -> None:
    for mine, other in (pair, pair[::-1]):
        own = counts(owner_db, None, mine)
        assert min(own.values()) > 0, "a table without rows proves nothing"
        assert counts(app_db, mine) == own
        assert set(counts(app_db, mine, other).values()) == {0}


def test_without_a_tenant_there_is_nothing_to_see(app_db: Database, pair: tuple[UUID, UUID]) -> None:
    assert set(counts(app_db, None).values()) == {0}
    assert set(counts(app_db, new_id()).values()) == {0}


def test_a_pooled_connection_forgets_the_tenant(web_url: str, pair: tuple[UUID, UUID]) -> None:
    database = Database(web_url, role="poxvisio_app", pool_size=1)
    who = sa.text("SELECT pg_backend_pid()")
    try:
        with database.transaction(pair[0]) as session:
            backend = session.scalar(who)
            assert session.scalar(sa.text("SELECT count(*) FROM job"))
        with database.transaction() as session:
            assert session.scalar(who) == backend
        assert set(counts(database, None).values()) == {0}
        with database.transaction(pair[0]) as session:
            session.rollback()
        assert set(counts(database, None).values()) == {0}
        assert counts(database, pair[1])["job"] == 2
    finally:
        database.close()


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_a_tenant_cannot_write_rows_of_another(
    owner_db: Database, app_db: Database, pair: tuple[UUID, UUID], table: str
) -> None:
    mine, other = pair
    key = column(table)
    copy = f"""
        INSERT INTO {table}
        SELECT (jsonb_populate_record(NULL::{table}, to_jsonb(x) || jsonb_build_object('{key}', :other))).*
        FROM {table} x LIMIT 1
    """
    move = f"UPDATE {table} SET {key} = CAST(:other AS uuid)"
    before = counts(owner_db, None)
    for right, statement in (("INSERT", copy), ("UPDATE", move)):
        reason = "row-level security" if right in TENANT_TABLES[table] else "permission denied"
        with pytest.raises(ProgrammingError) as raised, app_db.transaction(mine) as session:
            session.execute(sa.text(statement), {"other": str(other)})
        assert refused(raised.value, reason), (right, raised.value)
    assert counts(owner_db, None) == before


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_a_tenant_cannot_change_or_delete_rows_of_another(
    owner_db: Database, app_db: Database, pair: tuple[UUID, UUID], table: str
) -> None:
    mine, other = pair
    key = column(table)
    for right, statement in (
        ("UPDATE", f"UPDATE {table} SET {key} = {key} WHERE {key} = :other RETURNING 1"),
        ("DELETE", f"DELETE FROM {table} WHERE {key} = :other RETURNING 1"),
    ):
        if right in TENANT_TABLES[table]:
            with app_db.transaction(mine) as session:
                assert session.execute(sa.text(statement), {"other": other}).all() == []
        else:
            with pytest.raises(ProgrammingError) as raised, app_db.transaction(mine) as session:
                session.execute(sa.text(statement), {"other": other})
            assert refused(raised.value, "permission denied"), right
    assert counts(owner_db, None, other)[table] > 0


FOREIGN_LINKS = {
    "an image of another's job": (
        "INSERT INTO image (id, tenant_id, job_id, ordinal, storage_key, sha256, bytes) "
        "VALUES (:id, :mine, :job, 99, 'k', 'x', 1)"
    ),
    "a unit of another's job": (
        "INSERT INTO unit (id, tenant_id, job_id, lane, first, n, state, vft) "
        "VALUES (:id, :mine, :job, 'bulk', 0, 1, 'ready', 0)"
    ),
    "a result of another's image": (
        "INSERT INTO result (image_id, tenant_id, job_id, ordinal, fence, outcome, reasons, attempts, has_copy) "
        "VALUES (:image, :mine, :own_job, 0, 1, 'failed', '{}', 1, false)"
    ),
    "a delivery to another's endpoint": (
        "INSERT INTO delivery (id, tenant_id, endpoint_id, event_seq) VALUES (:id, :mine, :endpoint, 2)"
    ),
}


@pytest.mark.parametrize("link", FOREIGN_LINKS)
def test_a_row_cannot_name_what_belongs_to_another(
    owner_db: Database, app_db: Database, pair: tuple[UUID, UUID], link: str
) -> None:
    mine, other = pair
    change(owner_db, "DELETE FROM result WHERE tenant_id = :other", other=other)  # its images are free to be named
    ask = {name: f"SELECT id FROM {name} WHERE tenant_id = :tenant LIMIT 1" for name in ("job", "image", "endpoint")}
    values = {name: rows(owner_db, query, tenant=other)[0].id for name, query in ask.items()}
    values |= {"id": new_id(), "mine": mine, "own_job": rows(owner_db, ask["job"], tenant=mine)[0].id}
    for database, tenant in ((app_db, mine), (owner_db, None)):
        with pytest.raises(IntegrityError, match="foreign key"), database.transaction(tenant) as session:
            session.execute(sa.text(FOREIGN_LINKS[link]), values)


def test_every_foreign_key_inside_a_tenant_carries_the_tenant(owner_db: Database) -> None:
    found = rows(
        owner_db,
        """
        SELECT c.conname, c.conrelid::regclass::text AS child, c.confrelid::regclass::text AS parent,
          ARRAY(SELECT attname::text FROM pg_attribute
                WHERE attrelid = c.conrelid AND attnum = ANY (c.conkey)) AS columns
        FROM pg_constraint c JOIN pg_class k ON k.oid = c.conrelid
        WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace AND NOT k.relispartition
          AND k.relname <> ALL (:register)
        """,
        register=list(REGISTER),
    )
    assert len(found) > 10
    for key in found:
        assert "tenant_id" in key.columns, key.conname
        assert len(key.columns) == (1 if key.parent == "tenant" else 2), key.conname


# What the others see


def test_workers_see_every_tenant_on_the_ledger_and_on_deliveries_and_nowhere_else(
    owner_db: Database, worker_db: Database, pair: tuple[UUID, UUID]
) -> None:
    for table in TENANT_TABLES:
        if table in NEVER_OF_WORKERS:
            with pytest.raises(ProgrammingError) as raised, worker_db.transaction() as session:
                session.execute(sa.text(f"SELECT 1 FROM {table}"))
            assert refused(raised.value, "permission denied")
        else:
            everything = rows(owner_db, f"SELECT count(*) FROM {table}")[0][0]
            assert everything > 1
            assert rows(worker_db, f"SELECT count(*) FROM {table}")[0][0] == everything


def rights(owner_db: Database, role: str) -> dict[str, set[str]]:
    """Return what a role may do with each table and view of ours; partitions too, which have no policies."""
    found = rows(
        owner_db,
        """
        SELECT c.relname, p.name FROM pg_class c,
          unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS p(name)
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND has_table_privilege(:role, c.oid, p.name)
        """,
        role=role,
    )
    allowed: dict[str, set[str]] = {}
    for table, right in found:
        allowed.setdefault(table, set()).add(right)
    return allowed


def test_the_web_may_do_what_the_list_says_and_no_more(owner_db: Database) -> None:
    read_only: dict[str, set[str]] = {
        "alembic_version": set(),
        "worker_node": set(),
        "backlog_count": set(),
        "answer_scheme": set(),
        **{table: set() for table in REGISTER},
    }
    expected = {table: {"SELECT"} | more for table, more in (TENANT_TABLES | read_only).items()}
    assert rights(owner_db, "poxvisio_app") == expected


def test_workers_may_change_neither_photos_nor_answers(owner_db: Database) -> None:
    allowed = rights(owner_db, "poxvisio_worker")
    assert set(allowed) == set(TENANT_TABLES) - NEVER_OF_WORKERS | {
        "alembic_version",
        "worker_node",
        "backlog_count",
        "answer_scheme",
        *REGISTER,
    }
    assert allowed["image"] == {"SELECT", "INSERT"}
    assert allowed["result"] == {"SELECT", "INSERT"}
    assert allowed["shadow_result"] == {"SELECT", "INSERT"}
    assert allowed["result_history"] == {"SELECT"}
    assert allowed["job"] == {"SELECT", "INSERT", "UPDATE"}  # for the system's own tenant alone
    assert allowed["event"] == {"SELECT", "INSERT", "DELETE"}
    assert allowed["endpoint"] == {"SELECT", "UPDATE", "DELETE"}
    assert allowed["attempt"] == {"SELECT", "INSERT"}
    assert allowed["model"] == allowed["model_change"] == {"SELECT", "UPDATE"}


def test_the_web_may_enter_models_and_wishes_and_neither_verdicts_nor_what_serves(owner_db: Database) -> None:
    found = rows(
        owner_db,
        """
        SELECT table_name, array_agg(column_name::text ORDER BY column_name) AS columns
        FROM information_schema.column_privileges
        WHERE grantee = 'poxvisio_app' AND privilege_type IN ('INSERT', 'UPDATE') AND table_name = ANY (:tables)
        GROUP BY table_name ORDER BY table_name
        """,
        tables=list(REGISTER),
    )
    assert found == [
        ("model", ["bytes", "card", "clinical", "digest", "id", "labels", "published_by", "synthetic"]),
        ("model_change", ["by_key", "by_tenant", "digest", "id", "kind", "model_id", "share"]),
    ]


def test_the_reader_reads_aggregates_only(owner_db: Database, reader_db: Database, pair: tuple[UUID, UUID]) -> None:
    assert rights(owner_db, "poxvisio_reader") == {"backlog": {"SELECT"}, "gauge": {"SELECT"}}
    found = rows(reader_db, "SELECT lane, state, units, images FROM backlog")
    assert found == [("interactive", "ready", 2, 2)]  # of two tenants
    columns = rows(owner_db, "SELECT attname FROM pg_attribute WHERE attrelid = 'backlog'::regclass AND attnum > 0")
    assert {row[0] for row in columns} == {"lane", "state", "units", "images", "oldest"}
    for table in TENANT_TABLES:
        with pytest.raises(ProgrammingError, match="permission denied"):
            rows(reader_db, f"SELECT 1 FROM {table}")


def test_no_views_but_those_of_figures_look_past_the_policies(owner_db: Database) -> None:
    views = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm')"
    assert sorted(row.relname for row in rows(owner_db, views)) == ["backlog", "gauge"]


@pytest.fixture
def reader_db(clean: None, reader_url: str) -> Iterator[Database]:
    """Return the database as metrics see it."""
    database = Database(reader_url, role="poxvisio_reader", pool_size=1)
    yield database
    database.close()


@pytest.fixture
def reader_url(web_url: str) -> str:
    """Return the URL with which metrics log in."""
    name = "poxvisio_reader_login"
    return sa.make_url(web_url).set(username=name, password=LOGIN_PASSWORDS[name]).render_as_string(hide_password=False)


# Policies, roles and functions as the catalogue has them


def test_security_is_forced_on_every_table_with_a_tenant(owner_db: Database) -> None:
    found = rows(
        owner_db,
        """
        SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner) AS owner
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND (a.attname = 'tenant_id' OR c.relname = 'tenant' AND a.attname = 'id')
        """,
    )
    assert {row.relname for row in found} == set(TENANT_TABLES)
    assert {tuple(row)[1:] for row in found} == {(True, True, "poxvisio_owner")}


def test_partitions_are_reached_through_their_table_alone(owner_db: Database) -> None:
    partitions = {
        row[0] for row in rows(owner_db, "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
    }
    assert len(partitions) >= 13
    for role in ROLES[1:]:
        assert not partitions & set(rights(owner_db, role)), role


def test_the_policies_are_these(owner_db: Database) -> None:
    expected: dict[tuple[str, str], tuple[list[str], str, str, str | None, str | None]] = {}
    for table in TENANT_TABLES:
        own = OWN.replace("tenant_id", "id", 1) if table == "tenant" else OWN
        expected[table, "owner_all"] = (["poxvisio_owner"], "ALL", "PERMISSIVE", "true", "true")
        expected[table, "app_tenant"] = (["poxvisio_app"], "ALL", "PERMISSIVE", own, own)
        if table not in NEVER_OF_WORKERS:
            expected[table, "worker_all"] = (["poxvisio_worker"], "ALL", "PERMISSIVE", "true", "true")
        if table in LOOKUP_TABLES:
            expected[table, "lookup_all"] = (["poxvisio_lookup"], "ALL", "PERMISSIVE", "true", None)
    system = f"(tenant_id = '{SYSTEM}'::uuid)"
    expected["job", "worker_system"] = (["poxvisio_worker"], "INSERT", "RESTRICTIVE", None, system)
    asked = "SELECT tablename, policyname, roles::text[], cmd, permissive, qual, with_check FROM pg_policies"
    assert {(row[0], row[1]): tuple(row)[2:] for row in rows(owner_db, asked)} == expected


def test_no_role_passes_over_row_level_security(owner_db: Database) -> None:
    found = rows(
        owner_db,
        "SELECT rolname, rolbypassrls, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolinherit "
        "FROM pg_roles WHERE starts_with(rolname, 'poxvisio_')",
    )
    assert {row.rolname for row in found} == {*ROLES, *LOGINS}
    for row in found:
        powers = (row.rolbypassrls, row.rolsuper, row.rolcreaterole, row.rolcreatedb)
        assert not any(powers), row.rolname
        assert row.rolcanlogin == (row.rolname in LOGINS)
        if row.rolname in LOGINS:
            assert not row.rolinherit, row.rolname


def test_each_login_may_take_on_its_own_role_and_no_other(owner_db: Database) -> None:
    found = rows(
        owner_db,
        "SELECT member::regrole::text AS member, roleid::regrole::text AS role FROM pg_auth_members "
        "WHERE starts_with(roleid::regrole::text, 'poxvisio_') AND member::regrole::text <> 'postgres'",
    )
    assert {(row.member, row.role) for row in found} == {*LOGINS.items(), ("poxvisio_owner", "poxvisio_lookup")}


def test_the_web_cannot_become_anybody_else(app_db: Database) -> None:
    for role in (*ROLES, "postgres"):
        if role != "poxvisio_app":
            with (
                pytest.raises(ProgrammingError, match="permission denied to set role"),
                app_db.transaction() as session,
            ):
                session.execute(sa.text(f"SET LOCAL ROLE {role}"))


def test_nobody_but_the_owner_and_its_functions_may_create_in_the_schema(owner_db: Database) -> None:
    asked = "SELECT has_schema_privilege(:role, 'public', 'CREATE')"
    allowed = [role for role in (*ROLES, *LOGINS) if rows(owner_db, asked, role=role)[0][0]]
    assert allowed == ["poxvisio_owner", "poxvisio_lookup"]


def test_the_functions_that_look_across_tenants_are_these(owner_db: Database) -> None:
    """Each runs with another's rights: a new one is a decision to be made here."""
    found = rows(
        owner_db,
        """
        SELECT p.oid::regprocedure::text AS name, pg_get_userbyid(p.proowner) AS owner, p.proconfig AS config,
          ARRAY(SELECT r FROM unnest(CAST(:roles AS text[])) r
                WHERE has_function_privilege(r, p.oid, 'EXECUTE')) AS callers
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        """,
        roles=list(ROLES[1:4]),
    )
    assert {row.name: (row.owner, row.callers) for row in found} == {
        "lookup_api_key(uuid)": ("poxvisio_lookup", ["poxvisio_app"]),
        "touch_api_key(uuid)": ("poxvisio_lookup", ["poxvisio_app"]),
        "lookup_virtual_time()": ("poxvisio_lookup", ["poxvisio_app", "poxvisio_worker"]),
        "make_attempt_partitions()": ("poxvisio_owner", ["poxvisio_worker"]),
        "make_system_tenant()": ("poxvisio_owner", ["poxvisio_worker"]),
        "forget_system_job(uuid)": ("poxvisio_owner", ["poxvisio_worker"]),
        "lookup_model_tenants()": ("poxvisio_lookup", ["poxvisio_worker"]),
        "lookup_shadow(text)": ("poxvisio_lookup", ["poxvisio_app"]),
    }
    for row in found:
        # Unless it is named last, the caller's temporary schema comes first, with types of the caller's making.
        assert row.config == ["search_path=pg_catalog, public, pg_temp"], row.name


def test_the_lookup_role_sees_just_what_its_functions_need(owner_db: Database) -> None:
    assert rights(owner_db, "poxvisio_lookup") == {table: {"SELECT"} for table in LOOKUP_TABLES}
    found = rows(
        owner_db,
        "SELECT table_name, column_name FROM information_schema.column_privileges "
        "WHERE grantee = 'poxvisio_lookup' AND privilege_type = 'UPDATE'",
    )
    assert found == [("api_key", "last_used_at")]
