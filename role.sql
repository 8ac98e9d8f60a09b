-- A role that may run load tests and nothing else.
--
--   psql "$OWNER_URL" -v role=loadtest -f role.sql    -- as the owner of the tables, after load_test --setup
--   psql "$OWNER_URL" -c '\password loadtest'         -- sets its password; not needed if it already has one
--
-- Creates the role if it is missing (this needs CREATEROLE; without it, have somebody create the role first). Then it
-- grants exactly the rights that a run needs:
--
--   connect, and find the tables                        CONNECT, USAGE
--   the two large writes                                INSERT
--   the two UPSERTs                                     INSERT, SELECT, and UPDATE of the columns that change
--   empty the tables before a run                       TRUNCATE; not needed with --no-reset, then add -v reset=no
--   --server-side-data                                  SELECT, INSERT and DELETE on the pool of random text
--   --verify                                            SELECT of the IDs
--   statistics of all sessions (docs/server-stats.md)   pg_read_all_stats, only with -v stats=yes. It shows the
--                                                       statements of everybody, and runs do without it. You need
--                                                       ADMIN OPTION on it (a superuser has it). Without
--                                                       stats=yes it is revoked if you can; what somebody else
--                                                       granted, such as pg_monitor, stays
--
-- The role cannot read the documents, delete single rows, or create, alter or drop anything. So it cannot use --setup:
-- the owner does that. When tables are created anew, their grants are gone, and the owner runs this file again.
--
-- Every role also has the rights of PUBLIC. Therefore this file revokes two rights from PUBLIC, in this database only:
-- to create temporary tables, and to create objects in the schema of the tables (PostgreSQL up to 14 grants that).
-- You can run it again at any time. Everything happens in one transaction: all or nothing.

\set ON_ERROR_STOP on
\if :{?role}
\else
  DO $$ BEGIN RAISE EXCEPTION 'no role was given' USING HINT = 'psql -v role=NAME -f role.sql'; END $$;
\endif
\if :{?reset}
\else
  \set reset yes
\endif
\if :{?stats}
\else
  \set stats no
\endif

BEGIN;

SET LOCAL client_min_messages = warning;

-- Grant nothing on tables that belong to somebody else.
DO $guard$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['chat_inference', 'model_inference', 'resource_bucket', 'variant_by_episode',
                                  'loadtest_payload_pool']
    LOOP
        IF coalesce(obj_description(to_regclass(wanted), 'pg_class'), '') NOT LIKE 'postgres_load_test:%' THEN
            RAISE EXCEPTION 'table % is missing, or was not made by postgres_load_test; nothing was granted', wanted
                USING HINT = 'Create the tables first: load_test --setup --duration 0';
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

-- Remove what an earlier run of this file, or somebody else, granted on the tables.
REVOKE ALL ON chat_inference, model_inference, resource_bucket, variant_by_episode, loadtest_payload_pool
    FROM :"role";

-- The IDs, for --verify. They say nothing about the documents.
GRANT INSERT, SELECT (id) ON chat_inference, model_inference TO :"role";

GRANT INSERT, SELECT, UPDATE (tickets, balance_as_of) ON resource_bucket TO :"role";

GRANT INSERT, SELECT, UPDATE (variant_name) ON variant_by_episode TO :"role";

GRANT SELECT, INSERT, DELETE ON loadtest_payload_pool TO :"role";

\if :reset
GRANT TRUNCATE ON chat_inference, model_inference, resource_bucket, variant_by_episode TO :"role";
\endif

\if :stats
GRANT pg_read_all_stats TO :"role";
\else
-- An earlier run may have granted it. Only whoever granted it, or a superuser, can revoke it.
SELECT format('REVOKE pg_read_all_stats FROM %I', :'role')
WHERE EXISTS (
    SELECT FROM pg_auth_members
    JOIN pg_roles member ON member.oid = pg_auth_members.member
    WHERE roleid = 'pg_read_all_stats'::regrole AND member.rolname = :'role'
      AND pg_has_role('pg_read_all_stats', 'USAGE WITH ADMIN OPTION')
      AND (grantor = current_user::regrole OR current_setting('is_superuser')::boolean)
)
\gexec
\endif

COMMIT;
