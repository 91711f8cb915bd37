"""Row-level security, forced on every tenant table, and what each role may do.

- ``poxvisio_owner`` migrates: its policies admit all, so that data migrations and foreign-key checks see rows.
- ``poxvisio_app`` (web) sees the tenant set for the transaction; with none set, zero rows.
- ``poxvisio_worker`` sees every tenant on the tables of the ledger and of deliveries and on no other.
- ``poxvisio_lookup`` owns the few functions that look across tenants from the web, and sees just what they need.
- ``poxvisio_reader`` gets aggregates only, through views.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Tenant tables and the column that names the tenant.
TENANT_TABLES = {
    "tenant": "id",
    "api_key": "tenant_id",
    "job": "tenant_id",
    "image": "tenant_id",
    "unit": "tenant_id",
    "flow": "tenant_id",
    "result": "tenant_id",
    "event_counter": "tenant_id",
    "event": "tenant_id",
    "endpoint": "tenant_id",
    "delivery": "tenant_id",
    "attempt": "tenant_id",
    "idempotency_key": "tenant_id",
}
CURRENT = "nullif(current_setting('app.tenant', true), '')::uuid"

APP = {
    "tenant": "SELECT",
    "api_key": "SELECT, INSERT, UPDATE",
    "job": "SELECT, INSERT, UPDATE, DELETE",
    "image": "SELECT, INSERT, DELETE",
    "unit": "SELECT, INSERT, UPDATE",
    "flow": "SELECT, INSERT, UPDATE",
    "result": "SELECT, INSERT",
    "event_counter": "SELECT, INSERT, UPDATE",
    "event": "SELECT, INSERT",
    "endpoint": "SELECT, INSERT, UPDATE, DELETE",
    "delivery": "SELECT, INSERT, UPDATE",
    "attempt": "SELECT",
    "idempotency_key": "SELECT, INSERT, UPDATE, DELETE",
}
WORKER = {
    "job": "SELECT, UPDATE",
    "image": "SELECT",
    "unit": "SELECT, INSERT, UPDATE, DELETE",
    "flow": "SELECT, UPDATE",
    "result": "SELECT, INSERT",
    "event_counter": "SELECT, INSERT, UPDATE",
    "event": "SELECT, INSERT",
    "endpoint": "SELECT, UPDATE",
    "delivery": "SELECT, INSERT, UPDATE",
    "attempt": "SELECT, INSERT",
    "idempotency_key": "SELECT, DELETE",
}
LOOKUP = {"api_key": "SELECT, UPDATE (last_used_at)", "tenant": "SELECT", "unit": "SELECT", "flow": "SELECT"}


def upgrade() -> None:
    """Force row-level security everywhere and grant the least each role needs."""
    for table, column in TENANT_TABLES.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY owner_all ON {table} TO poxvisio_owner USING (true) WITH CHECK (true)")
        op.execute(
            f"CREATE POLICY app_tenant ON {table} TO poxvisio_app USING ({column} = {CURRENT}) WITH CHECK ({column} = {CURRENT})"
        )
        op.execute(f"GRANT {APP[table]} ON {table} TO poxvisio_app")
    for table, rights in WORKER.items():
        op.execute(f"CREATE POLICY worker_all ON {table} TO poxvisio_worker USING (true) WITH CHECK (true)")
        op.execute(f"GRANT {rights} ON {table} TO poxvisio_worker")
    for table, rights in LOOKUP.items():
        op.execute(f"CREATE POLICY lookup_all ON {table} TO poxvisio_lookup USING (true)")
        op.execute(f"GRANT {rights} ON {table} TO poxvisio_lookup")
    op.execute("GRANT SELECT ON worker_node TO poxvisio_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON worker_node TO poxvisio_worker")
    op.execute("GRANT USAGE ON SEQUENCE fence_seq TO poxvisio_app, poxvisio_worker")
    op.execute("GRANT SELECT ON alembic_version TO poxvisio_app, poxvisio_worker")


def downgrade() -> None:
    """Take the rights and policies away again."""
    op.execute("REVOKE ALL ON alembic_version, worker_node FROM poxvisio_app, poxvisio_worker")
    op.execute("REVOKE ALL ON SEQUENCE fence_seq FROM poxvisio_app, poxvisio_worker")
    roles = "poxvisio_app, poxvisio_worker, poxvisio_lookup"
    for table in TENANT_TABLES:
        op.execute(f"REVOKE ALL ON {table} FROM {roles}")
        op.execute(f"DROP POLICY owner_all ON {table}")
        op.execute(f"DROP POLICY app_tenant ON {table}")
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    op.execute("REVOKE ALL (last_used_at) ON api_key FROM poxvisio_lookup")
    for table in WORKER:
        op.execute(f"DROP POLICY worker_all ON {table}")
    for table in LOOKUP:
        op.execute(f"DROP POLICY lookup_all ON {table}")
