"""What a job is still taking in: an archive to expand, or a list of addresses to fetch.

The units of such work are rows of `unit` with another kind, so the indexes that workers claim photos by leave them out.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = {
    "intake": """
        CREATE TABLE intake (
          job_id UUID NOT NULL,
          tenant_id UUID NOT NULL,
          kind TEXT NOT NULL,
          name TEXT,
          storage_key TEXT,
          sha256 BYTEA,
          bytes BIGINT,
          weight DOUBLE PRECISION NOT NULL,
          ended_at TIMESTAMP WITH TIME ZONE,
          source_deleted_at TIMESTAMP WITH TIME ZONE,
          CONSTRAINT pk_intake PRIMARY KEY (job_id),
          CONSTRAINT ck_intake_kind CHECK (kind IN ('archive', 'urls')),
          CONSTRAINT ck_intake_source CHECK (kind <> 'archive' OR num_nonnulls(storage_key, sha256, bytes) = 3),
          CONSTRAINT fk_intake_tenant_id_job_id
            FOREIGN KEY(tenant_id, job_id) REFERENCES job (tenant_id, id) ON DELETE CASCADE
        )
    """,
    "intake_url": """
        CREATE TABLE intake_url (
          job_id UUID NOT NULL,
          ordinal INTEGER NOT NULL,
          tenant_id UUID NOT NULL,
          url TEXT NOT NULL,
          client_name TEXT,
          custom_id TEXT,
          attempt SMALLINT DEFAULT 0 NOT NULL,
          available_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
          CONSTRAINT pk_intake_url PRIMARY KEY (job_id, ordinal),
          CONSTRAINT fk_intake_url_tenant_id_job_id
            FOREIGN KEY(tenant_id, job_id) REFERENCES job (tenant_id, id) ON DELETE CASCADE
        )
    """,
}
APP = {"intake": "SELECT, INSERT, UPDATE, DELETE", "intake_url": "SELECT, INSERT, DELETE"}
WORKER = {"intake": "SELECT, UPDATE", "intake_url": "SELECT, UPDATE, DELETE"}
CURRENT = "nullif(current_setting('app.tenant', true), '')::uuid"
# Index and its condition: with the kind, as it is from now on, and without.
CLAIMED_BY = {
    "ix_unit_ready": "state = 'ready'",
    "ix_unit_people": "state = 'ready' AND lane = 'interactive' AND n <= 4",
}
VIRTUAL_TIME = """
    CREATE OR REPLACE FUNCTION lookup_virtual_time() RETURNS double precision
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
      SELECT coalesce(
        (SELECT vft FROM public.unit WHERE state = 'ready' {kind} ORDER BY vft, id LIMIT 1),
        (SELECT max(last_vft) FROM public.flow), 0)
    $$
"""


def upgrade() -> None:
    """Create the tables under the same security as the others, and let workers write what they take in."""
    for table, statement in TABLES.items():
        op.execute(statement)
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY owner_all ON {table} TO poxvisio_owner USING (true) WITH CHECK (true)")
        op.execute(
            f"CREATE POLICY app_tenant ON {table} TO poxvisio_app "
            f"USING (tenant_id = {CURRENT}) WITH CHECK (tenant_id = {CURRENT})"
        )
        op.execute(f"CREATE POLICY worker_all ON {table} TO poxvisio_worker USING (true) WITH CHECK (true)")
        op.execute(f"GRANT {APP[table]} ON {table} TO poxvisio_app")
        op.execute(f"GRANT {WORKER[table]} ON {table} TO poxvisio_worker")
    op.execute("CREATE INDEX ix_intake_ended ON intake (ended_at) WHERE source_deleted_at IS NULL")
    for index, condition in CLAIMED_BY.items():
        op.execute(f"DROP INDEX {index}")
        op.execute(f"CREATE INDEX {index} ON unit (vft, id) WHERE {condition} AND kind = 'images'")
    op.execute("CREATE INDEX ix_unit_intake ON unit (vft, id) WHERE state = 'ready' AND kind = 'intake'")
    op.execute("GRANT INSERT ON image, flow TO poxvisio_worker")
    op.execute(VIRTUAL_TIME.format(kind="AND kind = 'images'"))
    op.execute("GRANT EXECUTE ON FUNCTION lookup_virtual_time() TO poxvisio_worker")


def downgrade() -> None:
    """Drop it all: the version before knows no such jobs. First they must have ended."""
    op.execute("""
        DO $$ BEGIN
          IF EXISTS (SELECT FROM intake WHERE ended_at IS NULL) THEN
            RAISE EXCEPTION 'jobs are still being received: let them finish, or cancel them, first';
          END IF;
        END $$
    """)
    op.execute("REVOKE EXECUTE ON FUNCTION lookup_virtual_time() FROM poxvisio_worker")
    op.execute(VIRTUAL_TIME.format(kind=""))
    op.execute("REVOKE INSERT ON image, flow FROM poxvisio_worker")
    op.execute("DELETE FROM unit WHERE kind = 'intake'")
    op.execute("DROP INDEX ix_unit_intake")
    for index, condition in CLAIMED_BY.items():
        op.execute(f"DROP INDEX {index}")
        op.execute(f"CREATE INDEX {index} ON unit (vft, id) WHERE {condition}")
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
