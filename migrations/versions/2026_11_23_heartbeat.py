"""Known answers that go through the service: a tenant of the system's own, and what became of each round of them.

Workers may submit jobs for that tenant and for no other. What must be done with a tenant or a key, or taken away from
the ledger, is done by functions that can do it to nothing else.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SYSTEM = "00000000-0000-7000-8000-706f78766973"
SAFE = "SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"
TABLE = """
    CREATE TABLE heartbeat (
      id UUID NOT NULL,
      model_id TEXT NOT NULL,
      digest TEXT NOT NULL,
      photos SMALLINT NOT NULL,
      sent_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      state TEXT DEFAULT 'waiting' NOT NULL,
      difference DOUBLE PRECISION,
      seconds DOUBLE PRECISION,
      problem TEXT,
      done_at TIMESTAMP WITH TIME ZONE,
      ended_at TIMESTAMP WITH TIME ZONE,
      CONSTRAINT pk_heartbeat PRIMARY KEY (id),
      CONSTRAINT ck_heartbeat_state CHECK (state IN ('waiting', 'good', 'moved', 'late', 'failed'))
    )
"""
FUNCTIONS = {
    "make_system_tenant()": (
        "poxvisio_owner",
        f"""
        RETURNS void LANGUAGE sql VOLATILE {SAFE} AS $$
          INSERT INTO public.tenant (id, name) VALUES ('{SYSTEM}', 'system: known answers') ON CONFLICT DO NOTHING
        $$
        """,
    ),
    "forget_system_job(job uuid)": (
        "poxvisio_owner",
        f"""
        RETURNS void LANGUAGE plpgsql VOLATILE {SAFE} AS $$
        BEGIN
          PERFORM FROM public.job j WHERE j.id = $1 AND j.tenant_id = '{SYSTEM}' AND j.closed_at IS NOT NULL FOR UPDATE;
          IF FOUND THEN
            DELETE FROM public.unit u WHERE u.job_id = $1;
            DELETE FROM public.result r WHERE r.job_id = $1;
            DELETE FROM public.image i WHERE i.job_id = $1;
            DELETE FROM public.event e WHERE e.tenant_id = '{SYSTEM}' AND e.job_id = $1;
            DELETE FROM public.job j WHERE j.id = $1;
          END IF;
        END
        $$
        """,
    ),
    # Who has a say in what serves hears of it: only an operator gives that scope.
    "lookup_model_tenants()": (
        "poxvisio_lookup",
        f"""
        RETURNS SETOF uuid LANGUAGE sql STABLE {SAFE} AS $$
          SELECT DISTINCT k.tenant_id FROM public.api_key k
          WHERE 'models' = ANY (k.scopes) AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
          ORDER BY 1
        $$
        """,
    ),
}


def upgrade() -> None:
    """Create the table, the functions, and the right to submit for the system alone."""
    op.execute(TABLE)
    op.execute("CREATE INDEX ix_heartbeat_sent_at ON heartbeat (sent_at)")
    op.execute("GRANT SELECT ON heartbeat TO poxvisio_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON heartbeat TO poxvisio_worker")
    for signature, (owner, definition) in FUNCTIONS.items():
        op.execute(f"CREATE FUNCTION {signature} {definition}")
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO poxvisio_worker")
        op.execute(f"ALTER FUNCTION {signature} OWNER TO {owner}")
    op.execute(
        f"CREATE POLICY worker_system ON job AS RESTRICTIVE FOR INSERT TO poxvisio_worker "
        f"WITH CHECK (tenant_id = '{SYSTEM}'::uuid)"
    )
    op.execute("GRANT INSERT ON job TO poxvisio_worker")


def downgrade() -> None:
    """Take it all away, with the system's tenant and its jobs."""
    op.execute("REVOKE INSERT ON job FROM poxvisio_worker")
    op.execute("DROP POLICY worker_system ON job")
    op.execute(f"DELETE FROM result WHERE tenant_id = '{SYSTEM}'")
    op.execute(f"DELETE FROM tenant WHERE id = '{SYSTEM}'")
    for signature in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("DROP TABLE heartbeat")
