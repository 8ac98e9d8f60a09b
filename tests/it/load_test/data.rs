//! What the rows contain: sizes, compressibility, ids; client-side and server-side.

use crate::harness::{TestServer, count};

/// A run with documents of this size. Returns how many requests were written.
fn write(server: &TestServer, kb: &str, more: &[&str]) -> u64 {
    let arguments =
        ["--rps", "10", "--duration", "1", "--workers", "8", "--input-size-kb", "1", "--output-size-kb", kb];
    let arguments = [&arguments[..], &["--raw-response-size-kb", kb], more].concat();
    count(&server.load(&arguments).run().expect_measured().json(), "ok")
}

/// The mean of an expression over the rows.
fn mean(server: &TestServer, expression: &str, table: &str) -> f64 {
    server.sql(&format!("SELECT avg({expression}) FROM {table}")).parse().unwrap()
}

fn within(found: f64, wanted: f64, part: f64) -> bool {
    (found / wanted - 1.0).abs() <= part
}

const COLUMNS: [(&str, &str); 4] = [
    ("input", "chat_inference"),
    ("output", "chat_inference"),
    ("raw_request", "model_inference"),
    ("raw_response", "model_inference"),
];

#[test]
fn documents_have_the_asked_sizes_and_do_not_compress() {
    let server = TestServer::with_tables();
    for (kb, bytes) in [("1", 1_024.0), ("10", 10_240.0), ("1024", 1_048_576.0)] {
        write(&server, kb, &[]);
        // jsonb puts a space behind each colon and comma when it prints.
        let printed = mean(&server, "octet_length(output::text)", "chat_inference");
        assert!(within(printed, bytes, 0.01), "output of {kb} KB has {printed} bytes");
        let raw = mean(&server, "octet_length(raw_response)", "model_inference");
        assert!(within(raw, bytes, 0.0001), "raw_response of {kb} KB has {raw} bytes");
        let stored = mean(&server, "pg_column_size(raw_response)", "model_inference");
        assert!(within(stored, bytes, 0.05), "raw_response of {kb} KB is stored in {stored} bytes");
    }
}

#[test]
fn data_made_in_sql_is_the_data_that_the_client_would_send() {
    let server = TestServer::with_tables();
    let digest = "SELECT md5(string_agg(md5(c.output::text || c.input::text || m.raw_request || m.raw_response \
                  || c.function_name || c.variant_name), '' ORDER BY md5(c.output::text))) \
                  FROM chat_inference c JOIN model_inference m ON m.inference_id = c.id";
    for kb in ["10", "1024"] {
        let measure = |more: &[&str]| {
            write(&server, kb, more);
            let sizes = COLUMNS.map(|(column, table)| mean(&server, &format!("pg_column_size({column})"), table));
            (sizes, server.sql(digest))
        };
        let ((sent, sent_digest), (made, made_digest)) = (measure(&[]), measure(&["--server-side-data"]));
        for (at, (column, _)) in COLUMNS.iter().enumerate() {
            assert!(within(made[at], sent[at], 0.10), "{column} at {kb} KB: {} instead of {}", made[at], sent[at]);
        }
        assert_eq!(sent_digest, made_digest, "{kb} KB");
    }
}

#[test]
fn server_side_data_sends_little() {
    let server = TestServer::with_tables();
    let ok = write(&server, "1024", &["--server-side-data", "--rps", "20"]);
    // 20 requests of 2 MB would be 40 MB; the pool is uploaded once and is 2 MB.
    let pool: u64 = server.sql("SELECT sum(length(body)) FROM loadtest_payload_pool").parse().unwrap();
    assert!(pool < 3 << 20, "{pool}");
    assert_eq!(server.rows("chat_inference"), ok);
    assert_eq!(server.sql("SELECT count(*) FROM loadtest_payload_pool"), "1");
    // A second run finds it there.
    write(&server, "1024", &["--server-side-data"]);
    assert_eq!(server.sql("SELECT count(*) FROM loadtest_payload_pool"), "1");
}

#[test]
fn columns_hold_what_the_workload_says() {
    let server = TestServer::with_tables();
    for more in [&[][..], &["--server-side-data"]] {
        // A busy machine may not write all of them.
        let ok = &write(&server, "2", &[&["--rps", "300"], more].concat()).to_string();
        for (expected, sql) in [
            (
                "7",
                "SELECT string_agg(DISTINCT substr(id::text, 15, 1), ',') FROM (SELECT id FROM chat_inference \
                 UNION SELECT id FROM model_inference UNION SELECT episode_id FROM chat_inference) ids",
            ),
            ("10", "SELECT count(DISTINCT function_name) FROM chat_inference"),
            ("5", "SELECT count(DISTINCT variant_name) FROM chat_inference"),
            ("6", "SELECT count(DISTINCT model_name) FROM model_inference"),
            ("3", "SELECT count(DISTINCT model_provider_name) FROM model_inference"),
            ("10", "SELECT count(*) FROM resource_bucket WHERE key LIKE 'rate\\_limit:function\\_%'"),
            (ok, "SELECT count(*) FROM chat_inference c JOIN model_inference m ON m.inference_id = c.id"),
            (
                ok,
                "SELECT count(*) FROM chat_inference JOIN variant_by_episode USING (function_name, episode_id, variant_name)",
            ),
            (
                ok,
                "SELECT count(*) FROM chat_inference WHERE tags ?& '{env,user_id,request_id}' AND inference_params ?& '{temperature,max_tokens}'",
            ),
            (ok, "SELECT count(*) FROM chat_inference WHERE abs(extract(epoch FROM now() - timestamp)) < 600"),
        ] {
            assert_eq!(server.sql(sql), expected, "{more:?}: {sql}");
        }
    }
}
