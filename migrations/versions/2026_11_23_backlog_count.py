"""What waits, as the sweep last counted it: one row of aggregates, in place of a function that counted at every call."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE backlog_count (
  sole BOOLEAN DEFAULT true NOT NULL,
  counted_at TIMESTAMP WITH TIME ZONE NOT NULL,
  took DOUBLE PRECISION NOT NULL,
  interactive BIGINT NOT NULL,
  normal BIGINT NOT NULL,
  bulk BIGINT NOT NULL,
  leased BIGINT NOT NULL,
  tags DOUBLE PRECISION[] NOT NULL,
  ahead BIGINT[] NOT NULL,
  CONSTRAINT pk_backlog_count PRIMARY KEY (sole),
  CONSTRAINT ck_backlog_count_sole CHECK (sole)
)
"""
COUNTED_AT_EVERY_CALL = """
CREATE FUNCTION lookup_backlog() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT coalesce(sum(n), 0) FROM public.unit WHERE state IN ('ready', 'leased', 'waiting')
$$
"""


def upgrade() -> None:
    """Create the table: it names no tenant, so every role that must know how much waits may read it."""
    op.execute(TABLE)
    op.execute("GRANT SELECT ON backlog_count TO poxvisio_app")
    op.execute("GRANT SELECT, INSERT, UPDATE ON backlog_count TO poxvisio_worker")
    op.execute("DROP FUNCTION lookup_backlog()")


def downgrade() -> None:
    """Count at every call again."""
    op.execute(COUNTED_AT_EVERY_CALL)
    op.execute("REVOKE ALL ON FUNCTION lookup_backlog() FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION lookup_backlog() TO poxvisio_app")
    op.execute("ALTER FUNCTION lookup_backlog() OWNER TO poxvisio_lookup")
    op.execute("DROP TABLE backlog_count")
