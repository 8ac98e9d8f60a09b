//! Refusals that name the cause: of sessions that cannot write, of databases that cannot be made, of foreign tables; and
//! causes of several lines.

use crate::harness::{Ran, SMALL, TestServer, load_at, load_test, public_folder, wait_until, write_script};

fn as_role(server: &TestServer, role: &str, arguments: &[&str]) -> Ran {
    load_at(&server.url().replace("//postgres", &format!("//{role}")), arguments).run()
}

#[test]
fn a_session_that_cannot_write_is_refused_with_the_setting_that_says_so() {
    let mut server = TestServer::with_tables();
    server.sql("INSERT INTO variant_by_episode VALUES ('f', gen_random_uuid(), 'v')");
    server.sql("CREATE ROLE reader SUPERUSER LOGIN; ALTER ROLE reader SET default_transaction_read_only = on");
    server.sql(
        "CREATE ROLE here SUPERUSER LOGIN; ALTER ROLE here IN DATABASE postgres SET default_transaction_read_only = on",
    );
    server.create_database("readonly");
    server.sql("ALTER DATABASE readonly SET default_transaction_read_only = on");
    for more in
        [&["--duration", "1"][..], &["--duration", "1", "--no-reset"], &["--duration", "0", "--setup", "unlogged"]]
    {
        let refused = as_role(&server, "reader", more);
        let refused =
            refused.expect_refusal(3, &["for the role reader", "ALTER ROLE reader RESET default_transaction"]);
        assert!(!refused.stderr.contains("standby"), "{}", refused.stderr);
        as_role(&server, "here", more).expect_refusal(3, &["ALTER ROLE here IN DATABASE postgres RESET"]);
        let options = format!("{}?options=-c%20default_transaction_read_only%3Don", server.url());
        load_test(&[&["--postgres-url", &options], more].concat())
            .run()
            .expect_refusal(3, &["by options in --postgres-url"]);
        load_test(&[&["--postgres-url", &server.url_of("readonly")], more].concat())
            .run()
            .expect_refusal(3, &["for the database readonly", "ALTER DATABASE readonly RESET"]);
    }
    // A database that would have to be made.
    as_role(&server, "reader", &["--setup", "--duration", "0"]).expect(3);
    let missing = server.url_of("missing").replace("//postgres", "//reader");
    load_test(&["--postgres-url", &missing, "--setup", "--duration", "0"])
        .run()
        .expect_refusal(3, &["for the role reader", "default_transaction_read_only"]);
    assert_eq!(server.rows("variant_by_episode"), 1, "nothing was emptied");

    server.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    server.sql("SELECT pg_reload_conf()");
    wait_until("the setting is read", || server.sql("SHOW default_transaction_read_only") == "on");
    server.load(&["--duration", "1", "--no-reset"]).run().expect_refusal(3, &["for the whole server"]);

    server.become_standby();
    let refused = server.load(&["--duration", "1", "--no-reset"]).run();
    let refused = refused.expect_refusal(3, &["is a standby", "primary"]);
    assert!(!refused.stderr.contains("default_transaction_read_only"), "{}", refused.stderr);
}

#[test]
fn a_database_is_made_from_template1_where_postgres_lets_nobody_in() {
    let server = TestServer::start();
    server.sql("CREATE ROLE maker LOGIN CREATEDB; REVOKE CONNECT ON DATABASE postgres FROM PUBLIC");
    let url = server.url_of("made").replace("//postgres", "//maker");
    let set_up = || load_test(&["--setup", "--duration", "0", "--postgres-url", &url]).run();
    server.sql("REVOKE CONNECT ON DATABASE template1 FROM PUBLIC");
    set_up().expect_refusal(3, &["into the database postgres", "into the database template1", "createdb made"]);
    server.sql("GRANT CONNECT ON DATABASE template1 TO PUBLIC");
    set_up().expect(0);
    assert_eq!(server.sql_in("made", "SELECT count(*) FROM chat_inference"), "0");
}

