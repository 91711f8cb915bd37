-- The roles of the service. They belong to the cluster, not to one database, so they are made if missing and never dropped.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['poxvisio_owner', 'poxvisio_app', 'poxvisio_worker', 'poxvisio_reader', 'poxvisio_lookup'] LOOP
    BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN NOBYPASSRLS', name);
      END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL;  -- another migration made it in this instant
    END;
  END LOOP;
  IF NOT pg_has_role(current_user, 'poxvisio_owner', 'SET') THEN
    EXECUTE format('GRANT poxvisio_owner TO %I WITH SET TRUE', current_user);
  END IF;
  IF NOT pg_has_role('poxvisio_owner', 'poxvisio_lookup', 'SET') THEN
    BEGIN
      GRANT poxvisio_lookup TO poxvisio_owner WITH SET TRUE;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL;
    END;
  END IF;
  IF NOT (has_schema_privilege('poxvisio_owner', 'public', 'CREATE') AND has_schema_privilege('poxvisio_lookup', 'public', 'CREATE')) THEN
    GRANT USAGE, CREATE ON SCHEMA public TO poxvisio_owner, poxvisio_lookup;
  END IF;
  IF NOT has_schema_privilege('poxvisio_app', 'public', 'USAGE') THEN
    GRANT USAGE ON SCHEMA public TO poxvisio_app, poxvisio_worker, poxvisio_reader;
  END IF;
END
$$;
