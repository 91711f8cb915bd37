"""What a retry replaced: the failed results of earlier rounds, under the same security as results."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE result_history (
  image_id UUID NOT NULL,
  round INTEGER NOT NULL,
  tenant_id UUID NOT NULL,
  job_id UUID NOT NULL,
  ordinal INTEGER NOT NULL,
  fence BIGINT NOT NULL,
  outcome TEXT NOT NULL,
  reasons TEXT[] NOT NULL,
  attempts SMALLINT NOT NULL,
  timings JSONB,
  finished_at TIMESTAMP WITH TIME ZONE NOT NULL,
  replaced_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  CONSTRAINT pk_result_history PRIMARY KEY (image_id, round),
  CONSTRAINT fk_result_history_tenant_id_job_id
    FOREIGN KEY(tenant_id, job_id) REFERENCES job (tenant_id, id) ON DELETE CASCADE,
  CONSTRAINT fk_result_history_tenant_id_image_id
    FOREIGN KEY(tenant_id, image_id) REFERENCES image (tenant_id, id) ON DELETE CASCADE
)
"""
CURRENT = "nullif(current_setting('app.tenant', true), '')::uuid"


def upgrade() -> None:
    """Create the table; the web writes it, workers read it, nobody changes it."""
    op.execute(TABLE)
    op.execute("CREATE INDEX ix_result_history_job ON result_history (job_id)")
    op.execute("ALTER TABLE result_history ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE result_history FORCE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY owner_all ON result_history TO poxvisio_owner USING (true) WITH CHECK (true)")
    op.execute(
        f"CREATE POLICY app_tenant ON result_history TO poxvisio_app "
        f"USING (tenant_id = {CURRENT}) WITH CHECK (tenant_id = {CURRENT})"
    )
    op.execute("CREATE POLICY worker_all ON result_history TO poxvisio_worker USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT, INSERT ON result_history TO poxvisio_app")
    op.execute("GRANT SELECT ON result_history TO poxvisio_worker")


def downgrade() -> None:
    """Drop it: the version before knows one round."""
    op.execute("DROP TABLE result_history")
