//! `role.sql`: a role that runs load tests with exactly what it is given, and can do nothing else.

use crate::harness::{Ran, TestServer, all_written, load_at, psql, wait_until};

/// As psql runs the file; the server's account may not read this folder.
fn role_sql(server: &TestServer, variables: &[&str]) -> Ran {
    let mut psql = psql();
    psql.args(["-X", "-q", "-d", &url(server, "owner"), "-f", "-"]);
    variables.iter().for_each(|variable| _ = psql.args(["-v", variable]));
    psql.input(include_str!("../../../role.sql")).run()
}

#[track_caller]
fn grant(server: &TestServer, variables: &[&str]) {
    let ran = role_sql(server, variables).expect(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
}

fn url(server: &TestServer, role: &str) -> String {
    server.url_of("load").replace("//postgres", &format!("//{role}"))
}

fn run_as(server: &TestServer, role: &str, arguments: &[&str]) -> Ran {
    load_at(&url(server, role), arguments).run()
}

/// A server whose tables belong to `owner`, who may make roles but is no superuser.
fn server_with_owner() -> TestServer {
    let server = TestServer::setup().set("max_connections", "50").start();
    server.sql("CREATE ROLE owner LOGIN CREATEROLE");
    server.sql("CREATE DATABASE load OWNER owner");
    run_as(&server, "owner", &["--setup", "--duration", "0"]).expect(0);
    server.sql_in("load", "CREATE TABLE secrets (text text); INSERT INTO secrets VALUES ('precious')");
    server
}

/// What psql says to `sql` as this role.
fn try_as(server: &TestServer, role: &str, sql: &str) -> (bool, String) {
    let ran = server.psql(&url(server, role)).args(["-c", sql]).run();
    (ran.code == Some(0), ran.stderr)
}

#[test]
fn it_runs_every_kind_of_test_on_tables_of_somebody_else() {
    let server = server_with_owner();
    // Before, it can do nothing; role.sql gives it all, and more than once.
    grant(&server, &["role=runner"]);
    grant(&server, &["role=runner"]);
    for more in [
        &[][..],
        &["--pipeline"],
        &["--no-prepared-statements"],
        &["--server-side-data"],
        &["--server-side-data", "--seed", "2"],
        &["--no-reset"],
        &["--verify"],
        // Tables that fit are left alone, so nothing is made.
        &["--setup"],
    ] {
        let no_reset = more.contains(&"--no-reset");
        let before = server.sql_in("load", "SELECT count(*) FROM chat_inference");
        let arguments = [&["--rps", "50", "--duration", "1"], more].concat();
        let json = run_as(&server, "runner", &arguments).expect_measured().json();
        let ok = all_written(&json, 50);
        if more.contains(&"--verify") {
            let found = &json["verification"];
            assert_eq!((&found["error"], &found["tickets_taken"]), (&serde_json::Value::Null, &ok.into()), "{found}");
        }
        let kept = if no_reset { before.parse::<u64>().unwrap() } else { 0 };
        let after: u64 = server.sql_in("load", "SELECT count(*) FROM chat_inference").parse().unwrap();
        assert_eq!(after, kept + ok, "{more:?}");
    }
    let (done, error) = try_as(&server, "runner", "SELECT reset_loadtest_tables()");
    assert!(done, "{error}");
    assert_eq!(server.sql_in("load", "SELECT count(*) FROM model_inference"), "0");
}

#[test]
fn it_can_do_nothing_else() {
    let server = server_with_owner();
    grant(&server, &["role=runner"]);
    let json = run_as(&server, "runner", &["--rps", "20", "--duration", "1"]).expect_measured().json();
    let ok = all_written(&json, 20).to_string();
    for sql in [
        "SELECT * FROM secrets",
        "INSERT INTO secrets VALUES ('x')",
        "TRUNCATE secrets",
        "SELECT output FROM chat_inference",
        "SELECT tags FROM chat_inference",
        "SELECT raw_response FROM model_inference",
        "UPDATE chat_inference SET tags = '{}'",
        "UPDATE resource_bucket SET key = 'x'",
        "UPDATE variant_by_episode SET function_name = 'x'",
        "UPDATE loadtest_payload_pool SET body = ''",
        "TRUNCATE loadtest_payload_pool",
        "DELETE FROM chat_inference",
        "DELETE FROM model_inference",
        "DELETE FROM resource_bucket",
        "DELETE FROM variant_by_episode",
        "DROP TABLE chat_inference",
        "ALTER TABLE chat_inference ADD COLUMN x int",
        "COMMENT ON TABLE chat_inference IS NULL",
        "CREATE INDEX ON chat_inference (id)",
        "CREATE TRIGGER t BEFORE INSERT ON chat_inference EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE TABLE x (x int)",
        "CREATE TEMPORARY TABLE x (x int)",
        "CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION reset_loadtest_tables() RETURNS void LANGUAGE sql AS ''",
        "CREATE SCHEMA x",
        "CREATE DATABASE x",
        "CREATE ROLE x",
        "SET ROLE owner",
        "SET ROLE postgres",
        "GRANT SELECT ON chat_inference TO PUBLIC; SELECT output FROM chat_inference",
        "SELECT rolpassword FROM pg_authid",
        "COPY (SELECT 1) TO '/tmp/postgres_load_test-role'",
        "COPY resource_bucket FROM PROGRAM 'true'",
        "SELECT pg_read_file('postgresql.conf')",
        "ALTER SYSTEM SET fsync = off",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'; SELECT 1 / 0",
    ] {
        let (done, error) = try_as(&server, "runner", sql);
        let refused = ["permission denied", "must be owner", "must be superuser", "denied", "only roles"];
        assert!(!done, "{sql} was done");
        let by_zero = sql.ends_with("1 / 0");
        assert!(by_zero || refused.iter().any(|word| error.contains(word)), "{sql}: {error}");
    }
    assert_eq!(server.sql_in("load", "SELECT text FROM secrets"), "precious");
    // The other kind of tables would have to be made.
    run_as(&server, "runner", &["--setup", "unlogged", "--duration", "0"])
        .expect_refusal(3, &["role", "must be owner"]);
    assert_eq!(server.sql_in("load", "SELECT count(*) FROM chat_inference"), ok);
}

#[test]
fn without_the_right_to_empty_the_tables_it_runs_without_emptying_them() {
    let server = server_with_owner();
    // What an earlier run of the file gave is taken back.
    grant(&server, &["role=runner"]);
    grant(&server, &["role=runner", "reset=no"]);
    run_as(&server, "runner", &["--duration", "60"])
        .expect_refusal(3, &["lacks rights", "TRUNCATE on chat_inference", "--no-reset"]);
    let json = run_as(&server, "runner", &["--no-reset", "--rps", "20", "--duration", "1"]).expect_measured().json();
    let ok = all_written(&json, 20);
    let (done, _) = try_as(&server, "runner", "SELECT reset_loadtest_tables()");
    assert!(!done);
    assert_eq!(server.sql_in("load", "SELECT count(*) FROM chat_inference"), ok.to_string());
}

#[test]
fn what_a_role_lacks_is_told_before_anything_is_emptied() {
    let server = server_with_owner();
    let json = run_as(&server, "owner", &["--rps", "20", "--duration", "1"]).expect_measured().json();
    let ok = all_written(&json, 20).to_string();
    server.sql("CREATE ROLE stranger LOGIN");
    let refused = |more: &[&str], parts: &[&str]| {
        run_as(&server, "stranger", &[&["--duration", "60"], more].concat()).expect_refusal(3, parts);
        assert_eq!(server.sql_in("load", "SELECT count(*) FROM chat_inference"), ok, "{parts:?}");
    };
    let in_public = "psql -v role=NAME -f role.sql";
    refused(&[], &["INSERT on chat_inference, model_inference", "TRUNCATE on", in_public]);
    refused(&["--no-reset"], &["SELECT on resource_bucket", "UPDATE on resource_bucket"]);
    let all = "chat_inference, model_inference, resource_bucket, variant_by_episode";
    server.sql_in("load", &format!("GRANT INSERT, TRUNCATE ON {all} TO stranger"));
    refused(&[], &["lacks rights that the run needs: SELECT on resource_bucket, variant_by_episode; UPDATE on"]);
    refused(
        &["--verify", "--no-rate-limiting", "--no-experimentation"],
        &["lacks rights that the run needs: SELECT on chat_inference, model_inference. Have"],
    );
    refused(&["--server-side-data", "--no-rate-limiting", "--no-experimentation"], &["loadtest_payload_pool"]);
    // What it can do with these rights is left to it.
    let inserts_alone = ["--no-rate-limiting", "--no-experimentation", "--rps", "20", "--duration", "1"];
    let json = run_as(&server, "stranger", &inserts_alone).expect_measured().json();
    all_written(&json, 20);
}

#[test]
fn a_right_that_is_taken_away_in_the_middle_fails_requests() {
    let server = server_with_owner();
    grant(&server, &["role=runner"]);
    let started = load_at(&url(&server, "runner"), &["--rps", "50", "--duration", "3"]).start();
    wait_until("rows", || server.sql_in("load", "SELECT count(*) > 5 FROM chat_inference") == "t");
    server.sql_in("load", "REVOKE INSERT ON model_inference FROM runner");
    let json = started.finish().expect(1).json();
    assert_eq!(json["errors"][0]["class"], "permission denied", "{}", json["errors"]);
    let ok: u64 = server.sql_in("load", "SELECT count(*) FROM chat_inference").parse().unwrap();
    assert_eq!(json["accounting"]["ok"], ok);
}

#[test]
fn the_file_gives_nothing_on_tables_of_others() {
    let server = server_with_owner();
    server.sql_in("load", "COMMENT ON TABLE resource_bucket IS NULL");
    let ran = role_sql(&server, &["role=runner"]);
    let error = &ran.stderr;
    assert!(ran.code != Some(0) && error.contains("resource_bucket") && error.contains("--setup"), "{error}");
    assert_eq!(server.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'runner'"), "0");
    let ran = role_sql(&server, &[]);
    let error = &ran.stderr;
    assert!(ran.code != Some(0) && error.contains("psql -v role=NAME"), "{error}");
}

#[test]
fn names_that_need_quotes_are_names() {
    let server = server_with_owner();
    grant(&server, &["role=it's a \"role\""]);
    assert_eq!(server.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'it''s a \"role\"'"), "1");
    let granted = "SELECT has_table_privilege('it''s a \"role\"', 'chat_inference', 'INSERT')";
    assert_eq!(server.sql_in("load", granted), "t");
}

/// One connection at a time is enough for one worker, and no phase needs one more than there are workers.
#[test]
fn a_role_may_have_as_few_connections_as_there_are_workers() {
    let server = server_with_owner();
    grant(&server, &["role=runner"]);
    let limit = |connections: u32| _ = server.sql(&format!("ALTER ROLE runner CONNECTION LIMIT {connections}"));
    let load = ["--rps", "20", "--duration", "1", "--verify"];
    let modes: [&[&str]; 5] =
        [&[], &["--pipeline"], &["--no-prepared-statements"], &["--server-side-data"], &["--statement-timeout", "9s"]];
    for (connections, more) in [1, 1, 1, 1, 3].into_iter().zip(modes) {
        limit(connections);
        let workers = connections.to_string();
        let arguments = [&load[..], &["--workers", &workers], more].concat();
        let json = run_as(&server, "runner", &arguments).expect_measured().json();
        all_written(&json, 20);
        assert_eq!((&json["verification"]["error"], &json["reconnects"]), (&serde_json::Value::Null, &0.into()));
    }
    // Fewer are told, and fewer workers are the remedy only where there are several.
    let refused = |workers: &str| run_as(&server, "runner", &[&load[..], &["--workers", workers]].concat());
    refused("4").expect_refusal(3, &["no connection left", "CONNECTION LIMIT", "lower --workers: there are 4"]);
    limit(0);
    let ran = refused("1").expect_refusal(3, &["no connection left", "CONNECTION LIMIT"]);
    assert!(!ran.stderr.contains("lower --workers"), "{}", ran.stderr);
}

/// All that the server leaves to those who are no superusers.
#[test]
fn as_many_workers_as_the_server_has_connections_are_served() {
    let server = server_with_owner();
    grant(&server, &["role=runner"]);
    let free = server
        .sql("SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int");
    server.end_session();
    let load = ["--rps", "20", "--duration", "1", "--verify", "--workers", &free];
    let json = run_as(&server, "runner", &load).expect_measured().json();
    all_written(&json, 20);
    assert_eq!((&json["verification"]["error"], &json["reconnects"]), (&serde_json::Value::Null, &0.into()));
}
