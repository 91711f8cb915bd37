"""Whether anybody listens is asked as of now, and not as of when the statement began that has something to tell.

A statement that tells of what it does may wait for the tenant's counter of events, which whoever makes an endpoint
holds. A function that is VOLATILE sees what was committed until it is called.
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the function; it has its caller's rights."""
    op.execute("""
        CREATE FUNCTION is_heard(tenants uuid[]) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
          RETURN EXISTS (SELECT FROM public.endpoint WHERE tenant_id = ANY (tenants));
        END
        $$
    """)
    op.execute("GRANT EXECUTE ON FUNCTION is_heard(uuid[]) TO poxvisio_app, poxvisio_worker")


def downgrade() -> None:
    """Drop it again."""
    op.execute("DROP FUNCTION is_heard(uuid[])")
