-- The same four writes and COMMIT without any client: what the server alone can do.
CREATE PROCEDURE bench_ceiling(seconds double precision, INOUT done bigint) LANGUAGE plpgsql AS $ceiling$
DECLARE
    ends timestamptz := clock_timestamp() + make_interval(secs => seconds);
    input text; output text; raw_request text; raw_response text;
    inference_params text; tags text; input_messages text; model_output text;
    tick text; inference uuid; episode uuid; function_name text; variant_name text;
BEGIN
    done := 0;
    WHILE clock_timestamp() < ends LOOP
        -- As in pgbench.sql. Concatenation leaves flat values; else each round would read them from TOAST again.
        IF done % 50 = 0 THEN
            SELECT d.input || '', d.output || '', d.raw_request || '', d.raw_response || '', d.inference_params || '',
                   d.tags || '', d.input_messages || '', d.model_output || ''
            INTO input, output, raw_request, raw_response, inference_params, tags, input_messages, model_output
            FROM bench_documents AS d
            WHERE d.number = (SELECT 1 + floor(random() * count(*)) FROM bench_documents);
        END IF;
        tick := 1000000000000000 + done;
        inference := tick || floor(1e15 + random() * 9e15)::bigint;
        episode := tick || floor(1e15 + random() * 9e15)::bigint;
        function_name := 'function_' || 1 + floor(random() * 10)::integer;
        variant_name := 'variant_' || 1 + floor(random() * 5)::integer;
        -- Documents are cast in every round, because a server that gets them from a client parses them too.
        INSERT INTO chat_inference VALUES (inference, function_name, variant_name, episode, input::jsonb,
            output::jsonb, inference_params::jsonb, tags::jsonb, 100 + floor(random() * 2900)::integer, now());
        INSERT INTO model_inference VALUES ((tick || floor(1e15 + random() * 9e15)::bigint)::uuid, inference,
            raw_request, raw_response, 'model-name-' || floor(random() * 6)::integer,
            'provider-' || floor(random() * 3)::integer, 100 + floor(random() * 7900)::integer,
            50 + floor(random() * 3950)::integer, 200 + floor(random() * 4800)::integer, input_messages::jsonb,
            model_output::jsonb, now());
        INSERT INTO resource_bucket AS bucket VALUES ('rate_limit:' || function_name, 1000, now())
            ON CONFLICT (key) DO UPDATE SET tickets = bucket.tickets - 1, balance_as_of = excluded.balance_as_of;
        INSERT INTO variant_by_episode AS v VALUES (function_name, episode, variant_name)
            ON CONFLICT ON CONSTRAINT variant_by_episode_pkey DO UPDATE SET variant_name = excluded.variant_name;
        COMMIT;
        done := done + 1;
    END LOOP;
END
$ceiling$;
