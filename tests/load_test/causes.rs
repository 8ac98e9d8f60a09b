//! Refusals that name the cause: of sessions that cannot write, of databases that cannot be made, of foreign tables; and
//! causes of several lines.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::TestServer;
use crate::tool::{Ran, SMALL, command, rows, run, run_on, server_with_tables};

fn as_role(server: &TestServer, role: &str, arguments: &[&str]) -> Ran {
    let url = server.url().replace("//postgres", &format!("//{role}"));
    run(&[&["--json-output", "--postgres-url", &url], &SMALL[..], arguments].concat())
}

#[test]
fn a_session_that_cannot_write_is_refused_with_the_setting_that_says_so() {
    let mut server = server_with_tables();
    server.psql("INSERT INTO variant_by_episode VALUES ('f', gen_random_uuid(), 'v')");
    server.psql("CREATE ROLE reader SUPERUSER LOGIN; ALTER ROLE reader SET default_transaction_read_only = on");
    server.psql(
        "CREATE ROLE here SUPERUSER LOGIN; ALTER ROLE here IN DATABASE postgres SET default_transaction_read_only = on",
    );
    server.create_database("readonly");
    server.psql("ALTER DATABASE readonly SET default_transaction_read_only = on");
    for more in
        [&["--duration", "1"][..], &["--duration", "1", "--no-reset"], &["--duration", "0", "--setup", "unlogged"]]
    {
        let refused = as_role(&server, "reader", more);
        let refused =
            refused.expect_refusal(3, &["for the role reader", "ALTER ROLE reader RESET default_transaction"]);
        assert!(!refused.stderr.contains("standby"), "{}", refused.stderr);
        as_role(&server, "here", more).expect_refusal(3, &["ALTER ROLE here IN DATABASE postgres RESET"]);
        let options = format!("{}?options=-c%20default_transaction_read_only%3Don", server.url());
        run(&[&["--postgres-url", &options], more].concat()).expect_refusal(3, &["by options in --postgres-url"]);
        run(&[&["--postgres-url", &server.url_of("readonly")], more].concat())
            .expect_refusal(3, &["for the database readonly", "ALTER DATABASE readonly RESET"]);
    }
    // A database that would have to be made.
    as_role(&server, "reader", &["--setup", "--duration", "0"]).expect(3);
    let missing = server.url_of("missing").replace("//postgres", "//reader");
    run(&["--postgres-url", &missing, "--setup", "--duration", "0"])
        .expect_refusal(3, &["for the role reader", "default_transaction_read_only"]);
    assert_eq!(rows(&server, "variant_by_episode"), 1, "nothing was emptied");

    server.psql("ALTER SYSTEM SET default_transaction_read_only = on");
    server.psql("SELECT pg_reload_conf()");
    crate::tool::wait_until("the setting is read", || server.psql("SHOW default_transaction_read_only") == "on");
    run_on(&server, &["--duration", "1", "--no-reset"]).expect_refusal(3, &["for the whole server"]);

    std::fs::write(server.server().data_dir().join("standby.signal"), "").unwrap();
    server.start_again();
    let refused = run_on(&server, &["--duration", "1", "--no-reset"]);
    let refused = refused.expect_refusal(3, &["is a standby", "primary"]);
    assert!(!refused.stderr.contains("default_transaction_read_only"), "{}", refused.stderr);
}

#[test]
fn a_database_is_made_from_template1_where_postgres_lets_nobody_in() {
    let server = TestServer::start();
    server.psql("CREATE ROLE maker LOGIN CREATEDB; REVOKE CONNECT ON DATABASE postgres FROM PUBLIC");
    let url = server.url_of("made").replace("//postgres", "//maker");
    let set_up = || run(&["--setup", "--duration", "0", "--postgres-url", &url]);
    server.psql("REVOKE CONNECT ON DATABASE template1 FROM PUBLIC");
    set_up().expect_refusal(3, &["into the database postgres", "into the database template1", "createdb made"]);
    server.psql("GRANT CONNECT ON DATABASE template1 TO PUBLIC");
    set_up().expect(0);
    assert_eq!(server.psql_in("made", "SELECT count(*) FROM chat_inference"), "0");
}

