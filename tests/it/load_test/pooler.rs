//! PgBouncer in transaction mode.

use crate::harness::{PgBouncer, SMALL, TestServer, assert_rows_match, count, load_test};

#[test]
fn transaction_mode_works_without_prepared_statements_and_says_so_otherwise() {
    let server = TestServer::setup().tables().tcp("secret").start();
    let bouncer = PgBouncer::before(&server, "transaction", 4);
    let arguments =
        ["--json-output", "--rps", "200", "--duration", "2", "--workers", "8", "--postgres-url", &bouncer.url()];
    let arguments = [&arguments[..], &SMALL].concat();
    load_test(&arguments).run().expect_refusal(3, &["pooler", "--no-prepared-statements"]);
    for more in [&["--no-prepared-statements"][..], &["--no-prepared-statements", "--pipeline"]] {
        let json = load_test(&[&arguments[..], more].concat()).run().json();
        assert_eq!(count(&json, "ok") + count(&json, "not_started"), 400, "{}", json["errors"]);
        assert!(count(&json, "ok") > 20, "{}", json["accounting"]);
        assert_rows_match(&server, &json);
    }
    // Setting up goes through it as well.
    load_test(&["--setup", "unlogged", "--duration", "0", "--postgres-url", &bouncer.url()]).run().expect(0);
}

#[test]
fn a_test_behind_a_pooler_keeps_others_off_its_tables_and_leaves_nothing_in_the_pool() {
    let server = TestServer::setup().tables().tcp("secret").start();
    let bouncer = PgBouncer::before(&server, "transaction", 4);
    let unnamed = ["--json-output", "--no-prepared-statements", "--rps", "50", "--verify"];
    let at = |url: &str, seconds: &str| {
        load_test(&[&unnamed[..], &SMALL, &["--duration", seconds, "--postgres-url", url]].concat()).start()
    };
    let first = at(&bouncer.url(), "60");
    server.wait_for_rows();
    let name = format!(" pid {} since 20", first.id());
    for second in [at(&bouncer.url(), "1"), at(&server.url(), "1")] {
        second.finish().expect_refusal(3, &["another load test uses these tables", &name, "client address 127.0.0.1"]);
    }
    // The pooler may pause, which waits for the end of all transactions.
    for command in ["PAUSE", "RESUME"] {
        bouncer.command(&server, command);
    }
    first.signal(rustix::process::Signal::KILL);
    let json = at(&bouncer.url(), "1").finish().expect_measured().json();
    assert_eq!(json["verification"]["tickets_taken"], json["verification"]["acknowledged"], "{}", json["verification"]);
    assert!(!json["warnings"].to_string().contains("marked"), "{}", json["warnings"]);
    assert_eq!(server.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");

    // A pool of one connection has none to spare.
    let json = at(&PgBouncer::before(&server, "transaction", 1).url(), "1").finish().expect_measured().json();
    assert!(json["warnings"].to_string().contains("could not be marked"), "{}", json["warnings"]);
    assert_eq!(
        (&json["accounting"]["scheduled"], &json["verification"]["error"]),
        (&50.into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_pooler_that_hands_on_read_only_sessions_is_named() {
    let server = TestServer::setup().tables().tcp("secret").start();
    let bouncer = PgBouncer::before(&server, "transaction", 4);
    // The one session that the pooler has by now, which the next client gets.
    server.psql(&bouncer.url()).args(["-c", "SET default_transaction_read_only = on"]).run().expect(0);
    let arguments = ["--no-prepared-statements", "--no-reset", "--duration", "1", "--postgres-url", &bouncer.url()];
    load_test(&arguments).run().expect_refusal(3, &["in this session, as a pooler does"]);
}
