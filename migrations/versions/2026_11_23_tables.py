"""The tables of the ledger, of events and of deliveries."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "tenant",
    "api_key",
    "job",
    "image",
    "unit",
    "flow",
    "result",
    "event_counter",
    "event",
    "endpoint",
    "delivery",
    "attempt",
    "idempotency_key",
    "worker_node",
)

STATEMENTS = (
    "CREATE SEQUENCE fence_seq",
    """
    CREATE TABLE tenant (
      id UUID NOT NULL,
      name TEXT NOT NULL,
      keep_originals BOOLEAN DEFAULT false NOT NULL,
      weight DOUBLE PRECISION DEFAULT 1 NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      CONSTRAINT pk_tenant PRIMARY KEY (id),
      CONSTRAINT uq_tenant_name UNIQUE (name)
    )
    """,
    """
    CREATE TABLE api_key (
      id UUID NOT NULL,
      tenant_id UUID NOT NULL,
      name TEXT NOT NULL,
      secret_hash BYTEA NOT NULL,
      scopes TEXT[] NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      expires_at TIMESTAMP WITH TIME ZONE,
      revoked_at TIMESTAMP WITH TIME ZONE,
      last_used_at TIMESTAMP WITH TIME ZONE,
      CONSTRAINT pk_api_key PRIMARY KEY (id),
      CONSTRAINT fk_api_key_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenant (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_api_key_tenant_id ON api_key (tenant_id)",
    """
    CREATE TABLE job (
      id UUID NOT NULL,
      tenant_id UUID NOT NULL,
      key_id UUID,
      state TEXT NOT NULL,
      lane TEXT NOT NULL,
      round INTEGER DEFAULT 0 NOT NULL,
      total INTEGER NOT NULL,
      remaining INTEGER NOT NULL,
      classified INTEGER DEFAULT 0 NOT NULL,
      abstained INTEGER DEFAULT 0 NOT NULL,
      rejected INTEGER DEFAULT 0 NOT NULL,
      failed INTEGER DEFAULT 0 NOT NULL,
      cancelled INTEGER DEFAULT 0 NOT NULL,
      expired INTEGER DEFAULT 0 NOT NULL,
      model TEXT,
      deadline TIMESTAMP WITH TIME ZONE,
      max_failure_rate DOUBLE PRECISION,
      keep_originals BOOLEAN DEFAULT false NOT NULL,
      details JSONB DEFAULT '{}' NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      started_at TIMESTAMP WITH TIME ZONE,
      closed_at TIMESTAMP WITH TIME ZONE,
      originals_deleted_at TIMESTAMP WITH TIME ZONE,
      CONSTRAINT pk_job PRIMARY KEY (id),
      CONSTRAINT fk_job_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenant (id) ON DELETE CASCADE,
      CONSTRAINT uq_job_tenant_id_id UNIQUE (tenant_id, id),
      CONSTRAINT ck_job_remaining CHECK (remaining >= 0),
      CONSTRAINT ck_job_counts CHECK (total = remaining + classified + abstained + rejected + failed + cancelled + expired),
      CONSTRAINT ck_job_state CHECK (state IN ('receiving', 'queued', 'running', 'completed', 'stopped', 'cancelled', 'expired')),
      CONSTRAINT ck_job_lane CHECK (lane IN ('interactive', 'normal', 'bulk'))
    )
    """,
    "CREATE INDEX ix_job_closed ON job (closed_at) WHERE closed_at IS NOT NULL",
    "CREATE INDEX ix_job_open_deadline ON job (deadline) WHERE closed_at IS NULL AND deadline IS NOT NULL",
    "CREATE INDEX ix_job_open_limited ON job (id) WHERE closed_at IS NULL AND max_failure_rate IS NOT NULL",
    """
    CREATE INDEX ix_job_with_originals
    ON job (closed_at)
    WHERE closed_at IS NOT NULL AND originals_deleted_at IS NULL AND NOT keep_originals
    """,
    """
    CREATE TABLE image (
      id UUID NOT NULL,
      tenant_id UUID NOT NULL,
      job_id UUID NOT NULL,
      ordinal INTEGER NOT NULL,
      client_name TEXT,
      custom_id TEXT,
      storage_key TEXT NOT NULL,
      sha256 BYTEA NOT NULL,
      bytes BIGINT NOT NULL,
      duplicate_of UUID,
      CONSTRAINT pk_image PRIMARY KEY (id),
      CONSTRAINT fk_image_tenant_id_job_id FOREIGN KEY(tenant_id, job_id) REFERENCES job (tenant_id, id) ON DELETE CASCADE,
      CONSTRAINT uq_image_tenant_id_id UNIQUE (tenant_id, id),
      CONSTRAINT uq_image_job_id_ordinal UNIQUE (job_id, ordinal)
    )
    """,
    "CREATE UNIQUE INDEX uq_image_custom_id ON image (job_id, custom_id) WHERE custom_id IS NOT NULL",
    """
    CREATE TABLE unit (
      id UUID NOT NULL,
      tenant_id UUID NOT NULL,
      job_id UUID NOT NULL,
      kind TEXT DEFAULT 'images' NOT NULL,
      lane TEXT NOT NULL,
      first INTEGER NOT NULL,
      n SMALLINT NOT NULL,
      state TEXT NOT NULL,
      vft DOUBLE PRECISION NOT NULL,
      attempt SMALLINT DEFAULT 0 NOT NULL,
      crashes SMALLINT DEFAULT 0 NOT NULL,
      fence BIGINT DEFAULT 0 NOT NULL,
      leased_by TEXT,
      lease_until TIMESTAMP WITH TIME ZONE,
      available_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      CONSTRAINT pk_unit PRIMARY KEY (id),
      CONSTRAINT fk_unit_tenant_id_job_id FOREIGN KEY(tenant_id, job_id) REFERENCES job (tenant_id, id) ON DELETE CASCADE,
      CONSTRAINT ck_unit_state CHECK (state IN ('waiting', 'ready', 'leased', 'done', 'split', 'dead', 'cancelled')),
      CONSTRAINT ck_unit_kind CHECK (kind IN ('images', 'intake'))
    )
     WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000)
    """,
    """
    CREATE INDEX ix_unit_people ON unit (vft, id)
    WHERE state = 'ready' AND lane = 'interactive' AND n <= 4
    """,
    "CREATE INDEX ix_unit_job ON unit (job_id)",
    "CREATE INDEX ix_unit_leased ON unit (lease_until) WHERE state = 'leased'",
    "CREATE INDEX ix_unit_ready ON unit (vft, id) WHERE state = 'ready'",
    "CREATE INDEX ix_unit_waiting ON unit (available_at) WHERE state = 'waiting'",
    """
    CREATE TABLE flow (
      tenant_id UUID NOT NULL,
      lane TEXT NOT NULL,
      last_vft DOUBLE PRECISION NOT NULL,
      CONSTRAINT pk_flow PRIMARY KEY (tenant_id, lane),
      CONSTRAINT fk_flow_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenant (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE result (
      image_id UUID NOT NULL,
      tenant_id UUID NOT NULL,
      job_id UUID NOT NULL,
      ordinal INTEGER NOT NULL,
      fence BIGINT NOT NULL,
      written_in BIGINT DEFAULT pg_current_xact_id()::text::bigint NOT NULL,
      outcome TEXT NOT NULL,
      label TEXT,
      answer JSONB,
      reasons TEXT[] NOT NULL,
      model_id TEXT,
      model_digest TEXT,
      attempts SMALLINT NOT NULL,
      has_copy BOOLEAN NOT NULL,
      timings JSONB,
      finished_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      CONSTRAINT pk_result PRIMARY KEY (image_id),
      CONSTRAINT fk_result_tenant_id_job_id FOREIGN KEY(tenant_id, job_id) REFERENCES job (tenant_id, id) ON DELETE CASCADE,
      CONSTRAINT fk_result_tenant_id_image_id FOREIGN KEY(tenant_id, image_id) REFERENCES image (tenant_id, id) ON DELETE CASCADE,
      CONSTRAINT ck_result_outcome CHECK (outcome IN ('classified', 'abstained', 'rejected', 'failed', 'cancelled', 'expired'))
    )
    """,
    "CREATE INDEX ix_result_written ON result (job_id, written_in, image_id)",
    """
    CREATE TABLE event_counter (
      tenant_id UUID NOT NULL,
      last BIGINT NOT NULL,
      CONSTRAINT pk_event_counter PRIMARY KEY (tenant_id),
      CONSTRAINT fk_event_counter_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenant (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE event (
      tenant_id UUID NOT NULL,
      seq BIGINT NOT NULL,
      id UUID NOT NULL,
      kind TEXT NOT NULL,
      job_id UUID,
      round INTEGER DEFAULT 0 NOT NULL,
      body JSONB NOT NULL,
      created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      CONSTRAINT pk_event PRIMARY KEY (tenant_id, seq),
      CONSTRAINT fk_event_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenant (id) ON DELETE CASCADE,
      CONSTRAINT uq_event_id UNIQUE (id)
    )
    """,
    """
    CREATE UNIQUE INDEX uq_event_once
    ON event (job_id, kind, round)
    WHERE kind IN ('job.accepted', 'job.started', 'job.completed', 'job.stopped', 'job.cancelled', 'job.expired')
    """,
    """
    CREATE TABLE endpoint (
      id UUID NOT NULL,
      tenant_id UUID NOT NULL,
      url TEXT NOT NULL,
      description TEXT DEFAULT '' NOT NULL,
      kinds TEXT[] DEFAULT '{}' NOT NULL,
      job_id UUID,
      state TEXT DEFAULT 'enabled' NOT NULL,
      state_reason TEXT,
      secret BYTEA NOT NULL,
      previous_secret BYTEA,
      previous_until TIMESTAMP WITH TIME ZONE,
      cap SMALLINT DEFAULT 4 NOT NULL,
      open_until TIMESTAMP WITH TIME ZONE,
      failing_since TIMESTAMP WITH TIME ZONE,
      last_event_id UUID,
      created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      CONSTRAINT pk_endpoint PRIMARY KEY (id),
      CONSTRAINT fk_endpoint_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenant (id) ON DELETE CASCADE,
      CONSTRAINT uq_endpoint_tenant_id_id UNIQUE (tenant_id, id),
      CONSTRAINT ck_endpoint_state CHECK (state IN ('enabled', 'disabled'))
    )
    """,
    "CREATE INDEX ix_endpoint_job ON endpoint (tenant_id, job_id)",
    """
    CREATE TABLE delivery (
      id UUID NOT NULL,
      tenant_id UUID NOT NULL,
      endpoint_id UUID NOT NULL,
      event_seq BIGINT NOT NULL,
      previous_id UUID,
      state TEXT DEFAULT 'waiting' NOT NULL,
      attempt SMALLINT DEFAULT 0 NOT NULL,
      fence BIGINT DEFAULT 0 NOT NULL,
      next_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      lease_until TIMESTAMP WITH TIME ZONE,
      created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      finished_at TIMESTAMP WITH TIME ZONE,
      CONSTRAINT pk_delivery PRIMARY KEY (id),
      CONSTRAINT fk_delivery_tenant_id_endpoint_id FOREIGN KEY(tenant_id, endpoint_id) REFERENCES endpoint (tenant_id, id) ON DELETE CASCADE,
      CONSTRAINT fk_delivery_tenant_id_event_seq FOREIGN KEY(tenant_id, event_seq) REFERENCES event (tenant_id, seq) ON DELETE CASCADE,
      CONSTRAINT uq_delivery_tenant_id_id UNIQUE (tenant_id, id),
      CONSTRAINT uq_delivery_endpoint_id_event_seq UNIQUE (endpoint_id, event_seq),
      CONSTRAINT ck_delivery_state CHECK (state IN ('waiting', 'leased', 'delivered', 'dead'))
    )
    """,
    "CREATE INDEX ix_delivery_due ON delivery (endpoint_id, next_at, id) WHERE state = 'waiting'",
    "CREATE INDEX ix_delivery_next ON delivery (next_at) WHERE state = 'waiting'",
    "CREATE INDEX ix_delivery_leased ON delivery (endpoint_id) WHERE state = 'leased'",
    """
    CREATE TABLE attempt (
      id UUID NOT NULL,
      tenant_id UUID NOT NULL,
      delivery_id UUID NOT NULL,
      number SMALLINT NOT NULL,
      started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      duration_ms INTEGER NOT NULL,
      status SMALLINT,
      error TEXT,
      response BYTEA,
      CONSTRAINT pk_attempt PRIMARY KEY (id),
      CONSTRAINT fk_attempt_tenant_id_delivery_id FOREIGN KEY(tenant_id, delivery_id) REFERENCES delivery (tenant_id, id) ON DELETE CASCADE
    )
     PARTITION BY RANGE (id)
    """,
    "CREATE INDEX ix_attempt_delivery ON attempt (delivery_id)",
    """
    CREATE TABLE idempotency_key (
      tenant_id UUID NOT NULL,
      key TEXT NOT NULL,
      fence BIGINT NOT NULL,
      lease_until TIMESTAMP WITH TIME ZONE NOT NULL,
      fingerprint BYTEA,
      status SMALLINT,
      body JSONB,
      location TEXT,
      expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT pk_idempotency_key PRIMARY KEY (tenant_id, key),
      CONSTRAINT fk_idempotency_key_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenant (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_idempotency_key_expires_at ON idempotency_key (expires_at)",
    """
    CREATE TABLE worker_node (
      name TEXT NOT NULL,
      state TEXT NOT NULL,
      bundle_id TEXT,
      bundle_digest TEXT,
      engine TEXT,
      images_per_second DOUBLE PRECISION,
      problem TEXT,
      started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      last_seen TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      CONSTRAINT pk_worker_node PRIMARY KEY (name)
    )
    """,
)


def upgrade() -> None:
    """Create every table with its constraints and indexes."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drop them again, children first."""
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP SEQUENCE fence_seq")
