//! What keeps an agent from going on is one message on the channel, with a remedy.

use std::time::Duration;

use super::driver::{Agent, options, plan, share_of};
use crate::harness::{PASSWORD, TestServer, free_port};
use crate::library::{Event, Order, Share, wall_clock_ns};

#[track_caller]
fn refused(agent: Agent, order: &Order, parts: &[&str]) {
    agent.send(order);
    let message = agent.failure();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn orders_out_of_turn_are_refused() {
    let server = TestServer::with_tables();
    let start = Order::Start { at_unix_ns: wall_clock_ns() + 100_000_000_000 };
    let planned = || Order::Plan(Box::new(plan(&server, &[])));
    for (phase, order, parts) in [
        ("hello", Order::SetUp, ["set_up", "plan"]),
        ("hello", Order::Connect, ["connect", "plan"]),
        ("plan", planned(), ["plan", "set_up"]),
        ("plan", start.clone(), ["start", "set_up"]),
        ("set_up", Order::SetUp, ["set_up", "connect"]),
        ("connect", Order::Connect, ["connect", "start"]),
        ("start", Order::SetUp, ["set_up", "stop"]),
    ] {
        refused(Agent::start_up_to(&server, phase, &["--duration", "600"]), &order, &parts);
    }
    for phase in ["hello", "plan", "set_up", "connect"] {
        for order in [Order::Stop, Order::Abort] {
            refused(Agent::start_up_to(&server, phase, &[]), &order, &["stopped before the load began"]);
        }
    }
}

#[test]
fn a_phase_under_way_can_be_stopped() {
    let server = TestServer::with_tables();
    for order in [Order::SetUp, Order::Connect] {
        let phase = if matches!(order, Order::SetUp) { "plan" } else { "set_up" };
        let agent = Agent::start_up_to(&server, phase, &[]);
        server.freeze();
        agent.send(&order);
        std::thread::sleep(Duration::from_millis(200));
        refused(agent, &Order::Abort, &["stopped before the load began"]);
        server.thaw();
    }
}

#[test]
fn all_faults_of_a_plan_are_told_at_once() {
    let server = TestServer::with_tables();
    let arguments = [
        "--rps",
        "max",
        "--max-lag",
        "1s",
        "--share",
        "1/2",
        "--start-at",
        "2050-01-01T00:00:00Z",
        "--ephemeral",
        "--docker-container",
        "db",
    ];
    let order = Order::Plan(Box::new(share_of(&server, &arguments, Share { index: 2, of: 2 })));
    let parts = ["--max-lag", "--share", "--start-at", "--ephemeral", "--docker-container", "a share that"];
    refused(Agent::start(), &order, &parts);
    let order = Order::Plan(Box::new(plan(&server, &["--setup", "--duration", "0"])));
    refused(Agent::start(), &order, &["--duration"]);
    let order = Order::Plan(Box::new(share_of(&server, &[], Share { index: 0, of: 0 })));
    refused(Agent::start(), &order, &["a share that"]);
}

#[test]
fn output_files_are_not_the_agents() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result.json");
    let path = file.display().to_string();
    let mut agent = Agent::start_up_to(
        &server,
        "start",
        &["--rps", "20", "--duration", "1", "--output", &path, "--hdr-log", &path, "--json-output"],
    );
    agent.result();
    agent.part();
    assert!(!file.exists());
}

#[test]
fn the_database_is_refused_with_its_own_words() {
    let server = TestServer::setup().tcp(PASSWORD).start();
    let order = |url: &str, arguments: &[&str]| {
        let mut order = plan(&server, &[]);
        order.options = options(url, arguments);
        Order::Plan(Box::new(order))
    };
    let nobody = free_port();
    refused(Agent::start(), &order(&format!("postgresql://u:p@127.0.0.1:{nobody}/db"), &[]), &["refused"]);
    refused(Agent::start(), &order(&server.url_of("nowhere"), &[]), &["nowhere", "--setup"]);
    let mut agent = Agent::start();
    agent.plan(plan(&server, &[]));
    refused(agent, &Order::SetUp, &["missing", "--setup"]);
    server.sql("CREATE TABLE chat_inference (mine int)");
    let mut agent = Agent::start();
    agent.plan(plan(&server, &["--setup"]));
    refused(agent, &Order::SetUp, &["chat_inference", "not made by"]);
}

#[test]
fn too_few_open_files_are_told_before_anything_happens() {
    let server = TestServer::with_tables();
    let mut agent = Agent::start_under_shell("ulimit -n 100");
    assert_eq!(agent.hello.open_files, Some(100));
    refused(
        agent,
        &Order::Plan(Box::new(plan(&server, &["--workers", "100"]))),
        &["ulimit -n", "--workers", "100 files"],
    );
    // What is said to be enough is enough.
    let needed = 3 * 20 + 6 * 2 + 48;
    agent = Agent::start_under_shell(&format!("ulimit -n {needed}"));
    agent.plan(plan(&server, &["--workers", "20", "--threads", "2", "--rps", "100", "--duration", "1"]));
    agent.set_up();
    agent.connect();
    agent.begin(Duration::from_millis(200));
    let accounting = agent.result().accounting;
    assert_eq!(accounting.ok + accounting.not_started, 100, "{accounting:?}");
    agent.part();
}

#[test]
fn the_limit_of_open_files_is_raised() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(Agent::start_under_shell("ulimit -S -n 100").hello.open_files, limit.maximum);
}

#[test]
fn t0_has_to_be_near_and_yet_to_come() {
    let server = TestServer::with_tables();
    let now_ns = wall_clock_ns();
    for (at_unix_ns, part) in
        [(now_ns - 1, "had passed"), (0, "had passed"), (now_ns + 90_000_000_000_000, "away"), (u64::MAX, "away")]
    {
        let agent = Agent::start_up_to(&server, "connect", &[]);
        refused(agent, &Order::Start { at_unix_ns }, &[part]);
    }
}

#[test]
fn fields_that_it_does_not_know_are_passed_over() {
    let server = TestServer::with_tables();
    let mut agent = Agent::start();
    let mut order = serde_json::to_value(Order::Plan(Box::new(plan(&server, &[])))).unwrap();
    order["later"] = serde_json::json!({"a": [1, 2]});
    order["options"]["target"]["later"] = serde_json::json!(1);
    assert!(agent.send_text(format!("{order}\n").as_bytes()));
    assert!(matches!(agent.next(), Some(Event::Preflight(_))));
}
