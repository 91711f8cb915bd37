"""Shadow runs: what a model that nobody sees would have said of photos that another one answered.

One row a photo, written by workers beside the answer and never in its place. A tenant sees its own; sums over all
tenants come from a function that names no photo and no tenant.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

CURRENT = "nullif(current_setting('app.tenant', true), '')::uuid"
SHARE = "shadow_share BETWEEN 0 AND 1"
TABLE = """
    CREATE TABLE shadow_result (
      image_id UUID NOT NULL,
      tenant_id UUID NOT NULL,
      job_id UUID NOT NULL,
      digest TEXT NOT NULL,
      outcome TEXT NOT NULL,
      label TEXT NOT NULL,
      p DOUBLE PRECISION NOT NULL,
      live_digest TEXT NOT NULL,
      live_outcome TEXT NOT NULL,
      live_label TEXT NOT NULL,
      live_p DOUBLE PRECISION NOT NULL,
      moved DOUBLE PRECISION,
      seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      CONSTRAINT pk_shadow_result PRIMARY KEY (image_id),
      CONSTRAINT fk_shadow_result_tenant_id_image_id
        FOREIGN KEY(tenant_id, image_id) REFERENCES image (tenant_id, id) ON DELETE CASCADE
    )
"""
SUMS = """
    CREATE FUNCTION lookup_shadow(model text) RETURNS TABLE (
      live_label text, label text, band integer, same_outcome boolean, n bigint, largest float8, total float8)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
      SELECT s.live_label, s.label, least(9, floor(s.live_p * 10))::int, s.outcome = s.live_outcome, count(*),
        max(s.moved), sum(s.moved)
      FROM public.shadow_result s WHERE s.digest = model GROUP BY 1, 2, 3, 4
    $$
"""
CHECKS = {
    "kind": ("'activate', 'canary', 'shadow', 'rollback'", "'activate', 'canary', 'rollback'"),
    "role": ("'live', 'canary', 'shadow'", "'live', 'canary'"),
}


def upgrade() -> None:
    """Create the table under the same security as the others, and let a model be a shadow."""
    op.execute("ALTER TABLE model_serving ADD COLUMN shadow TEXT")
    op.execute("ALTER TABLE model_serving ADD COLUMN shadow_share DOUBLE PRECISION DEFAULT 0 NOT NULL")
    op.execute(f"ALTER TABLE model_serving ADD CONSTRAINT ck_model_serving_shadow_share CHECK ({SHARE})")
    op.execute(
        "ALTER TABLE model_serving ADD CONSTRAINT fk_model_serving_shadow FOREIGN KEY (shadow) REFERENCES model (digest)"
    )
    for column, (now, _) in CHECKS.items():
        _check(column, now)
    op.execute(TABLE)
    op.execute("CREATE INDEX ix_shadow_result_digest ON shadow_result (digest, image_id)")
    op.execute("ALTER TABLE shadow_result ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE shadow_result FORCE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY owner_all ON shadow_result TO poxvisio_owner USING (true) WITH CHECK (true)")
    op.execute(
        "CREATE POLICY app_tenant ON shadow_result TO poxvisio_app "
        f"USING (tenant_id = {CURRENT}) WITH CHECK (tenant_id = {CURRENT})"
    )
    op.execute("CREATE POLICY worker_all ON shadow_result TO poxvisio_worker USING (true) WITH CHECK (true)")
    op.execute("CREATE POLICY lookup_all ON shadow_result TO poxvisio_lookup USING (true)")
    op.execute("GRANT SELECT ON shadow_result TO poxvisio_app, poxvisio_lookup")
    op.execute("GRANT SELECT, INSERT ON shadow_result TO poxvisio_worker")
    op.execute(SUMS)
    op.execute("REVOKE ALL ON FUNCTION lookup_shadow(text) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION lookup_shadow(text) TO poxvisio_app")
    op.execute("ALTER FUNCTION lookup_shadow(text) OWNER TO poxvisio_lookup")


def downgrade() -> None:
    """Forget what shadows said, and the changes that made them."""
    op.execute("DROP FUNCTION lookup_shadow(text)")
    op.execute("DROP TABLE shadow_result")
    op.execute("DELETE FROM model_change WHERE kind = 'shadow' OR role = 'shadow'")
    for column, (_, before) in CHECKS.items():
        _check(column, before)
    op.execute("ALTER TABLE model_serving DROP COLUMN shadow, DROP COLUMN shadow_share")


def _check(column: str, values: str) -> None:
    op.execute(f"ALTER TABLE model_change DROP CONSTRAINT ck_model_change_{column}")
    op.execute(f"ALTER TABLE model_change ADD CONSTRAINT ck_model_change_{column} CHECK ({column} IN ({values}))")