#[test]
fn foreign_tables_are_told_with_their_rows_and_the_sql_that_drops_them() {
    let server = TestServer::start();
    server.sql(
        "CREATE SCHEMA \"Odd\"; CREATE TABLE chat_inference (id int); CREATE TABLE \"Odd\".resource_bucket (id int)",
    );
    server.sql("ALTER ROLE postgres SET search_path = public, \"Odd\"");
    server.sql("INSERT INTO chat_inference SELECT generate_series(1, 12000)");
    let refused = server.load(&["--setup", "--duration", "0"]).run();
    let sql = "DROP TABLE public.chat_inference, \"Odd\".resource_bucket";
    let refused = refused.expect_refusal(3, &["resource_bucket has no rows", "TensorZero's own", sql]);
    assert!(refused.stderr.contains("public.chat_inference has more than 10,000 rows"), "{}", refused.stderr);
    server.sql("ANALYZE chat_inference");
    server.load(&["--duration", "1"]).run().expect_refusal(3, &["public.chat_inference has about 12,000 rows", sql]);
    server.sql(sql);
    server.load(&["--setup", "--duration", "0"]).run().expect(0);
    // A view is not dropped by DROP TABLE, and is nobody's load test.
    server.sql("DROP TABLE resource_bucket; CREATE VIEW resource_bucket AS SELECT 1");
    let refused = server.load(&["--duration", "1"]).run().expect_refusal(3, &["resource_bucket", "Give the load test"]);
    assert!(!refused.stderr.contains("DROP"), "{}", refused.stderr);
}

#[test]
fn the_lines_of_a_cause_stay_lines() {
    let server = TestServer::with_tables();
    server.sql("CREATE VIEW dependent AS SELECT id FROM chat_inference");
    let refused = server.load(&["--setup", "unlogged", "--duration", "0"]).run();
    let refused = refused.expect_refusal(3, &["\n  DETAIL: view dependent depends", "\n  HINT: Use DROP"]);
    assert!(!refused.stderr.contains("\\n"), "{}", refused.stderr);
    // A setting that the server refuses is not its log's affair.
    let url = format!("{}?options=-c%20work_mem%3D1parsec", server.url());
    load_test(&["--postgres-url", &url, "--duration", "1"])
        .run()
        .expect_refusal(3, &["invalid value for parameter \"work_mem\"", "correct options", "\n  HINT: Valid units"]);
}

#[test]
fn the_log_of_initdb_stays_lines_and_steers_no_terminal() {
    let folder = public_folder();
    // Newer than any, so that it is the one that is used.
    write_script(&folder.path().join("postgres"), "echo 'postgres (PostgreSQL) 99.1'");
    write_script(&folder.path().join("initdb"), "printf 'one\\n\\033[31mtwo\\n'\nexit 1");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let ran = load_test(&["--ephemeral", "--duration", "1"]).env("PATH", path).run();
    ran.expect_refusal(3, &["initdb failed (exit status: 1); its last lines:\n  one\n  \\u{1b}[31mtwo\n"]);
}

#[test]
fn a_throwaway_server_needs_no_path() {
    for path in [Some(""), None] {
        let mut command = load_test(&["--ephemeral", "--rps", "20", "--duration", "1"]);
        command.args(SMALL).env_remove("PATH").envs(path.map(|path| ("PATH", path)));
        let ran = command.run();
        match ran.code {
            Some(0 | 1) => {}
            // PostgreSQL in a place of its own.
            _ => _ = ran.expect_refusal(3, &["postgres and initdb", "usual places"]),
        }
    }
}

#[test]
fn a_cause_stands_once() {
    let refused = load_test(&["--output", "/nonexistent/x", "--postgres-url", "postgres://127.0.0.1:1/d"]).run();
    let refused = refused.expect_refusal(3, &["--output", "No such file"]);
    assert_eq!(refused.stderr.matches("No such file").count(), 1, "{}", refused.stderr);
}
