"""Jobs are found by what their photos are called, and by the models that answered them: the indexes for it."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

CUSTOM_ID = "CREATE UNIQUE INDEX uq_image_custom_id ON image (job_id, custom_id{}) WHERE custom_id IS NOT NULL"


def upgrade() -> None:
    """Index names by their beginning, whatever the collation of the database."""
    op.execute("DROP INDEX uq_image_custom_id")
    op.execute(CUSTOM_ID.format(" text_pattern_ops"))
    op.execute("CREATE INDEX ix_image_client_name ON image (job_id, client_name text_pattern_ops)")
    op.execute("CREATE INDEX ix_result_scheme ON result (job_id, scheme_id) WHERE scheme_id IS NOT NULL")


def downgrade() -> None:
    """Find no names any more."""
    op.execute("DROP INDEX ix_result_scheme")
    op.execute("DROP INDEX ix_image_client_name")
    op.execute("DROP INDEX uq_image_custom_id")
    op.execute(CUSTOM_ID.format(""))
