"""The short list of functions that look across tenants, the reader's view, and the partitions of attempts.

Functions run with the rights of the role that owns them and with a fixed search path. Those of ``poxvisio_lookup``
see through its own policies; a table's owner under FORCE would see nothing.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LOOKUP_FUNCTIONS = {
    # An API key is found by its id before anybody knows whose it is.
    "lookup_api_key(key uuid)": """
        RETURNS TABLE (tenant_id uuid, secret_hash bytea, scopes text[], weight double precision, keep_originals boolean)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
          SELECT k.tenant_id, k.secret_hash, k.scopes, t.weight, t.keep_originals
          FROM public.api_key k JOIN public.tenant t ON t.id = k.tenant_id
          WHERE k.id = key AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
        $$
    """,
    # Once a minute at most, so that a busy key is no hot row.
    "touch_api_key(key uuid)": """
        RETURNS void
        LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
          UPDATE public.api_key SET last_used_at = now()
          WHERE id = key AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
        $$
    """,
    # V of the fair queue: the tag of the first ready unit, else the largest tag given out.
    "lookup_virtual_time()": """
        RETURNS double precision
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
          SELECT coalesce(
            (SELECT vft FROM public.unit WHERE state = 'ready' ORDER BY vft, id LIMIT 1),
            (SELECT max(last_vft) FROM public.flow), 0)
        $$
    """,
    # What waits in all, for honest Retry-After and ETA.
    "lookup_backlog()": """
        RETURNS bigint
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
          SELECT coalesce(sum(n), 0) FROM public.unit WHERE state IN ('ready', 'leased', 'waiting')
        $$
    """,
}

PARTITIONS = """
CREATE FUNCTION make_attempt_partitions() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  month timestamptz := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
  upper timestamptz;
  name text;
BEGIN
  -- This month and the next twelve: attempts are recorded even where no sweep has run for a year.
  FOR ahead IN 0..12 LOOP
    upper := month + interval '1 month';
    name := 'attempt_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM');
    IF to_regclass('public.' || name) IS NULL THEN
      EXECUTE format('CREATE TABLE public.%I PARTITION OF public.attempt FOR VALUES FROM (%L) TO (%L)',
        name, public.first_uuid(month), public.first_uuid(upper));
    END IF;
    month := upper;
  END LOOP;
END
$$
"""
# A UUIDv7 begins with its time as 48 bits of milliseconds (RFC 9562), so a month is a range of ids.
FIRST_UUID = """
CREATE FUNCTION first_uuid(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$
"""
BACKLOG = """
CREATE VIEW backlog AS
SELECT lane, state, count(*) AS units, sum(n)::bigint AS images, min(available_at) AS oldest
FROM unit WHERE state IN ('waiting', 'ready', 'leased') GROUP BY lane, state
"""


def upgrade() -> None:
    """Create the functions, hand them to their role, and let the web call them."""
    for signature, definition in LOOKUP_FUNCTIONS.items():
        op.execute(f"CREATE FUNCTION {signature} {definition}")
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO poxvisio_app")
        op.execute(f"ALTER FUNCTION {signature} OWNER TO poxvisio_lookup")
    op.execute(FIRST_UUID)
    op.execute(PARTITIONS)
    op.execute("REVOKE ALL ON FUNCTION make_attempt_partitions() FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION make_attempt_partitions() TO poxvisio_worker")
    op.execute("SELECT make_attempt_partitions()")
    op.execute(BACKLOG)
    op.execute("GRANT SELECT ON backlog TO poxvisio_reader")


def downgrade() -> None:
    """Drop them again; partitions go with their table."""
    op.execute("DROP VIEW backlog")
    op.execute("DROP FUNCTION make_attempt_partitions()")
    op.execute("DROP FUNCTION first_uuid(timestamptz)")
    for signature in LOOKUP_FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
