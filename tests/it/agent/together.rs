//! Several agents on one database.

use std::time::Duration;

use super::driver::{Agent, options, share_of};
use crate::harness::{TestServer, wait_until};
use crate::library::{Order, Share, wall_clock_ns};

fn shares(of: u64) -> impl Iterator<Item = Share> {
    (0..of).map(move |index| Share { index, of })
}

#[test]
fn two_shares_are_one_schedule_on_emptied_tables() {
    let server = TestServer::with_tables();
    server.sql("INSERT INTO variant_by_episode SELECT 'old', gen_random_uuid(), 'row' FROM generate_series(1, 9)");
    let mut agents: Vec<Agent> = shares(2).map(|_| Agent::start()).collect();
    let mut identities = Vec::new();
    for (agent, share) in agents.iter_mut().zip(shares(2)) {
        let preflight = agent.plan(share_of(&server, &["--rps", "101", "--duration", "3"], share));
        identities.push(preflight.database.expect("the server tells"));
    }
    assert_eq!(identities[0], identities[1]);
    agents.iter_mut().for_each(Agent::set_up);
    assert_eq!(server.sql("SELECT count(*) FROM variant_by_episode"), "0");
    for agent in &mut agents {
        assert_eq!(agent.connect().warnings, Vec::<String>::new());
    }
    let at_unix_ns = wall_clock_ns() + 500_000_000;
    agents.iter_mut().for_each(|agent| _ = agent.begin_at(at_unix_ns));
    let results: Vec<_> = agents.iter_mut().map(Agent::result).collect();
    assert_eq!(results.iter().map(|result| result.accounting.scheduled).collect::<Vec<_>>(), [152, 151]);
    assert_eq!(results.iter().map(|result| result.accounting.ok).sum::<u64>(), 303);
    assert_eq!(server.rows("chat_inference"), 303);
    for (result, share) in results.iter().zip(shares(2)) {
        assert_eq!((result.run.share, result.run.started_unix_ns), (share, at_unix_ns));
    }
    // A row's time is the due time of its slot, to the millisecond, so no slot was run twice.
    assert_eq!(server.sql("SELECT count(DISTINCT timestamp) FROM chat_inference"), "303");
    agents.into_iter().for_each(|agent| _ = agent.part());
}

/// `first_alone`: as the coordinator does it; otherwise even database and tables are made by all at once.
fn eight_set_up(first_alone: bool, arguments: &[&str]) {
    let server = TestServer::start();
    let arguments = [&["--setup", "--rps", "200", "--duration", "1", "--workers", "1"][..], arguments].concat();
    let url = server.url_of("load test");
    let mut agents: Vec<Agent> = shares(8).map(|_| Agent::start()).collect();
    for (agent, share) in agents.iter_mut().zip(shares(8)) {
        let mut order = share_of(&server, &arguments, share);
        order.options.target.postgres_url = Some(url.clone());
        let preflight = agent.plan(order);
        assert!(preflight.server.is_none() && preflight.database.is_none(), "it is yet to be made");
    }
    let (first, others) = agents.split_at_mut(usize::from(first_alone));
    first.iter_mut().for_each(Agent::set_up);
    others.iter().for_each(|agent| agent.send(&Order::SetUp));
    others.iter_mut().for_each(Agent::expect_set_up);
    for agent in &mut agents {
        assert!(agent.connect().server.version.is_some());
    }
    let at_unix_ns = wall_clock_ns() + 500_000_000;
    agents.iter_mut().for_each(|agent| _ = agent.begin_at(at_unix_ns));
    let accounts: Vec<_> = agents.iter_mut().map(|agent| agent.result().accounting).collect();
    let ok: u64 = accounts.iter().map(|account| account.ok).sum();
    // Eight on a busy machine may not come to the last ones within the window.
    assert_eq!(ok + accounts.iter().map(|account| account.not_started).sum::<u64>(), 200, "{accounts:?}");
    assert_eq!(server.sql_in("load test", "SELECT count(*) FROM chat_inference"), ok.to_string());
    agents.into_iter().for_each(|agent| _ = agent.part());
}

#[test]
fn one_makes_the_tables_and_then_seven_empty_them_at_once() {
    eight_set_up(true, &[]);
}

#[test]
fn eight_make_database_and_tables_at_once() {
    eight_set_up(false, &[]);
}

#[test]
fn eight_fill_the_pool_at_once() {
    eight_set_up(false, &["--server-side-data"]);
}

/// The kind of the tables changes under the eyes of all, again and again.
#[test]
fn tables_of_the_other_kind_are_made_anew_once() {
    let server = TestServer::with_tables();
    for kind in ["unlogged", "logged", "unlogged"] {
        let mut agents: Vec<Agent> = shares(4).map(|_| Agent::start()).collect();
        for (agent, share) in agents.iter_mut().zip(shares(4)) {
            let order = share_of(&server, &["--setup", kind, "--workers", "1"], share);
            agent.plan(order);
        }
        let before: u64 = server.sql("SELECT 'chat_inference'::regclass::oid").parse().unwrap();
        agents.iter().for_each(|agent| agent.send(&Order::SetUp));
        agents.iter_mut().for_each(Agent::expect_set_up);
        assert_ne!(server.sql("SELECT 'chat_inference'::regclass::oid").parse::<u64>().unwrap(), before);
        for agent in &mut agents {
            assert_eq!(agent.connect().server.tables.as_deref(), Some(kind));
        }
    }
}

/// All of them find no tables and wait for the lock under which tables are made: after it, each must look again.
#[test]
fn tables_that_several_find_missing_are_made_once() {
    let server = TestServer::setup().set("log_statement", "ddl").start();
    let mut agents: Vec<Agent> = shares(4).map(|_| Agent::start()).collect();
    for (agent, share) in agents.iter_mut().zip(shares(4)) {
        agent.plan(share_of(&server, &["--setup", "--workers", "1"], share));
    }
    std::thread::scope(|scope| {
        scope.spawn(|| server.sql("BEGIN; SELECT pg_advisory_xact_lock(7021867105284); SELECT pg_sleep(3); COMMIT"));
        let waiting =
            |sql: &str| server.sql(&format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' {sql}"));
        wait_until("the lock is held", || waiting("") == "1");
        agents.iter().for_each(|agent| agent.send(&Order::SetUp));
        wait_until("all wait for it", || waiting("AND NOT granted") == "4");
    });
    agents.iter_mut().for_each(Agent::expect_set_up);
    assert_eq!(server.log().matches("CREATE TABLE chat_inference").count(), 1);
}

#[test]
fn another_database_and_another_server_have_another_identity() {
    let (server, other) = (TestServer::start(), TestServer::start());
    server.create_database("second");
    let identity = |url: String| {
        let mut agent = Agent::start();
        let mut order = share_of(&server, &[], Share::WHOLE);
        order.options = options(&url, &[]);
        agent.plan(order).database.expect("the server tells")
    };
    let (one, two, three) = (identity(server.url()), identity(server.url_of("second")), identity(other.url()));
    assert!(one != two && one != three);
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(identity(server.url()), one);
}
