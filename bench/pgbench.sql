-- The request of load_test as a script of pgbench. As it stands it is sequential; compare.py takes away the marks
-- "--joined:" or "--pipeline:" to get its other two shapes.

-- pgbench cannot make text. Each client fetches documents and then binds them as parameters, and fetches others every
-- fifty requests: how long the server tries to compress a document hangs on its first letters, so that the same one
-- all the time would make a run fast or slow by luck.
\set tick :tick + 1
\if :tick % 50 = 1
\set document random(1, :documents)
SELECT input, output, raw_request, raw_response, inference_params, tags, input_messages, model_output
FROM bench_documents WHERE number = :document \gset
\endif

-- Nor can it make UUIDs. A decimal number is a hexadecimal one too, so 16 digits that count up and 16 random ones make
-- one that, like version 7, goes to the right edge of its index.
\set inference random(1000000000000000, 9999999999999999)
\set episode random(1000000000000000, 9999999999999999)
\set model_inference random(1000000000000000, 9999999999999999)
\set function random(1, 10)
\set variant random(1, 5)
\set model random(1, 6)
\set provider random(1, 3)
\set processing_time random(100, 3000)
\set input_tokens random(100, 8000)
\set output_tokens random(50, 4000)
\set response_time random(200, 5000)

--pipeline:\startpipeline
--joined:\startpipeline
BEGIN;
INSERT INTO chat_inference (id, function_name, variant_name, episode_id, inference_params, tags, processing_time_ms,
                            timestamp, input, output)
VALUES (CAST(CAST(:tick AS text) || CAST(:inference AS text) AS uuid), 'function_' || CAST(:function AS text),
        'variant_' || CAST(:variant AS text), CAST(CAST(:tick AS text) || CAST(:episode AS text) AS uuid),
        :inference_params, :tags, :processing_time, now(), :input, :output);
--joined:\endpipeline
INSERT INTO model_inference (id, inference_id, model_name, model_provider_name, input_tokens, output_tokens,
                             response_time_ms, input_messages, output, timestamp, raw_request, raw_response)
VALUES (CAST(CAST(:tick AS text) || CAST(:model_inference AS text) AS uuid),
        CAST(CAST(:tick AS text) || CAST(:inference AS text) AS uuid), 'model-name-' || CAST(:model AS text),
        'provider-' || CAST(:provider AS text), :input_tokens, :output_tokens, :response_time, :input_messages,
        :model_output, now(), :raw_request, :raw_response);
-- pgbench takes a colon before a letter for a variable, even within quotes.
INSERT INTO resource_bucket AS bucket (key, tickets, balance_as_of)
VALUES ('rate_limit:' || 'function_' || CAST(:function AS text), 1000, now())
ON CONFLICT (key) DO UPDATE SET tickets = bucket.tickets - 1, balance_as_of = excluded.balance_as_of;
INSERT INTO variant_by_episode (function_name, episode_id, variant_name)
VALUES ('function_' || CAST(:function AS text), CAST(CAST(:tick AS text) || CAST(:episode AS text) AS uuid),
        'variant_' || CAST(:variant AS text))
ON CONFLICT (function_name, episode_id) DO UPDATE SET variant_name = excluded.variant_name;
COMMIT;
--pipeline:\endpipeline
