"""The register of models: bundles that were published, which of them serve, and every change of that.

The web may write what was published and what is asked for, column by column; a verdict and what serves are written by
workers alone, so that no request makes a model pass or go live by itself.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE model (
      digest TEXT NOT NULL,
      id TEXT NOT NULL,
      card JSONB NOT NULL,
      labels TEXT[] NOT NULL,
      clinical BOOLEAN NOT NULL,
      synthetic BOOLEAN NOT NULL,
      bytes BIGINT NOT NULL,
      published_by UUID,
      published_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      state TEXT DEFAULT 'checking' NOT NULL,
      verdict JSONB,
      checked_at TIMESTAMP WITH TIME ZONE,
      attempts SMALLINT DEFAULT 0 NOT NULL,
      fence BIGINT DEFAULT 0 NOT NULL,
      lease_until TIMESTAMP WITH TIME ZONE,
      CONSTRAINT pk_model PRIMARY KEY (digest),
      CONSTRAINT uq_model_id UNIQUE (id),
      CONSTRAINT ck_model_state CHECK (state IN ('checking', 'ready', 'refused'))
    )
    """,
    "CREATE INDEX ix_model_checking ON model (published_at) WHERE state = 'checking'",
    """
    CREATE TABLE model_serving (
      sole BOOLEAN DEFAULT true NOT NULL,
      version BIGINT NOT NULL,
      live TEXT,
      canary TEXT,
      canary_share DOUBLE PRECISION DEFAULT 0 NOT NULL,
      changed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      CONSTRAINT pk_model_serving PRIMARY KEY (sole),
      CONSTRAINT ck_model_serving_sole CHECK (sole),
      CONSTRAINT ck_model_serving_share CHECK (canary_share BETWEEN 0 AND 1),
      CONSTRAINT fk_model_serving_live FOREIGN KEY (live) REFERENCES model (digest),
      CONSTRAINT fk_model_serving_canary FOREIGN KEY (canary) REFERENCES model (digest)
    )
    """,
    """
    CREATE TABLE model_change (
      id UUID NOT NULL,
      kind TEXT NOT NULL,
      model_id TEXT NOT NULL,
      digest TEXT,
      share DOUBLE PRECISION,
      by_tenant UUID,
      by_key UUID,
      asked_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      state TEXT DEFAULT 'waiting' NOT NULL,
      reason TEXT,
      role TEXT,
      from_digest TEXT,
      to_digest TEXT,
      version BIGINT,
      done_at TIMESTAMP WITH TIME ZONE,
      told_upto UUID,
      CONSTRAINT pk_model_change PRIMARY KEY (id),
      CONSTRAINT ck_model_change_kind CHECK (kind IN ('activate', 'canary', 'rollback')),
      CONSTRAINT ck_model_change_state CHECK (state IN ('waiting', 'applied', 'refused')),
      CONSTRAINT ck_model_change_role CHECK (role IN ('live', 'canary'))
    )
    """,
    # One at a time; a rollback may come while another change waits.
    "CREATE UNIQUE INDEX uq_model_change_waiting ON model_change (state) WHERE state = 'waiting' AND kind <> 'rollback'",
    "CREATE INDEX ix_model_change_untold ON model_change (id) WHERE told_upto IS NOT NULL",
)
APP_WRITES = {
    "model": "digest, id, card, labels, clinical, synthetic, bytes, published_by",
    "model_change": "id, kind, model_id, digest, share, by_tenant, by_key",
}


def upgrade() -> None:
    """Create the tables. They name no tenant's photos: every role that serves may read them."""
    for statement in TABLES:
        op.execute(statement)
    op.execute("GRANT SELECT ON model, model_serving, model_change TO poxvisio_app")
    for table, columns in APP_WRITES.items():
        op.execute(f"GRANT INSERT ({columns}) ON {table} TO poxvisio_app")
    op.execute("GRANT SELECT, UPDATE ON model, model_change TO poxvisio_worker")
    op.execute("GRANT SELECT, INSERT, UPDATE ON model_serving TO poxvisio_worker")


def downgrade() -> None:
    """Drop the register: the bundle that MODEL names serves again."""
    op.execute("DROP TABLE model_change, model_serving, model")
