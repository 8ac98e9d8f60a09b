-- A role that may run load tests and nothing else.
--
--   psql "$OWNER_URL" -v role=loadtest -f role.sql    -- as the owner of the tables, after load_test --setup
--   psql "$OWNER_URL" -c '\password loadtest'         -- a password for it; not where it already has one
--
-- Makes the role where it is missing (which takes CREATEROLE; otherwise have it made first), and gives it exactly
-- what a run does:
--
--   connect, and find the tables                        CONNECT, USAGE
--   the two large writes                                INSERT
--   the two UPSERTs                                     INSERT, SELECT, and UPDATE of the columns that change
--   empty the tables before a run                       TRUNCATE; not needed with --no-reset, then add -v reset=no
--   --server-side-data                                  SELECT, INSERT and DELETE on the pool of random text
--   --verify                                            SELECT of the ids
--
-- It can neither read the documents nor delete single rows, nor make, alter or drop anything. So it cannot --setup:
-- the owner does that, and runs this file again wherever the tables have been made anew, as their rights went with them.
--
-- A role can also do what everybody (PUBLIC) can. Therefore this file takes two rights from PUBLIC, in this database
-- alone: to make temporary tables, and to make objects in the schema of the tables (which PostgreSQL gives up to 14).
-- May be run again at any time. Everything happens in one transaction: all or nothing.

\set ON_ERROR_STOP on
\if :{?role}
\else
  DO $$ BEGIN RAISE EXCEPTION 'no role is named' USING HINT = 'psql -v role=NAME -f role.sql'; END $$;
\endif
\if :{?reset}
\else
  \set reset yes
\endif

BEGIN;

SET LOCAL client_min_messages = warning;

-- Nothing is given on tables that are somebody else's.
DO $guard$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['chat_inference', 'model_inference', 'resource_bucket', 'variant_by_episode',
                                  'loadtest_payload_pool']
    LOOP
        IF coalesce(obj_description(to_regclass(wanted), 'pg_class'), '') NOT LIKE 'postgres_load_test:%' THEN
            RAISE EXCEPTION 'table % is missing, or was not made by postgres_load_test; nothing was granted', wanted
                USING HINT = 'Make the tables first: load_test --setup --duration 0';
        END IF;
    END LOOP;
END
$guard$;

SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role')
\gexec

SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role'),
       format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()),
       format('GRANT USAGE ON SCHEMA %I TO %I', nspname, :'role'),
       format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', nspname)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE pg_class.oid = 'chat_inference'::regclass
\gexec

-- What an earlier run of this file gave, or somebody else.
REVOKE ALL ON chat_inference, model_inference, resource_bucket, variant_by_episode, loadtest_payload_pool
    FROM :"role";

-- The ids, for --verify; they tell nothing of the documents.
GRANT INSERT, SELECT (id) ON chat_inference, model_inference TO :"role";

GRANT INSERT, SELECT, UPDATE (tickets, balance_as_of) ON resource_bucket TO :"role";

GRANT INSERT, SELECT, UPDATE (variant_name) ON variant_by_episode TO :"role";

GRANT SELECT, INSERT, DELETE ON loadtest_payload_pool TO :"role";

\if :reset
GRANT TRUNCATE ON chat_inference, model_inference, resource_bucket, variant_by_episode TO :"role";
\endif

COMMIT;
