"""What is left of a deleted job: its row, as a tombstone, and when its photos must be looked for in the storage."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = {
    "deleted_at": "TIMESTAMP WITH TIME ZONE",
    "purge_at": "TIMESTAMP WITH TIME ZONE",
    "purged_at": "TIMESTAMP WITH TIME ZONE",
    "receipt_digest": "TEXT",
}


def upgrade() -> None:
    """Add the columns of a tombstone, and let the web delete what belongs to a job."""
    for name, kind in COLUMNS.items():
        op.execute(f"ALTER TABLE job ADD COLUMN {name} {kind}")
    op.execute("ALTER TABLE job ADD CONSTRAINT ck_job_deleted CHECK (deleted_at IS NULL OR closed_at IS NOT NULL)")
    op.execute("CREATE INDEX ix_job_to_purge ON job (purge_at) WHERE purge_at IS NOT NULL")
    op.execute("GRANT DELETE ON unit, result TO poxvisio_app")


def downgrade() -> None:
    """Drop the tombstones: the version before would take them for jobs. First their photos must be gone."""
    op.execute("""
        DO $$ BEGIN
          IF EXISTS (SELECT FROM job WHERE deleted_at IS NOT NULL AND purged_at IS NULL) THEN
            RAISE EXCEPTION 'photos of deleted jobs still lie in the storage: let the housekeeping finish first';
          END IF;
        END $$
    """)
    op.execute("DELETE FROM job WHERE deleted_at IS NOT NULL")
    op.execute("REVOKE DELETE ON unit, result FROM poxvisio_app")
    op.execute("DROP INDEX ix_job_to_purge")
    op.execute("ALTER TABLE job DROP CONSTRAINT ck_job_deleted")
    for name in COLUMNS:
        op.execute(f"ALTER TABLE job DROP COLUMN {name}")
