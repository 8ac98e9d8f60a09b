//! The schema files and `--setup`: only marked tables are ever touched.

use crate::harness::{SMALL, TestServer, all_written, load_test, psql};

fn psql_file(server: &TestServer, role: &str, file: &str) -> (String, String) {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    // Through stdin, exactly as `psql -f` reads it; the role may not read this folder.
    let url = server.url_of("load").replace("//postgres", &format!("//{role}"));
    let ran = psql().args(["-X", "-q", "-f", "-", &url]).input(text).run();
    (ran.stdout, ran.stderr)
}

#[test]
fn both_files_run_twice_under_plain_psql_without_superuser() {
    let server = TestServer::start();
    server.sql("CREATE ROLE plain LOGIN NOSUPERUSER");
    server.sql("CREATE DATABASE load OWNER plain");
    for (file, unlogged) in
        [("schema.sql", "0"), ("schema.sql", "0"), ("schema_unlogged.sql", "4"), ("schema_unlogged.sql", "4")]
    {
        assert_eq!(psql_file(&server, "plain", file), (String::new(), String::new()), "{file}");
        let sql = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relpersistence = 'u'";
        assert_eq!(server.sql_in("load", sql), unlogged, "{file}");
    }
    let url = server.url_of("load").replace("//postgres", "//plain");
    load_test(&[&["--postgres-url", &url, "--rps", "50", "--duration", "1"][..], &SMALL].concat())
        .run()
        .expect_measured();
    assert_eq!(server.sql_in("load", "SELECT count(*) FROM model_inference"), "50");
    server.sql_in("load", "SELECT reset_loadtest_tables()");
    assert_eq!(server.sql_in("load", "SELECT count(*) FROM model_inference"), "0");
}

#[test]
fn tables_of_others_are_never_touched() {
    let server = TestServer::start();
    server.sql("CREATE DATABASE load");
    // TensorZero's own database has tables of these names.
    server.sql_in("load", "CREATE TABLE resource_bucket (key text); INSERT INTO resource_bucket VALUES ('precious')");
    server.sql_in("load", "CREATE TABLE variant_by_episode (x int)");
    for file in ["schema.sql", "schema_unlogged.sql"] {
        let (_, errors) = psql_file(&server, "postgres", file);
        assert!(errors.contains("resource_bucket, variant_by_episode; nothing was changed"), "{errors}");
        assert!(errors.contains("CREATE DATABASE"), "no remedy in {errors}");
    }
    let url = server.url_of("load");
    for more in [&[][..], &["--setup"], &["--no-reset"], &["--setup", "--duration", "0"]] {
        let arguments = [&["--postgres-url", &url, "--duration", "1"], more].concat();
        load_test(&arguments)
            .run()
            .expect_refusal(3, &["not made by this tool: resource_bucket, variant_by_episode", "--postgres-url"]);
    }
    assert_eq!(server.sql_in("load", "SELECT key FROM resource_bucket"), "precious");
    assert_eq!(server.sql_in("load", "SELECT count(*) FROM pg_class WHERE relname = 'chat_inference'"), "0");
}

#[test]
fn the_function_refuses_tables_of_others_too() {
    let server = TestServer::with_tables();
    let ok = all_written(&server.load(&["--rps", "20", "--duration", "1"]).run().expect_measured().json(), 20);
    server.sql("COMMENT ON TABLE resource_bucket IS NULL");
    let output = server.try_sql_in("postgres", "SELECT reset_loadtest_tables()");
    assert_ne!(output.code, Some(0));
    assert_eq!(server.rows("chat_inference"), ok);
}

#[test]
fn set_up_makes_database_and_tables_and_then_goes_on() {
    let server = TestServer::start();
    let url = server.url_of("brand \"new\"");
    let arguments = [&["--postgres-url", &url, "--duration", "1", "--rps", "20"][..], &SMALL].concat();
    load_test(&arguments).run().expect_refusal(3, &["brand \"new\"", "--setup"]);
    load_test(&[&arguments[..], &["--setup", "unlogged"]].concat()).run().expect_measured();
    assert_eq!(server.sql_in("brand \"new\"", "SELECT count(*) FROM chat_inference"), "20");
    // Fitting tables stay as they are; the other kind is made anew.
    load_test(&["--postgres-url", &url, "--setup", "unlogged", "--duration", "0"]).run().expect(0);
    assert_eq!(server.sql_in("brand \"new\"", "SELECT count(*) FROM chat_inference"), "20");
    load_test(&["--postgres-url", &url, "--setup", "--duration", "0"]).run().expect(0);
    let kind = "SELECT relpersistence FROM pg_class WHERE relname = 'chat_inference'";
    assert_eq!(server.sql_in("brand \"new\"", kind), "p");
}

#[test]
fn missing_tables_are_named_with_the_remedy() {
    let server = TestServer::start();
    server.load(&["--duration", "1"]).run().expect_refusal(3, &["chat_inference", "--setup"]);
}
