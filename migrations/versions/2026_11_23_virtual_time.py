"""The virtual time is that of photos nobody has tried yet.

What was split or put off keeps its old tag, so that it comes next. While it is ready, it must not turn the time back:
whoever submits then would queue in the past, before all who wait.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

VIRTUAL_TIME = """
    CREATE OR REPLACE FUNCTION lookup_virtual_time() RETURNS double precision
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
      SELECT coalesce(
        (SELECT vft FROM public.unit WHERE state = 'ready' AND kind = 'images' {untried} ORDER BY vft, id LIMIT 1),
        (SELECT max(last_vft) FROM public.flow), 0)
    $$
"""


def upgrade() -> None:
    """Look at units without an attempt alone."""
    op.execute(VIRTUAL_TIME.format(untried="AND attempt = 0"))


def downgrade() -> None:
    """Look at every unit again."""
    op.execute(VIRTUAL_TIME.format(untried=""))
