//! One VM of several is cut off from the database, and from it alone, in the middle of transactions: what it leaves open
//! holds the others up only for seconds. And a database that has exactly as many connections as there are workers.

use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::Signal;
use serde_json::Value;

use super::fleet::TestFleet;
use super::loss::SshdInside;
use crate::harness::sshd::TestSshd;
use crate::harness::{Namespace, PASSWORD, TestServer, count, wait_until};

/// How long sessions of a VM that is gone may stay: limits of 10 s and checks every 2 s, on a busy machine.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// A database that listens at this address of the VM, too.
fn server_at(address: &str) -> TestServer {
    let hba = "local all all trust\nhost all all 0.0.0.0/0 scram-sha-256\n";
    TestServer::setup().tcp("secret").also_at(address).hba(hba).start()
}

/// Cuts the VM, which the server knows as `client`, off while it holds what the others need.
fn cut_off_with_locks(namespace: &Namespace, fleet: &TestFleet, client: &str) {
    let holding = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE client_addr = '{client}' AND state = 'idle in transaction' \
         AND query LIKE 'INSERT INTO resource_bucket%'"
    );
    let holds = || {
        std::thread::sleep(Duration::from_millis(150));
        fleet.sql(&holding) != "0"
    };
    for _ in 0..40 {
        namespace.lose_link();
        // What was on its way has arrived by the second look.
        if holds() && holds() {
            return;
        }
        namespace.find_link();
        std::thread::sleep(Duration::from_millis(731));
    }
    panic!("it was never cut off while it held a lock");
}

#[test]
fn a_vm_that_is_cut_off_from_the_database_holds_the_others_up_only_for_seconds() {
    let Some(namespace) = Namespace::create() else { return };
    let address = namespace.add_link();
    let fleet = TestFleet::of(TestSshd::start(), server_at(&address));
    let prey = TestSshd::start();
    prey.let_in(&fleet.sshd);
    let _sshd = SshdInside::start(&namespace, &prey);
    let name = format!("{}:{}", namespace.address(), prey.port());
    let url = format!("postgresql://postgres:secret@{address}:{}/postgres", fleet.server.port());
    let start = |arguments: &[&str]| {
        let mut command = fleet.command(&format!("127.0.1.[1-2],{name}"), arguments);
        command.env("POSTGRES_URL", &url).start()
    };
    let started = start(&["--setup", "--rps", "max", "--duration", "600", "--drain", "2", "--json-output"]);
    wait_until("rows appear", || {
        fleet.server.try_sql_in("postgres", "SELECT count(*) > 100 FROM chat_inference").stdout.trim() == "t"
    });
    std::thread::sleep(Duration::from_millis(2_500));
    let client = namespace.address().replace("10.77.", "10.78.");
    cut_off_with_locks(&namespace, &fleet, &client);
    let since = Instant::now();
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE client_addr = '{client}'");
    assert_ne!(fleet.sql(&left), "0", "its sessions are still there");
    wait_until("the server has ended its sessions", || fleet.sql(&left) == "0");
    let took = since.elapsed();
    eprintln!("FIGURE from a VM's cut to the end of its sessions: {:.2} s", took.as_secs_f64());
    assert!(took < ENDED_WITHIN, "{took:?}");
    let rows = fleet.rows("chat_inference");
    wait_until("the others go on", || fleet.rows("chat_inference") > rows + 20);
    std::thread::sleep(Duration::from_millis(1_500));
    started.signal(Signal::INT);
    let ran = started.finish().expect(130);
    let json = ran.json();
    for vm in &json["per_vm_results"].as_array().unwrap()[..2] {
        let errors = vm["result"]["errors"].as_array().unwrap();
        assert!(errors.is_empty() && count(&vm["result"], "ok") > 0, "{vm}");
    }
    let warnings: Vec<&str> = json["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let named = warnings.iter().find(|warning| warning.contains("held other VMs up"));
    assert!(named.is_some_and(|text| text.starts_with(&name)), "{warnings:?} {}", json["outages"]);
    let accused = warnings.iter().find(|warning| warning.starts_with("127.0.1.") && warning.contains("differs"));
    assert_eq!(accused, None);
    // What it left does not stand in the way of the next test.
    namespace.find_link();
    let json = start(&["--rps", "20", "--duration", "1", "--json-output"]).finish().expect_measured().json();
    assert_eq!((count(&json, "failed"), count(&json, "unknown")), (0, 0), "{json}");
}

/// Two VMs of two workers each: the mark of one may stay, and the other one gives its own up.
#[test]
fn a_role_with_one_connection_more_than_there_are_workers_is_enough() {
    let fleet = TestFleet::start();
    fleet.sql("CREATE ROLE app LOGIN PASSWORD 'x' CONNECTION LIMIT 5");
    fleet.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO app");
    let secret = utf8_percent_encode(PASSWORD, NON_ALPHANUMERIC).to_string();
    let url = fleet.server.url().replace(&format!("postgres:{secret}@"), "app:x@");
    assert!(url.contains("app:x@"), "{url}");
    let run = |url: &str| {
        let arguments = ["--rps", "20", "--duration", "2", "--verify", "--json-output"];
        let mut command = fleet.command("127.0.1.[1-2]", &arguments);
        command.env("POSTGRES_URL", url).start().finish()
    };
    let json = run(&url).expect_measured().json();
    assert_eq!(json["errors"].as_array().unwrap().len(), 0, "{}", json["errors"]);
    assert_eq!((&json["verification"]["error"], &json["reconnects"]), (&Value::Null, &Value::from(0)), "{json}");
    assert!(json["verification"]["tickets_taken"].as_u64().is_some(), "{}", json["verification"]);
    fleet.sql("ALTER ROLE app CONNECTION LIMIT 3");
    run(&url).expect_refusal(3, &["no connection left"]);
}
