//! A VM is lost while the load runs: by a killed connection, a killed or frozen program, a dead network.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::fleet::processes_naming;
use super::trio::{Trio, assert_no_secret, assert_noticed, freeze_all};
use crate::harness::processes::{descendants, send};
use crate::harness::sshd::TestSshd;
use crate::harness::{Namespace, Program, Started, count, wait_until};

#[test]
fn a_killed_connection_loses_its_vm_alone() {
    let trio = Trio::start();
    trio.lose("a killed connection", &[], || {
        // Of sshd's processes alone: the agent sees the end of its input and has to end by itself.
        let agents = trio.agents();
        assert_eq!(agents.len(), 1);
        let all = trio.prey.sessions().into_iter().flat_map(|session| [vec![session], descendants(session)].concat());
        all.filter(|pid| !agents.contains(pid)).for_each(|pid| send(pid, Signal::KILL));
    });
    trio.assert_nothing_left();
}

#[test]
fn a_killed_program_loses_its_vm_alone() {
    let trio = Trio::start();
    trio.lose("a killed load_test", &[], || trio.signal_agent(Signal::KILL));
    trio.assert_nothing_left();
}

#[test]
fn a_frozen_program_is_noticed_and_killed() {
    let trio = Trio::start();
    trio.lose("a frozen load_test", &["--no-rate-limiting"], || trio.signal_agent(Signal::STOP));
    trio.assert_nothing_left();
}

/// Being killed over SSH frees the locks for which the others wait.
#[test]
fn a_program_that_is_frozen_with_locks_holds_the_others_up_only_until_it_is_noticed() {
    let trio = Trio::start();
    let started = trio.start_with(&trio.vms(), &["--rps", "max", "--duration", "600"], |_| ());
    trio.fleet.wait_for_rows();
    std::thread::sleep(Duration::from_millis(2_500));
    let waits = || trio.fleet.server.lock_waiters() >= 4;
    let holds_all_up = (0..40).any(|_| {
        trio.signal_agent(Signal::STOP);
        // Not until it is noticed: to ask takes long where many tests run.
        let (stopped, mut looks) = (Instant::now(), false);
        while !looks && stopped.elapsed() < Duration::from_millis(600) {
            std::thread::sleep(Duration::from_millis(100));
            looks = waits() && waits();
        }
        if !looks {
            trio.signal_agent(Signal::CONT);
            std::thread::sleep(Duration::from_millis(137));
        }
        looks
    });
    assert!(holds_all_up, "it never was frozen with a lock");
    let rows = trio.fleet.rows("chat_inference");
    assert_noticed(&started, "a frozen load_test that holds locks", &trio.name());
    let noticed = Instant::now();
    wait_until("the others go on", || trio.fleet.rows("chat_inference") > rows + 20);
    eprintln!("FIGURE from LOST to the others going on: {:.2} s", noticed.elapsed().as_secs_f64());
    started.signal(Signal::INT);
    let ran = started.finish().expect(130);
    let json = trio.assert_lost(&ran, &trio.name());
    assert_eq!(count(&json, "failed"), 0, "{json}");
    trio.assert_nothing_left();
}

#[test]
fn a_vm_can_be_lost_before_its_first_second_is_over() {
    let trio = Trio::start();
    let started = trio.start_with(&trio.vms(), &["--rps", "20", "--duration", "4"], |_| ());
    trio.signal_agent(Signal::KILL);
    let ran = started.finish().expect(1);
    let json = trio.document();
    assert_eq!((json["status"].as_str(), json["failed_vms"].as_array().unwrap().len()), (Some("INVALID"), 1));
    assert!(ran.stderr.contains(&format!("LOST {}", trio.name())), "{}", ran.stderr);
    let reason = json["failed_vms"][0]["error"].as_str().unwrap();
    assert!(reason.contains("was killed (SIGKILL), as systems do where memory runs out"), "{reason}");
    trio.assert_nothing_left();
}

/// With something lost in the warm-up, nothing of it was measured.
#[test]
fn a_vm_can_be_lost_in_the_warmup_and_the_rest_be_interrupted() {
    let trio = Trio::start();
    for warmup in ["600", "2"] {
        let started = trio.begin(&["--warmup", warmup, "--duration", "600"]);
        trio.signal_agent(Signal::KILL);
        assert_noticed(&started, "a killed load_test", &trio.name());
        started.signal(Signal::INT);
        started.finish().expect(130);
        let json = trio.document();
        assert_eq!((json["status"].as_str(), json["failed_vms"].as_array().unwrap().len()), (Some("INVALID"), 1));
        trio.assert_nothing_left();
    }
}