#[test]
fn foreign_tables_are_told_with_their_rows_and_the_sql_that_drops_them() {
    let server = TestServer::start();
    server.psql(
        "CREATE SCHEMA \"Odd\"; CREATE TABLE chat_inference (id int); CREATE TABLE \"Odd\".resource_bucket (id int)",
    );
    server.psql("ALTER ROLE postgres SET search_path = public, \"Odd\"");
    server.psql("INSERT INTO chat_inference SELECT generate_series(1, 12000)");
    let refused = run_on(&server, &["--setup", "--duration", "0"]);
    let sql = "DROP TABLE public.chat_inference, \"Odd\".resource_bucket";
    let refused = refused.expect_refusal(3, &["resource_bucket has no rows", "TensorZero's own", sql]);
    assert!(refused.stderr.contains("public.chat_inference has more than 10,000 rows"), "{}", refused.stderr);
    server.psql("ANALYZE chat_inference");
    run_on(&server, &["--duration", "1"]).expect_refusal(3, &["public.chat_inference has about 12,000 rows", sql]);
    server.psql(sql);
    run_on(&server, &["--setup", "--duration", "0"]).expect(0);
    // A view is not dropped by DROP TABLE, and is nobody's load test.
    server.psql("DROP TABLE resource_bucket; CREATE VIEW resource_bucket AS SELECT 1");
    let refused = run_on(&server, &["--duration", "1"]).expect_refusal(3, &["resource_bucket", "Give the load test"]);
    assert!(!refused.stderr.contains("DROP"), "{}", refused.stderr);
}

#[test]
fn the_lines_of_a_cause_stay_lines() {
    let server = server_with_tables();
    server.psql("CREATE VIEW dependent AS SELECT id FROM chat_inference");
    let refused = run_on(&server, &["--setup", "unlogged", "--duration", "0"]);
    let refused = refused.expect_refusal(3, &["\n  DETAIL: view dependent depends", "\n  HINT: Use DROP"]);
    assert!(!refused.stderr.contains("\\n"), "{}", refused.stderr);
    // A setting that the server refuses is not its log's affair.
    let url = format!("{}?options=-c%20work_mem%3D1parsec", server.url());
    run(&["--postgres-url", &url, "--duration", "1"])
        .expect_refusal(3, &["invalid value for parameter \"work_mem\"", "correct options", "\n  HINT: Valid units"]);
}

fn program(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
    std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_log_of_initdb_stays_lines_and_steers_no_terminal() {
    let folder = tempfile::Builder::new().prefix("plt").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Newer than any, so that it is the one that is used.
    program(folder.path(), "postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 99.1'\n");
    program(folder.path(), "initdb", "#!/bin/sh\nprintf 'one\\n\\033[31mtwo\\n'\nexit 1\n");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let ran = Ran::from(command(&["--ephemeral", "--duration", "1"]).env("PATH", path).output().unwrap());
    ran.expect_refusal(3, &["initdb failed (exit status: 1); its last lines:\n  one\n  \\u{1b}[31mtwo\n"]);
}

#[test]
fn a_throwaway_server_needs_no_path() {
    for path in [Some(""), None] {
        let mut command = command(&["--ephemeral", "--rps", "20", "--duration", "1"]);
        command.args(SMALL).env_remove("PATH").envs(path.map(|path| ("PATH", path)));
        let ran = Ran::from(command.output().unwrap());
        match ran.code {
            Some(0 | 1) => {}
            // PostgreSQL in a place of its own.
            _ => _ = ran.expect_refusal(3, &["postgres and initdb", "usual places"]),
        }
    }
}

#[test]
fn a_cause_stands_once() {
    let refused = run(&["--output", "/nonexistent/x", "--postgres-url", "postgres://127.0.0.1:1/d"]);
    let refused = refused.expect_refusal(3, &["--output", "No such file"]);
    assert_eq!(refused.stderr.matches("No such file").count(), 1, "{}", refused.stderr);
}
