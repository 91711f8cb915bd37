"""An endpoint says what its bodies tell and in which form; a body that could not be built the same again is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns: everybody there is gets thin bodies, as before."""
    op.add_column("endpoint", sa.Column("detail", sa.Text(), nullable=False, server_default=sa.text("'thin'")))
    op.add_column("endpoint", sa.Column("format", sa.Text(), nullable=False, server_default=sa.text("'standard'")))
    op.create_check_constraint(op.f("ck_endpoint_detail"), "endpoint", "detail IN ('thin', 'full')")
    op.create_check_constraint(op.f("ck_endpoint_format"), "endpoint", "format IN ('standard', 'cloudevents')")
    op.add_column("delivery", sa.Column("body", sa.LargeBinary()))


def downgrade() -> None:
    """Forget them: every body is thin again."""
    op.drop_column("delivery", "body")
    op.drop_column("endpoint", "format")
    op.drop_column("endpoint", "detail")
