-- Tables of postgres_load_test, UNLOGGED: faster, and empty again after a crash of the server. They show what the
-- server can take without its write-ahead log; for figures that hold for durable data use schema.sql.
--
--   psql "$POSTGRES_URL" -f schema_unlogged.sql
--
-- Needs no superuser: the right to create tables in the current schema is enough. It may be run again at any
-- time; the tables are then made anew and are empty. Everything happens in one transaction: all or nothing.
--
-- Every table made here carries a comment that begins with "postgres_load_test:". Only tables with that mark are
-- ever dropped or emptied. Where a table of the same name exists without it, this file stops and changes nothing.

BEGIN;

SET LOCAL client_min_messages = warning;

DO $guard$
DECLARE
    wanted text;
    found regclass;
    ours regclass[] := '{}';
    foreign_tables text[] := '{}';
BEGIN
    -- Two machines that set up the same database at once take turns.
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
            USING HINT = 'Give load tests a database of their own, for example: CREATE DATABASE tensorzero_loadtest;';
    END IF;
    FOREACH found IN ARRAY ours LOOP
        EXECUTE format('DROP TABLE %s', found);
    END LOOP;
END
$guard$;

-- What an inference was asked and what it answered.
CREATE UNLOGGED TABLE chat_inference (
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
CREATE INDEX chat_inference_timestamp_idx ON chat_inference (timestamp DESC);

-- What the model was sent and what it sent back.
CREATE UNLOGGED TABLE model_inference (
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
CREATE INDEX model_inference_timestamp_idx ON model_inference (timestamp DESC);

-- Rate limits: ten hot rows, each locked until its transaction commits.
CREATE UNLOGGED TABLE resource_bucket (
    key text PRIMARY KEY,
    tickets bigint NOT NULL,
    balance_as_of timestamptz NOT NULL
);

-- Experiments: which variant an episode was given.
CREATE UNLOGGED TABLE variant_by_episode (
    function_name text NOT NULL,
    episode_id uuid NOT NULL,
    variant_name text NOT NULL,
    PRIMARY KEY (function_name, episode_id)
);

-- Random text from which --server-side-data cuts its documents; filled by load_test when it needs it.
CREATE TABLE loadtest_payload_pool (
    seed bigint NOT NULL,
    length integer NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (seed, length)
);
-- Uncompressed and out of line, so that a slice is read without reading the whole.
ALTER TABLE loadtest_payload_pool ALTER COLUMN body SET STORAGE EXTERNAL;

COMMENT ON TABLE chat_inference IS 'postgres_load_test: schema 1, unlogged; emptied at the start of every run';
COMMENT ON TABLE model_inference IS 'postgres_load_test: schema 1, unlogged; emptied at the start of every run';
COMMENT ON TABLE resource_bucket IS 'postgres_load_test: schema 1, unlogged; emptied at the start of every run';
COMMENT ON TABLE variant_by_episode IS 'postgres_load_test: schema 1, unlogged; emptied at the start of every run';
COMMENT ON TABLE loadtest_payload_pool IS 'postgres_load_test: schema 1; random text for --server-side-data';

-- Empties the four tables:  SELECT reset_loadtest_tables();
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
    TRUNCATE chat_inference, model_inference, resource_bucket, variant_by_episode;
END
$reset$;

COMMIT;
