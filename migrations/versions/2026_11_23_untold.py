"""Jobs of many photos that ended at once: what is still to be told of them, for the sweep to tell piece by piece."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

CURRENT = "nullif(current_setting('app.tenant', true), '')::uuid"


def upgrade() -> None:
    """Make the table: whoever ends a job writes a row, and workers move it on."""
    op.execute("""
        CREATE TABLE untold (
          job_id UUID NOT NULL,
          tenant_id UUID NOT NULL,
          kind TEXT NOT NULL,
          body JSONB NOT NULL,
          written_in BIGINT DEFAULT pg_current_xact_id()::text::bigint NOT NULL,
          upto INTEGER DEFAULT -1 NOT NULL,
          CONSTRAINT pk_untold PRIMARY KEY (job_id),
          CONSTRAINT fk_untold_tenant_id_job_id FOREIGN KEY(tenant_id, job_id) REFERENCES job (tenant_id, id) ON DELETE CASCADE
        )
    """)
    op.execute("ALTER TABLE untold ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE untold FORCE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY owner_all ON untold TO poxvisio_owner USING (true) WITH CHECK (true)")
    op.execute(
        "CREATE POLICY app_tenant ON untold TO poxvisio_app "
        f"USING (tenant_id = {CURRENT}) WITH CHECK (tenant_id = {CURRENT})"
    )
    op.execute("CREATE POLICY worker_all ON untold TO poxvisio_worker USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT, INSERT ON untold TO poxvisio_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON untold TO poxvisio_worker")


def downgrade() -> None:
    """Drop it again, once there is no photo left to tell of: nobody else knows which are missing."""
    op.execute("""
        DO $$ BEGIN
          IF EXISTS (SELECT FROM untold u JOIN result r ON r.job_id = u.job_id AND r.written_in = u.written_in
                     WHERE r.ordinal > u.upto) THEN
            RAISE EXCEPTION 'photos of ended jobs are still to be told of: let the sweep finish first';
          END IF;
        END $$
    """)
    op.execute("DROP TABLE untold")