#[test]
fn a_vm_can_be_lost_while_all_wait_for_the_last_requests() {
    let trio = Trio::start();
    let started = trio.start_with(&trio.vms(), &["--rps", "20", "--duration", "4", "--drain", "60"], |_| ());
    trio.fleet.wait_for_rows();
    std::thread::sleep(Duration::from_secs(2));
    trio.fleet.server.freeze();
    std::thread::sleep(Duration::from_secs(3));
    trio.signal_agent(Signal::KILL);
    assert_noticed(&started, "a load_test killed in the drain", &trio.name());
    trio.fleet.server.thaw();
    let ran = started.finish().expect(1);
    let json = trio.assert_lost(&ran, &trio.name());
    assert_eq!(count(&json["per_vm_results"][0]["result"], "scheduled"), 80);
    trio.assert_nothing_left();
}

/// Somebody there ends it politely, as a VM that shuts down does: it delivers what it has, and has not done its part.
#[test]
fn a_program_that_is_asked_to_stop_makes_the_test_invalid() {
    let trio = Trio::start();
    let started = trio.begin(&["--duration", "8"]);
    trio.signal_agent(Signal::TERM);
    let ran = started.finish();
    let json = trio.document();
    assert_eq!(json["status"], "INVALID", "{}", ran.stdout);
    assert!(ran.stdout.contains(&trio.name()), "{}", ran.stdout);
    assert_eq!(trio.fleet.rows("chat_inference"), count(&json, "ok"));
    ran.expect(1);
    trio.assert_nothing_left();
}

/// Until T0 every VM has to be there.
#[test]
fn a_vm_that_is_lost_before_the_load_begins_ends_the_test() {
    for (signal, arguments) in
        [(Signal::KILL, &[][..]), (Signal::STOP, &[]), (Signal::KILL, &["--on-host-loss", "abort"])]
    {
        let trio = Trio::start();
        trio.fleet.server.freeze();
        let started = trio.fleet.start_run(&trio.vms(), &[&["--rps", "20", "--duration", "5"], arguments].concat());
        wait_until("three VMs are there", || trio.agents().len() + trio.fleet.agents().len() == 3);
        std::thread::sleep(Duration::from_millis(1_500));
        trio.signal_agent(signal);
        std::thread::sleep(Duration::from_secs(6));
        trio.fleet.server.thaw();
        let ran = started.finish().expect_refusal(3, &["a VM failed", &trio.name(), "no load was started"]);
        assert_no_secret(&ran);
        trio.assert_nothing_left();
        assert_eq!(trio.fleet.rows("chat_inference"), 0);
    }
}

#[test]
fn a_frozen_vm_is_noticed() {
    let trio = Trio::start();
    trio.lose("a frozen host", &["--no-rate-limiting"], || freeze_all(&trio.prey));
    // What stands still there ends when it goes on.
    assert_eq!(trio.agents().len(), 1);
    trio.prey.sessions().into_iter().for_each(|session| trio.prey.thaw_session(session));
    trio.assert_nothing_left();
}

#[test]
fn abort_ends_the_test_where_a_vm_is_lost() {
    let trio = Trio::start();
    let name = trio.name();
    let started = trio.begin(&["--duration", "600", "--on-host-loss", "abort"]);
    trio.signal_agent(Signal::KILL);
    assert_noticed(&started, "a killed load_test with --on-host-loss abort", &name);
    let since = Instant::now();
    let ran = started.finish().expect(1);
    eprintln!("FIGURE from the loss to the end with --on-host-loss abort: {:.2} s", since.elapsed().as_secs_f64());
    let json = trio.assert_lost(&ran, &name);
    assert!(count(&json, "scheduled") < 6_000, "{}", json["accounting"]);
    // The others finish what they began; what the lost one had in flight remains unfinished.
    for vm in &json["per_vm_results"].as_array().unwrap()[..2] {
        assert_eq!(count(&vm["result"], "unfinished"), 0, "{vm}");
    }
    trio.assert_nothing_left();
}

/// With `continue`, a VM that is lost on the way to T0 is left out, be it the one that sets up the tables.
#[test]
fn a_vm_that_is_lost_before_the_load_begins_is_left_out_where_that_was_asked_for() {
    let trio = Trio::start();
    let lock = trio.fleet.server.lock("chat_inference");
    let vms = format!("{},127.0.1.[1-2]", trio.name());
    let output = trio.output();
    let arguments = ["--rps", "20", "--duration", "3", "--on-host-loss", "continue", "--output"];
    let started = trio.fleet.start_run(&vms, &[&arguments[..], &[output.to_str().unwrap()]].concat());
    wait_until("somebody waits for the lock", || trio.fleet.server.lock_waiters() == 1);
    trio.signal_agent(Signal::KILL);
    // The next one sets up, and waits for the same lock.
    wait_until("somebody waits for the lock", || trio.fleet.server.lock_waiters() == 2);
    drop(lock);
    started.finish().expect(1);
    let json = trio.document();
    // Three were asked for, at 20 a second each: the first one's slots are nobody's.
    assert_eq!((count(&json, "scheduled"), count(&json, "unreported")), (180, 60));
    assert_eq!(json["status"], "INVALID");
    assert_eq!((&json["failed_vms"][0]["hostname"], &json["num_vms"]), (&trio.name().into(), &Value::from(3)));
    assert_eq!(trio.fleet.rows("chat_inference"), count(&json, "ok"));
    trio.assert_nothing_left();
}

