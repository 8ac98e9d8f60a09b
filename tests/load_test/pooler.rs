//! PgBouncer in transaction mode.

use std::process::{Child, Command, Stdio};

use postgres_load_test::throwaway::ThrowawayOptions;

use crate::support::TestServer;
use crate::tool::{SMALL, assert_rows_match, count, run, start, wait_for_rows, wait_until};

/// A PgBouncer of this test's own, before a server of its own.
struct Bouncer {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Bouncer {
    fn before(server: &TestServer) -> Self {
        Self::with_pool(server, 4)
    }

    fn with_pool(server: &TestServer, connections: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("plt").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (users, ini) = (folder.path().join("users"), folder.path().join("bouncer.ini"));
        std::fs::write(&users, "\"postgres\" \"secret\"\n").unwrap();
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={} password=secret\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = {connections}\nmax_client_conn = 100\nadmin_users = postgres\n",
            server.server().port(),
            users.display()
        );
        std::fs::write(&ini, config).unwrap();
        let mut command = Command::new("/usr/sbin/pgbouncer");
        command.arg(&ini).stdout(Stdio::null()).stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "postgres"]);
        }
        let bouncer = Self { child: command.spawn().expect("pgbouncer is not installed"), port, _folder: folder };
        wait_until("PgBouncer listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        bouncer
    }

    fn url(&self) -> String {
        format!("postgresql://postgres:secret@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn transaction_mode_works_without_prepared_statements_and_says_so_otherwise() {
    let server = TestServer::start_with(ThrowawayOptions {
        tcp: true,
        superuser_password: Some("secret".to_owned()),
        ..ThrowawayOptions::default()
    });
    run(&["--setup", "--duration", "0", "--postgres-url", &server.url()]).expect(0);
    let bouncer = Bouncer::before(&server);
    let arguments =
        ["--json-output", "--rps", "200", "--duration", "2", "--workers", "8", "--postgres-url", &bouncer.url()];
    let arguments = [&arguments[..], &SMALL].concat();
    run(&arguments).expect_refusal(3, &["pooler", "--no-prepared-statements"]);
    for more in [&["--no-prepared-statements"][..], &["--no-prepared-statements", "--pipeline"]] {
        let json = run(&[&arguments[..], more].concat()).json();
        assert_eq!(count(&json, "ok") + count(&json, "not_started"), 400, "{}", json["errors"]);
        assert!(count(&json, "ok") > 200, "{}", json["accounting"]);
        assert_rows_match(&server, &json);
    }
    // Setting up goes through it as well.
    run(&["--setup", "unlogged", "--duration", "0", "--postgres-url", &bouncer.url()]).expect(0);
}

#[test]
fn a_test_behind_a_pooler_keeps_others_off_its_tables_and_leaves_nothing_in_the_pool() {
    let server = TestServer::start_with(ThrowawayOptions {
        tcp: true,
        superuser_password: Some("secret".to_owned()),
        ..ThrowawayOptions::default()
    });
    run(&["--setup", "--duration", "0", "--postgres-url", &server.url()]).expect(0);
    let bouncer = Bouncer::before(&server);
    let unnamed = ["--json-output", "--no-prepared-statements", "--rps", "50", "--verify"];
    let at = |url: &str, seconds: &str| {
        start(&[&unnamed[..], &SMALL, &["--duration", seconds, "--postgres-url", url]].concat())
    };
    let first = at(&bouncer.url(), "60");
    wait_for_rows(&server, "chat_inference");
    let name = format!(" pid {} since 20", first.id());
    for second in [at(&bouncer.url(), "1"), at(&server.url(), "1")] {
        second.finish().expect_refusal(3, &["another load test uses these tables", &name, "client address 127.0.0.1"]);
    }
    // The pooler may pause, which waits for the end of all transactions.
    for command in ["PAUSE", "RESUME"] {
        let console = format!("{}pgbouncer", bouncer.url().trim_end_matches("postgres"));
        let psql = server.server().program_dir().join("psql");
        let done = Command::new(psql).args(["-Xq", "-c", command, &console]).output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    }
    first.signal(rustix::process::Signal::KILL);
    let json = at(&bouncer.url(), "1").finish().expect_measured().json();
    assert_eq!(json["verification"]["tickets_taken"], json["verification"]["acknowledged"], "{}", json["verification"]);
    assert!(!json["warnings"].to_string().contains("marked"), "{}", json["warnings"]);
    assert_eq!(server.psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");

    // A pool of one connection has none to spare.
    let json = at(&Bouncer::with_pool(&server, 1).url(), "1").finish().expect_measured().json();
    assert!(json["warnings"].to_string().contains("could not be marked"), "{}", json["warnings"]);
    assert_eq!(
        (&json["accounting"]["scheduled"], &json["verification"]["error"]),
        (&50.into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_pooler_that_hands_on_read_only_sessions_is_named() {
    let server = TestServer::start_with(ThrowawayOptions {
        tcp: true,
        superuser_password: Some("secret".to_owned()),
        ..ThrowawayOptions::default()
    });
    run(&["--setup", "--duration", "0", "--postgres-url", &server.url()]).expect(0);
    let bouncer = Bouncer::before(&server);
    // The one session that the pooler has by now, which the next client gets.
    let psql = server.server().program_dir().join("psql");
    let set = ["-XAtqc", "SET default_transaction_read_only = on", &bouncer.url()];
    assert!(Command::new(psql).args(set).status().unwrap().success());
    let arguments = ["--no-prepared-statements", "--no-reset", "--duration", "1", "--postgres-url", &bouncer.url()];
    run(&arguments).expect_refusal(3, &["in this session, as a pooler does"]);
}
