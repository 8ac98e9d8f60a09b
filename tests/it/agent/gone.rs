//! A coordinator that is gone: in every phase the agent ends, and leaves no connection behind.

use std::time::{Duration, Instant};

use super::driver::{Agent, connections, options, plan};
use crate::harness::{TestServer, wait_until};
use crate::library::{COORDINATOR_SILENCE, Order};

/// It should take a moment; a busy machine may need more.
const SOON: Duration = Duration::from_secs(8);

const LOAD: [&str; 8] = ["--rps", "100", "--duration", "600", "--workers", "3", "--drain", "600"];

#[test]
fn the_end_of_the_input_ends_it_in_every_phase() {
    let server = TestServer::with_tables();
    for phase in ["hello", "plan", "set_up", "connect", "start"] {
        let agent = Agent::start_up_to(&server, phase, &LOAD);
        if phase == "start" {
            wait_until("rows appear", || server.rows("chat_inference") > 20);
        }
        agent.hang_up();
        agent.expect_abandoned(SOON, "closed the connection");
        wait_until(&format!("{phase}: no connection is left"), || connections(&server) == 0);
    }
}

#[test]
fn it_ends_before_t0_too() {
    let server = TestServer::with_tables();
    let mut agent = Agent::start_up_to(&server, "connect", &LOAD);
    agent.begin(Duration::from_secs(1_000));
    agent.hang_up();
    agent.expect_abandoned(SOON, "closed the connection");
    wait_until("no connection is left", || connections(&server) == 0);
}

#[test]
fn it_ends_while_the_database_does_not_answer() {
    let server = TestServer::with_tables();
    let running = Agent::start_up_to(&server, "start", &LOAD);
    wait_until("rows appear", || server.rows("chat_inference") > 20);
    let connected = Agent::start_up_to(&server, "connect", &["--no-reset"]);
    let planned = Agent::start_up_to(&server, "plan", &[]);
    let fresh = Agent::start();
    server.freeze();
    std::thread::sleep(Duration::from_millis(500));
    // Both of these hang now.
    planned.send(&Order::SetUp);
    fresh.send(&Order::Plan(Box::new(plan(&server, &[]))));
    std::thread::sleep(Duration::from_millis(200));
    for agent in [running, connected, planned, fresh] {
        agent.hang_up();
        agent.expect_abandoned(SOON, "closed the connection");
    }
    server.thaw();
    wait_until("no connection is left", || connections(&server) == 0);
}

/// Nothing answers there, and what is sent is dropped: connecting takes as long as it is allowed to.
#[test]
fn it_ends_while_it_connects_to_nowhere() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://u:p@{}/db?connect_timeout=0", listener.local_addr().unwrap());
    let server = TestServer::with_tables();
    let agent = Agent::start();
    let mut order = plan(&server, &[]);
    order.options = options(&url, &[]);
    agent.send(&Order::Plan(Box::new(order)));
    listener.accept().unwrap();
    agent.hang_up();
    agent.expect_abandoned(SOON, "closed the connection");
}

/// A certificate file that nobody ever writes stands for a network file system that hangs: the thread that follows the
/// orders is stuck in the system call, pings are answered all the same, and another thread ends the process.
#[test]
fn it_ends_while_a_file_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("root.crt");
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let server = TestServer::with_tables();
    let mut agent = Agent::start();
    let mut order = plan(&server, &[]);
    let url = format!("postgresql://u:p@localhost/db?sslmode=verify-full&sslrootcert={}", file.display());
    order.options = options(&url, &[]);
    agent.send(&Order::Plan(Box::new(order)));
    std::thread::sleep(Duration::from_millis(500));
    agent.drain();
    let heard = agent.pongs.len();
    std::thread::sleep(Duration::from_millis(1_500));
    agent.drain();
    assert!(agent.pongs.len() > heard);
    agent.hang_up();
    let ended = agent.wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(3), ""));
    assert!(ended.took < SOON, "{:?}", ended.took);
}

#[test]
fn silence_ends_it() {
    let server = TestServer::with_tables();
    let agent = Agent::start_up_to(&server, "start", &LOAD);
    agent.stop_pinging();
    let begun = Instant::now();
    agent.expect_abandoned(COORDINATOR_SILENCE + SOON, "nothing has been heard");
    assert!(begun.elapsed() + Duration::from_secs(1) > COORDINATOR_SILENCE, "{:?}", begun.elapsed());
    wait_until("no connection is left", || connections(&server) == 0);
}

#[test]
fn what_is_no_order_ends_it() {
    let server = TestServer::with_tables();
    let long = vec![b'x'; 9 * 1024 * 1024];
    let lines: [&[u8]; 6] = [
        b"hello\n",
        b"\n",
        b"{\"order\":\"dance\"}\n",
        b"{\"order\":\"start\"}\n",
        b"{\"order\":\"plan\",\"options\":{\"password\":\"hunter2\"}}\n",
        &long,
    ];
    for line in lines {
        let agent = Agent::start_up_to(&server, "start", &LOAD);
        agent.send_text(line);
        let ended = agent.wait();
        assert_eq!(ended.code, Some(3), "{}", ended.stderr);
        assert!(ended.stderr.contains("no order") || ended.stderr.contains("longer"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("hunter2") && !ended.output.contains("hunter2"));
        wait_until("no connection is left", || connections(&server) == 0);
    }
}

#[test]
fn half_an_order_is_none() {
    let agent = Agent::start();
    agent.send_text(b"{\"order\":\"ping\",\"numb");
    agent.hang_up();
    agent.expect_abandoned(SOON, "closed the connection");
}

/// The reading end of its output is closed, but its input stays open.
#[test]
fn nobody_who_reads_is_nobody_who_leads() {
    use std::io::{BufRead, BufReader};
    let mut child = super::driver::program().spawn();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    drop(output);
    let _input = child.stdin.take();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("nobody reads"));
}
