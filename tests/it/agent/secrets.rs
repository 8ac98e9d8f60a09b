//! Passwords: used, but never seen.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::driver::{Agent, Ended, options, plan, program};
use crate::harness::TestServer;
use crate::library::{Event, Order};

const PASSWORD: &str = "s3cr3t \"'\\{}%/@?&=#:é";

fn server() -> TestServer {
    TestServer::setup().tcp(PASSWORD).start()
}

/// Pieces by which the password would be known, however it was escaped.
fn shows(text: &[u8]) -> bool {
    ["s3cr3t", "hunter2"].iter().any(|piece| text.windows(piece.len()).any(|window| window == piece.as_bytes()))
}

#[track_caller]
fn assert_shows_nothing(ended: &Ended) {
    assert!(!shows(ended.output.as_bytes()), "{}", ended.output);
    assert!(!shows(ended.stderr.as_bytes()), "{}", ended.stderr);
}

#[track_caller]
fn assert_process_shows_nothing(agent: &Agent) {
    let text = std::fs::read(format!("/proc/{}/cmdline", agent.id())).unwrap();
    assert!(!text.is_empty() && !shows(&text));
}

/// In the URL, and in `PGPASSWORD` of the coordinator's surroundings.
#[test]
fn a_password_is_used_and_never_shown() {
    let server = server();
    let without = server.url().replace(&utf8_percent_encode(PASSWORD, NON_ALPHANUMERIC).to_string(), "");
    for in_url in [true, false] {
        let mut order = plan(&server, &[]);
        let url = if in_url { server.url() } else { without.replace(":@", "@") };
        order.options = options(&url, &["--setup", "--rps", "50", "--duration", "600"]);
        order.pgpassword = (!in_url).then(|| PASSWORD.to_owned());
        let mut agent = Agent::start();
        agent.plan(order);
        agent.set_up();
        agent.connect();
        agent.begin(Duration::from_millis(200));
        std::thread::sleep(Duration::from_millis(500));
        assert_process_shows_nothing(&agent);
        agent.send(&Order::Stop);
        agent.result();
        assert_shows_nothing(&agent.part());
    }
}

#[test]
fn a_wrong_password_is_not_repeated() {
    let server = server();
    let wrong = format!("postgresql://postgres:hunter2@{}", server.url().rsplit_once('@').unwrap().1);
    let nonsense = "postgresql://postgres:hunter2@h/db?nonsense=hunter2".to_owned();
    for (url, part) in [(wrong, "password"), (nonsense, "nonsense")] {
        let mut order = plan(&server, &[]);
        order.options = options(&url, &[]);
        let agent = Agent::start();
        agent.send(&Order::Plan(Box::new(order)));
        let ended = agent.wait();
        assert_eq!(ended.code, Some(3));
        assert!(ended.output.contains("failed") && ended.output.contains(part), "{}", ended.output);
        assert_shows_nothing(&ended);
    }
}

/// `POSTGRES_URL` is for runs by hand; a VM's own setting must not lead its part of a test elsewhere.
#[test]
fn the_vms_own_postgres_url_does_not_count() {
    let server = server();
    let mut agent = Agent::start_program(program().env("POSTGRES_URL", server.url()).env("PGPASSWORD", "hunter2"));
    let mut order = plan(&server, &[]);
    order.options.target.postgres_url = None;
    agent.send(&Order::Plan(Box::new(order)));
    let found = match agent.next() {
        Some(Event::Failed { message }) => message,
        // Somebody has such a database.
        Some(Event::Preflight(preflight)) => preflight.target,
        other => panic!("{other:?}"),
    };
    assert!(!found.contains(&server.port().to_string()), "{found}");
    assert!(found.contains("localhost"), "{found}");
}
