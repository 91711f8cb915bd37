"""Old events go with their deliveries: who deletes them may, and finds them without reading all there are."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Index what hangs on an event, and one-off endpoints, and let the housekeeping delete both."""
    op.execute("CREATE INDEX ix_delivery_event ON delivery (tenant_id, event_seq)")
    op.execute("CREATE INDEX ix_endpoint_one_off ON endpoint (created_at) WHERE job_id IS NOT NULL")
    op.execute("GRANT DELETE ON event, endpoint TO poxvisio_worker")


def downgrade() -> None:
    """Keep everything for ever again; what was deleted stays so."""
    op.execute("REVOKE DELETE ON event, endpoint FROM poxvisio_worker")
    op.execute("DROP INDEX ix_endpoint_one_off")
    op.execute("DROP INDEX ix_delivery_event")
