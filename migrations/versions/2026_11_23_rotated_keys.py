"""A key keeps the secret it had before its last rotation for a while: both let in, so that nothing stops in between."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

LOOKUP = """
CREATE FUNCTION lookup_api_key(key uuid)
RETURNS TABLE (tenant_id uuid, secret_hash bytea, {column} scopes text[], weight double precision,
               keep_originals boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT k.tenant_id, k.secret_hash, {value} k.scopes, t.weight, t.keep_originals
  FROM public.api_key k JOIN public.tenant t ON t.id = k.tenant_id
  WHERE k.id = key AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
$$
"""
PREVIOUS = "CASE WHEN k.previous_until > now() THEN k.previous_hash END,"


def upgrade() -> None:
    """Add the columns, and let whoever looks a key up see the previous secret while it is good."""
    op.add_column("api_key", sa.Column("previous_hash", sa.LargeBinary()))
    op.add_column("api_key", sa.Column("previous_until", sa.DateTime(timezone=True)))
    op.create_check_constraint(
        op.f("ck_api_key_previous"), "api_key", "(previous_hash IS NULL) = (previous_until IS NULL)"
    )
    _look_up_with(column="previous_hash bytea,", value=PREVIOUS)


def downgrade() -> None:
    """Forget previous secrets: who still sends one is not let in any more."""
    _look_up_with(column="", value="")
    op.drop_column("api_key", "previous_until")
    op.drop_column("api_key", "previous_hash")


def _look_up_with(**parts: str) -> None:
    op.execute("DROP FUNCTION lookup_api_key(uuid)")
    op.execute(LOOKUP.format(**parts))
    op.execute("REVOKE ALL ON FUNCTION lookup_api_key(uuid) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION lookup_api_key(uuid) TO poxvisio_app")
    op.execute("ALTER FUNCTION lookup_api_key(uuid) OWNER TO poxvisio_lookup")
