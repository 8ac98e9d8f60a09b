-- Tables of postgres_load_test: ordinary (logged) tables, durable like an application's own.
--
--   psql "$POSTGRES_URL" -f schema.sql
--
-- No superuser is needed: the right to create tables in the current schema is enough. You can run this file again at
-- any time: it drops the tables and creates them empty. Everything happens in one transaction: all or nothing.
--
-- Every table created here has a comment that begins with "postgres_load_test:". Only tables with that mark are ever
-- dropped or emptied. If a table of the same name exists without the mark, this file stops and changes nothing.

BEGIN;

SET LOCAL client_min_messages = warning;

DO $guard$
DECLARE
    wanted text;
    found regclass;
    ours regclass[] := '{}';
    foreign_tables text[] := '{}';
    test record;
BEGIN
    -- Processes that set up the same database at the same time take turns.
    PERFORM pg_advisory_xact_lock(7021867105284);
    FOREACH wanted IN ARRAY ARRAY['chat_inference', 'model_inference', 'resource_bucket', 'variant_by_episode',
                                  'loadtest_payload_pool']
    LOOP
        found := to_regclass(wanted);
        CONTINUE WHEN found IS NULL;
        IF coalesce(obj_description(found, 'pg_class'), '') LIKE 'postgres_load_test:%' THEN
            ours := ours || found;
        ELSE
            foreign_tables := foreign_tables || found::text;
        END IF;
    END LOOP;
    IF cardinality(foreign_tables) > 0 THEN
        RAISE EXCEPTION 'not made by postgres_load_test: %; nothing was changed', array_to_string(foreign_tables, ', ')
            USING HINT = 'Give load tests their own database, for example: CREATE DATABASE tensorzero_loadtest;';
    END IF;
    -- A running test holds advisory locks. The first half of the key identifies the schema, the second half the test.
    SELECT held.pid, session.application_name AS name INTO test
    FROM pg_locks AS held LEFT JOIN pg_stat_activity AS session ON session.pid = held.pid
    WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 2
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND held.classid::bigint IN (SELECT 1342177280 # relnamespace::bigint FROM pg_class WHERE oid = ANY (ours))
        AND held.objid::text <> coalesce(current_setting('postgres_load_test.test', true), '')
    LIMIT 1;
    IF test.pid IS NOT NULL THEN
        RAISE EXCEPTION 'a load test uses these tables: % (server process %); nothing was changed', test.name, test.pid
            USING HINT = format('Wait until it has ended. If it is no longer running: SELECT pg_terminate_backend(%s);', test.pid);
    END IF;
    FOREACH found IN ARRAY ours LOOP
        EXECUTE format('DROP TABLE %s', found);
    END LOOP;
END
$guard$;

-- The question to an inference and its answer.
CREATE TABLE chat_inference (
    id uuid PRIMARY KEY,
    function_name text NOT NULL,
    variant_name text NOT NULL,
    episode_id uuid NOT NULL,
    input jsonb NOT NULL,
    output jsonb NOT NULL,
    inference_params jsonb NOT NULL DEFAULT '{}',
    tags jsonb NOT NULL DEFAULT '{}',
    processing_time_ms integer,
    timestamp timestamptz NOT NULL
);
CREATE INDEX chat_inference_function_variant_idx ON chat_inference (function_name, variant_name);
CREATE INDEX chat_inference_episode_idx ON chat_inference (episode_id);
CREATE INDEX chat_inference_timestamp_idx ON chat_inference (timestamp DESC);
CREATE INDEX chat_inference_tags_idx ON chat_inference USING gin (tags);

-- What was sent to the model and what came back.
CREATE TABLE model_inference (
    id uuid PRIMARY KEY,
    inference_id uuid NOT NULL,
    raw_request text NOT NULL,
    raw_response text NOT NULL,
    model_name text NOT NULL,
    model_provider_name text NOT NULL,
    input_tokens integer,
    output_tokens integer,
    response_time_ms integer,
    input_messages jsonb NOT NULL,
    output jsonb NOT NULL,
    timestamp timestamptz NOT NULL
);
CREATE INDEX model_inference_inference_idx ON model_inference (inference_id);
CREATE INDEX model_inference_model_provider_idx ON model_inference (model_name, model_provider_name);
CREATE INDEX model_inference_timestamp_idx ON model_inference (timestamp DESC);

-- Rate limits: ten hot rows, each locked until its transaction commits.
CREATE TABLE resource_bucket (
    key text PRIMARY KEY,
    tickets bigint NOT NULL,
    balance_as_of timestamptz NOT NULL
);

-- Experimentation: the variant of an episode.
CREATE TABLE variant_by_episode (
    function_name text NOT NULL,
    episode_id uuid NOT NULL,
    variant_name text NOT NULL,
    PRIMARY KEY (function_name, episode_id)
);

-- Random text from which --server-side-data cuts its documents. load_test fills the table when needed.
CREATE TABLE loadtest_payload_pool (
    seed bigint NOT NULL,
    length integer NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (seed, length)
);
-- Uncompressed and out of line, so that reading a slice does not read the whole value.
ALTER TABLE loadtest_payload_pool ALTER COLUMN body SET STORAGE EXTERNAL;

COMMENT ON TABLE chat_inference IS 'postgres_load_test: schema 1, logged; emptied at the start of every run';
COMMENT ON TABLE model_inference IS 'postgres_load_test: schema 1, logged; emptied at the start of every run';
COMMENT ON TABLE resource_bucket IS 'postgres_load_test: schema 1, logged; emptied at the start of every run';
COMMENT ON TABLE variant_by_episode IS 'postgres_load_test: schema 1, logged; emptied at the start of every run';
COMMENT ON TABLE loadtest_payload_pool IS 'postgres_load_test: schema 1; random text for --server-side-data';

-- Empties the four tables, unless a load test is using them:  SELECT reset_loadtest_tables();
CREATE OR REPLACE FUNCTION reset_loadtest_tables() RETURNS void LANGUAGE plpgsql AS $reset$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['chat_inference', 'model_inference', 'resource_bucket', 'variant_by_episode']
    LOOP
        IF coalesce(obj_description(to_regclass(wanted), 'pg_class'), '') NOT LIKE 'postgres_load_test:%' THEN
            RAISE EXCEPTION 'table % was not made by postgres_load_test; nothing was emptied', wanted;
        END IF;
    END LOOP;
    IF EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid::bigint = (
                SELECT 1342177280 # relnamespace::bigint FROM pg_class WHERE oid = to_regclass('chat_inference')
            )
    ) THEN
        RAISE EXCEPTION 'a load test uses these tables; nothing was emptied'
            USING HINT = 'Wait until it has ended. pg_locks shows the advisory lock of its session.';
    END IF;
    TRUNCATE chat_inference, model_inference, resource_bucket, variant_by_episode;
END
$reset$;

COMMIT;
