//! A link that loses everything without a word to anybody: no reset, no end, nothing unreachable. Only the time limits of
//! the connection string find that out.

use std::time::Duration;

use super::{assert_went_on, conclude, now, of_class, reconnects, server_on_tcp, settle};
use crate::harness::proxy::Proxy;
use crate::harness::{Namespace, Started, TestServer, count, load_at, wait_until};

const WORKERS: u64 = 4;

/// The program on another machine than the server.
struct Apart {
    namespace: Namespace,
    server: TestServer,
    proxy: Proxy,
}

impl Apart {
    fn new() -> Option<Self> {
        let namespace = Namespace::create()?;
        let server = server_on_tcp();
        let proxy = Proxy::at(&namespace.address_of_host(), server.port());
        Some(Self { namespace, server, proxy })
    }

    /// A run on four workers that has begun to write.
    fn load(&self, limits: &str, arguments: &[&str]) -> Started {
        let url = self.proxy.url_with(&format!("sslmode=disable&connect_timeout=1&{limits}"));
        let load = load_at(&url, &[&["--workers", "4"], arguments].concat());
        let started = self.namespace.run(&load).start();
        self.server.wait_for_rows();
        settle();
        started
    }
}

impl Apart {
    /// The link carries again. What the server's own time limits would have ended by then, and would otherwise hold its
    /// locks, is ended before.
    fn find(&self) {
        self.proxy.reset_all();
        settle();
        self.namespace.find();
    }
}

#[test]
fn what_is_sent_and_never_acknowledged_is_given_up_by_tcp_user_timeout() {
    let Some(apart) = Apart::new() else { return };
    let started = apart.load("tcp_user_timeout=1000", &["--rps", "100", "--duration", "9"]);
    apart.namespace.lose();
    std::thread::sleep(Duration::from_millis(3_500));
    apart.find();
    let since = now(&apart.server);
    let json = conclude(started, &apart.server, 900, WORKERS);
    let timed_out = "connection lost (timed out)";
    let lost = of_class(&json, "request", timed_out) + of_class(&json, "connection", timed_out);
    assert_eq!((lost, reconnects(&json)), (WORKERS, WORKERS), "{}", json["errors"]);
    assert!(of_class(&json, "connection", "cannot connect (Timeout") > 0, "{}", json["errors"]);
    assert_eq!(count(&json, "unfinished"), 0, "{}", json["accounting"]);
    assert_went_on(&apart.server, &json, &since);
}

/// Workers that have nothing to do send nothing, so only probes tell them that the other side is gone.
#[test]
fn connections_that_nobody_uses_are_found_dead_by_keepalives() {
    let Some(apart) = Apart::new() else { return };
    let limits = "keepalives_idle=1&keepalives_interval=1&keepalives_count=1&tcp_user_timeout=1000";
    let started = apart.load(limits, &["--rps", "1", "--duration", "12"]);
    apart.namespace.lose();
    let before = apart.proxy.connections();
    std::thread::sleep(Duration::from_secs(5));
    apart.find();
    wait_until("all workers are connected anew", || apart.proxy.connections() >= before + WORKERS);
    let json = conclude(started, &apart.server, 12, WORKERS);
    let timed_out = "connection lost (timed out)";
    assert!(of_class(&json, "connection", timed_out) > 0, "{}", json["errors"]);
    let lost = of_class(&json, "request", timed_out) + of_class(&json, "connection", timed_out);
    assert_eq!((lost, reconnects(&json)), (WORKERS, WORKERS), "{}", json["errors"]);
}
