"""Events of photos: find who asked for them, and find them again when their job is deleted."""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Index what is few, and let a deletion take out of an event what its client called the photo."""
    op.execute("CREATE INDEX ix_endpoint_images ON endpoint (tenant_id) WHERE 'image.completed' = ANY (kinds)")
    op.execute("CREATE INDEX ix_event_image ON event (job_id) WHERE kind = 'image.completed'")
    op.execute("CREATE INDEX ix_delivery_kept ON delivery (tenant_id, event_seq) WHERE body IS NOT NULL")
    op.execute("GRANT UPDATE (body) ON event TO poxvisio_app")


def downgrade() -> None:
    """Drop the indexes; events that were written stay, and endpoints that named the kind keep its name."""
    op.execute("REVOKE UPDATE (body) ON event FROM poxvisio_app")
    for name in ("ix_delivery_kept", "ix_event_image", "ix_endpoint_images"):
        op.execute(f"DROP INDEX {name}")
