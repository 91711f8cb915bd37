"""What metrics read: one view of figures without names, and an index so that dead deliveries are counted cheaply.

The view belongs to the owner, whose policies admit all rows, and says numbers alone; the reader sees nothing else.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# The tenant of known answers, whose jobs come and go and are nobody's.
SYSTEM = "00000000-0000-7000-8000-706f78766973"
# Each part of `unit` and of `delivery` is counted through the partial index made for it.
GAUGES = f"""
CREATE VIEW gauge AS
WITH open_units AS (
  SELECT lane, state, sum(n) AS photos, min(available_at) AS since, count(*) AS units,
    count(*) FILTER (WHERE lease_until < now()) AS overdue
  FROM unit WHERE state = 'ready' AND kind = 'images' GROUP BY lane, state
  UNION ALL
  SELECT lane, state, sum(n), min(available_at), count(*), count(*) FILTER (WHERE lease_until < now())
  FROM unit WHERE state = 'leased' AND kind = 'images' GROUP BY lane, state
  UNION ALL
  SELECT lane, state, sum(n), min(available_at), count(*), 0
  FROM unit WHERE state = 'waiting' AND kind = 'images' GROUP BY lane, state
), jobs AS (
  SELECT state, count(*) AS jobs, sum(classified) AS classified, sum(abstained) AS abstained,
    sum(rejected) AS rejected, sum(failed) AS failed, sum(cancelled) AS cancelled, sum(expired) AS expired
  FROM job WHERE tenant_id <> '{SYSTEM}' GROUP BY state
), alive AS (
  SELECT state, count(*) AS workers, sum(images_per_second) FILTER (WHERE state IN ('ready', 'busy')) AS rate
  FROM worker_node WHERE last_seen > now() - interval '30 seconds' GROUP BY state
)
SELECT 'photos' AS name, lane AS first, state AS second, photos::double precision AS value FROM open_units
UNION ALL
SELECT 'oldest_ready_seconds', lane, NULL, extract(epoch FROM now() - since)::double precision
  FROM open_units WHERE state = 'ready'
UNION ALL
SELECT 'leases', NULL, NULL, sum(units)::double precision FROM open_units WHERE state = 'leased'
UNION ALL
SELECT 'leases_overdue', NULL, NULL, sum(overdue)::double precision FROM open_units WHERE state = 'leased'
UNION ALL
SELECT 'intakes', state, NULL, count(*) FROM unit WHERE state = 'ready' AND kind = 'intake' GROUP BY state
UNION ALL
SELECT 'intakes', state, NULL, count(*) FROM unit WHERE state = 'leased' AND kind = 'intake' GROUP BY state
UNION ALL
SELECT 'intakes', state, NULL, count(*) FROM unit WHERE state = 'waiting' AND kind = 'intake' GROUP BY state
UNION ALL
SELECT 'jobs', state, NULL, jobs FROM jobs
UNION ALL
SELECT 'results', outcome, NULL, sum(photos)::double precision
  FROM jobs, LATERAL (VALUES ('classified', classified), ('abstained', abstained), ('rejected', rejected),
    ('failed', failed), ('cancelled', cancelled), ('expired', expired)) AS each (outcome, photos) GROUP BY outcome
UNION ALL
SELECT 'workers', state, NULL, workers FROM alive
UNION ALL
SELECT 'photos_per_second', NULL, NULL, sum(rate) FROM alive
UNION ALL
SELECT 'deliveries', 'waiting', NULL, count(*) FROM delivery WHERE state = 'waiting'
UNION ALL
SELECT 'deliveries', 'leased', NULL, count(*) FROM delivery WHERE state = 'leased'
UNION ALL
SELECT 'deliveries', 'dead', NULL, count(*) FROM delivery WHERE state = 'dead'
UNION ALL
SELECT 'oldest_delivery_seconds', NULL, NULL, extract(epoch FROM now() - min(next_at))::double precision
  FROM delivery WHERE state = 'waiting' AND next_at < now()
UNION ALL
SELECT 'endpoints', state, NULL, count(*) FROM endpoint GROUP BY state
UNION ALL
SELECT 'jobs_to_purge', NULL, NULL, count(*) FROM job WHERE purge_at IS NOT NULL
UNION ALL
SELECT 'counted_seconds_ago', NULL, NULL, extract(epoch FROM now() - max(counted_at))::double precision
  FROM backlog_count
UNION ALL
SELECT 'known_answers', state, NULL, count(*) FROM heartbeat
  WHERE coalesce(done_at, ended_at, sent_at) > now() - interval '1 hour' GROUP BY state
UNION ALL
SELECT 'unit_dead_rows', NULL, NULL, n_dead_tup FROM pg_stat_user_tables WHERE relid = 'unit'::regclass
"""


def upgrade() -> None:
    """Make the view and let the reader read it."""
    op.execute("CREATE INDEX ix_delivery_dead ON delivery (endpoint_id) WHERE state = 'dead'")
    op.execute(GAUGES)
    op.execute("GRANT SELECT ON gauge TO poxvisio_reader")


def downgrade() -> None:
    """Drop them again."""
    op.execute("DROP VIEW gauge")
    op.execute("DROP INDEX ix_delivery_dead")
