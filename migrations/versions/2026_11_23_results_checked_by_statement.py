"""What a result names is looked for once a statement, in place of foreign keys that look once a row.

The keys locked every image that got a result, which rewrote its page, and were half of what a result costs. What they
promised is kept: a result names an image of its own tenant and job, a job that nobody is deleting, and a scheme that is
there; when images go, their results go.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Rights are those of the writing role: what its policies hide is not there. Jobs are locked as foreign keys lock them,
# in the order of their ids. Who deletes images locks their job first, so none can go between the look and the commit.
FUNCTIONS = (
    """
    CREATE FUNCTION results_name_what_is_there() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
    BEGIN
      PERFORM FROM public.job j WHERE j.id IN (SELECT DISTINCT f.job_id FROM fresh f) ORDER BY j.id FOR KEY SHARE;
      IF EXISTS (
        SELECT FROM fresh f LEFT JOIN public.image i ON i.id = f.image_id
          AND i.tenant_id = f.tenant_id AND i.job_id = f.job_id AND i.ordinal = f.ordinal
        WHERE i.id IS NULL)
      THEN
        RAISE foreign_key_violation USING TABLE = 'result', CONSTRAINT = 'fk_result_image',
          MESSAGE = 'a result violates foreign key constraint "fk_result_image": it names no image of its job and tenant';
      END IF;
      IF EXISTS (
        SELECT FROM (SELECT DISTINCT scheme_id FROM fresh WHERE scheme_id IS NOT NULL) f
        WHERE NOT EXISTS (SELECT FROM public.answer_scheme s WHERE s.id = f.scheme_id))
      THEN
        RAISE foreign_key_violation USING TABLE = 'result', CONSTRAINT = 'fk_result_scheme',
          MESSAGE = 'a result violates foreign key constraint "fk_result_scheme": there is no such scheme';
      END IF;
      RETURN NULL;
    END
    $$
    """,
    """
    CREATE FUNCTION results_go_with_their_images() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
    BEGIN
      DELETE FROM public.result r USING gone g WHERE r.image_id = g.id;
      RETURN NULL;
    END
    $$
    """,
    """
    CREATE FUNCTION results_go_with_all_images() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
    BEGIN
      TRUNCATE public.result;
      RETURN NULL;
    END
    $$
    """,
)
TRIGGERS = {
    "result": (
        """
        CREATE TRIGGER results_name_what_is_there AFTER INSERT ON result
        REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION results_name_what_is_there()
        """,
        """
        CREATE TRIGGER changed_results_name_what_is_there AFTER UPDATE ON result
        REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION results_name_what_is_there()
        """,
    ),
    "image": (
        """
        CREATE TRIGGER results_go_with_their_images AFTER DELETE ON image
        REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION results_go_with_their_images()
        """,
        """
        CREATE TRIGGER results_go_with_all_images AFTER TRUNCATE ON image
        FOR EACH STATEMENT EXECUTE FUNCTION results_go_with_all_images()
        """,
    ),
}
KEYS = {
    "fk_result_tenant_id_job_id": "(tenant_id, job_id) REFERENCES job (tenant_id, id)",
    "fk_result_tenant_id_image_id": "(tenant_id, image_id) REFERENCES image (tenant_id, id)",
}


def upgrade() -> None:
    """Put the triggers in the place of the keys."""
    for function in FUNCTIONS:
        op.execute(function)
    for triggers in TRIGGERS.values():
        for trigger in triggers:
            op.execute(trigger)
    for name in KEYS:
        op.execute(f"ALTER TABLE result DROP CONSTRAINT {name}")


def downgrade() -> None:
    """Put the keys back; they are checked against every row."""
    for name, key in KEYS.items():
        op.execute(f"ALTER TABLE result ADD CONSTRAINT {name} FOREIGN KEY {key} ON DELETE CASCADE")
    op.execute("DROP TRIGGER results_name_what_is_there ON result")
    op.execute("DROP TRIGGER changed_results_name_what_is_there ON result")
    op.execute("DROP TRIGGER results_go_with_their_images ON image")
    op.execute("DROP TRIGGER results_go_with_all_images ON image")
    op.execute("DROP FUNCTION results_name_what_is_there()")
    op.execute("DROP FUNCTION results_go_with_their_images()")
    op.execute("DROP FUNCTION results_go_with_all_images()")