/// Who is in a hurry does not wait for a VM that stands still, and what is left here ends by itself.
#[test]
fn a_frozen_vm_does_not_hold_up_an_interrupt() {
    for signals in [1, 4] {
        let trio = Trio::start();
        let started = trio.begin(&["--duration", "600", "--no-rate-limiting"]);
        freeze_all(&trio.prey);
        let asked = Instant::now();
        for _ in 0..signals {
            started.signal(Signal::INT);
            std::thread::sleep(Duration::from_millis(300));
        }
        let ran = started.finish().expect(130);
        let took = asked.elapsed();
        eprintln!("FIGURE {signals} interrupts with a frozen host, to the end: {:.2} s", took.as_secs_f64());
        assert!(took < Duration::from_secs(30), "{took:?}");
        trio.assert_lost(&ran, &trio.name());
        let here = trio.fleet.tmp.path().to_str().unwrap();
        wait_until("no ssh is left here", || processes_naming(here).is_empty());
        trio.prey.sessions().into_iter().for_each(|session| trio.prey.thaw_session(session));
        trio.assert_nothing_left();
    }
}

/// A frozen program would hold its connections for ever: it is killed, also where everything ends right after it was
/// given up.
#[test]
fn a_frozen_program_is_killed_even_if_all_ends_at_that_moment() {
    let trio = Trio::start();
    let started = trio.begin(&["--duration", "600", "--no-rate-limiting"]);
    trio.signal_agent(Signal::STOP);
    let asked = Instant::now();
    started.signal(Signal::INT);
    started.wait_for_stderr("once more");
    started.signal(Signal::INT);
    let ran = started.finish().expect(130);
    eprintln!("FIGURE two interrupts with a frozen load_test, to the end: {:.2} s", asked.elapsed().as_secs_f64());
    trio.assert_lost(&ran, &trio.name());
    trio.assert_nothing_left();
    // Before the load, with no other VM.
    trio.fleet.server.freeze();
    let started = trio.fleet.start_run(&trio.name(), &["--rps", "20", "--duration", "5"]);
    wait_until("the machine is there", || trio.agents().len() == 1);
    std::thread::sleep(Duration::from_millis(1_500));
    trio.signal_agent(Signal::STOP);
    let ran = started.finish();
    trio.fleet.server.thaw();
    ran.expect_refusal(3, &[&trio.name(), "nothing was heard"]);
    trio.assert_nothing_left();
}

/// A second sshd with the configuration of another one, in a namespace. Ended when dropped.
pub struct SshdInside(Started);

impl SshdInside {
    pub fn start(namespace: &Namespace, like: &TestSshd) -> Self {
        let mut sshd = Program::new("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(like.config().with_file_name("sshd_config"));
        let sshd = namespace.run(&sshd).start();
        let address = (namespace.address(), like.port());
        wait_until("sshd listens in the namespace", || {
            std::net::TcpStream::connect((address.0.as_str(), address.1)).is_ok()
        });
        Self(sshd)
    }
}

impl Drop for SshdInside {
    fn drop(&mut self) {
        descendants(self.0.id()).into_iter().for_each(|pid| send(pid, Signal::KILL));
    }
}

#[test]
fn a_vm_behind_a_cut_network_is_noticed_and_ends_by_itself() {
    let Some(namespace) = Namespace::create() else { return };
    let trio = Trio::start();
    let _sshd = SshdInside::start(&namespace, &trio.prey);
    let name = format!("{}:{}", namespace.address(), trio.prey.port());
    // The database is reached through its socket, also from in there, and so is not cut off.
    let url = trio.fleet.server.url();
    let (user, rest) = url.rsplit_once('@').unwrap();
    let (host, port_and_database) = rest.split_once(':').unwrap();
    assert_eq!(host, "127.0.0.1");
    let socket = trio.fleet.server.socket_dir().display().to_string().replace('/', "%2F");
    let url = format!("{user}@{socket}:{port_and_database}");
    let vms = format!("127.0.1.[1-2],{name}");
    let arguments = ["--duration", "14", "--no-rate-limiting"];
    let started = trio.begin_with(&vms, &arguments, |command| _ = command.env("POSTGRES_URL", &url));
    let agents = trio.agents();
    assert_eq!(agents.len(), 1);
    let cut = Instant::now();
    namespace.cut();
    assert_noticed(&started, "a cut network", &name);
    wait_until("the agent behind the cut has ended by itself", || trio.agents().is_empty());
    let took = cut.elapsed();
    eprintln!("FIGURE from a cut network to the end of the agent behind it: {:.2} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(20), "{took:?}");
    let ran = started.finish().expect(1);
    trio.assert_others_went_on(&trio.assert_lost(&ran, &name));
    trio.assert_nothing_left();
}
