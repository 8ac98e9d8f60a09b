//! Rows that cannot be seen, or that somebody else took away, are no loss of the database.

use serde_json::Value;

use crate::harness::{TestServer, load_at, wait_until};

const LOAD: [&str; 5] = ["--verify", "--rps", "50", "--duration", "3"];

/// What a run says while which `sql` is done.
#[track_caller]
fn during(server: &TestServer, url: &str, sql: &str) -> Value {
    // What was left by the run before.
    server.sql("SELECT reset_loadtest_tables()");
    let started = load_at(url, &LOAD).start();
    wait_until("rows appear", || server.rows("chat_inference") > 20);
    server.sql(sql);
    let json = started.finish().expect(1).json();
    assert_ne!(json["status"], "LOST WRITES", "{sql}: {} {}", json["reason"], json["verification"]);
    json
}

#[track_caller]
fn assert_unverified(json: &Value, part: &str) {
    let found = &json["verification"];
    assert!(found["error"].as_str().is_some_and(|error| error.contains(part)), "{part:?} is missing from {found}");
    // Nothing that is counted wrongly stands in the result.
    assert_eq!((&found["tickets_taken"], found["tables"].as_array().map(Vec::len)), (&Value::Null, Some(0)), "{found}");
}

#[test]
fn tables_that_somebody_changes_during_the_run_are_not_verified() {
    let server = TestServer::with_tables();
    let all = "TRUNCATE chat_inference, model_inference, resource_bucket, variant_by_episode";
    let again = "BEGIN; CREATE TABLE copy (LIKE chat_inference INCLUDING ALL); DROP TABLE chat_inference; \
                 ALTER TABLE copy RENAME TO chat_inference; \
                 COMMENT ON TABLE chat_inference IS 'postgres_load_test: schema 1, logged'; COMMIT";
    for (sql, part) in [
        (all, "was emptied"),
        ("TRUNCATE resource_bucket", "resource_bucket was emptied"),
        ("DELETE FROM chat_inference WHERE variant_name = 'variant_1'", "rows of chat_inference were deleted"),
        ("UPDATE model_inference SET id = gen_random_uuid()", "rows of model_inference were deleted or changed"),
        (again, "chat_inference is another table"),
    ] {
        assert_unverified(&during(&server, &server.url(), sql), part);
    }
    // Too many tickets can only be somebody else's.
    let more = "UPDATE resource_bucket SET tickets = tickets - 7 WHERE key = (SELECT min(key) FROM resource_bucket)";
    let json = during(&server, &server.url(), more);
    assert_eq!(json["verification"]["error"], Value::Null);
    assert_eq!(json["verification"]["tickets_taken"], 157, "{}", json["verification"]);
    if json["status"] == "FAILED" {
        assert!(json["reason"].as_str().unwrap().contains("somebody else wrote resource_bucket"), "{}", json["reason"]);
    }
}

#[test]
fn rows_that_go_elsewhere_are_no_loss() {
    let server = TestServer::with_tables();
    server.sql("CREATE TABLE elsewhere (LIKE chat_inference)");
    server.sql("CREATE RULE away AS ON INSERT TO chat_inference DO INSTEAD INSERT INTO elsewhere VALUES (NEW.*)");
    let json = server.load(&LOAD).run().expect(1).json();
    assert_unverified(&json, "only 0 rows inserted into chat_inference");
}

#[test]
fn row_security_is_told_before_the_load_and_during_it_is_no_loss() {
    let server = TestServer::with_tables();
    server.sql("CREATE ROLE blind LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO blind");
    server.sql("CREATE POLICY insert_only ON chat_inference FOR INSERT WITH CHECK (true)");
    let url = server.url().replace("//postgres", "//blind");
    let switch = |to: &str| server.sql(&format!("ALTER TABLE chat_inference {to} ROW LEVEL SECURITY"));
    let enable = "ALTER TABLE chat_inference ENABLE ROW LEVEL SECURITY";
    assert_unverified(&during(&server, &url, enable), "row security hides rows of chat_inference");
    let kept = server.rows("chat_inference");
    load_at(&url, &LOAD)
        .run()
        .expect_refusal(3, &["row security is active on chat_inference", "BYPASSRLS", "--verify"]);
    assert_eq!(server.rows("chat_inference"), kept);
    // Nobody asks for the rows, or the role may see them.
    load_at(&url, &LOAD[1..]).run().expect_measured();
    server.sql("ALTER ROLE blind BYPASSRLS");
    assert_eq!(load_at(&url, &LOAD).run().expect_measured().json()["verification"]["error"], Value::Null);
    server.sql("ALTER ROLE blind NOBYPASSRLS");
    // With row_security=off it is an error to ask.
    switch("DISABLE");
    let off = format!("{url}?options=-crow_security%3Doff");
    assert_unverified(&during(&server, &off, enable), "row-level security policy");
    switch("DISABLE");
    // A right that is taken away, and a view that comes first.
    assert_unverified(&during(&server, &url, "REVOKE SELECT ON model_inference FROM blind"), "permission denied");
    server.sql("GRANT SELECT ON model_inference TO blind");
    let first = "CREATE SCHEMA first; CREATE VIEW first.chat_inference AS SELECT * FROM public.chat_inference LIMIT 0; \
                 GRANT USAGE ON SCHEMA first TO blind; GRANT SELECT ON first.chat_inference TO blind; \
                 ALTER ROLE blind SET search_path = first, public";
    assert_unverified(&during(&server, &url, first), "search_path has changed");
}
