//! Three VMs, one of which a test takes away, and what has to be true afterwards.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::fleet::{TestFleet, processes_naming, put_program};
use crate::harness::processes::send;
use crate::harness::sshd::TestSshd;
use crate::harness::{Program, Ran, Started, assert_adds_up, count, wait_until};

/// Promised are 5 s; the test machine is busy.
pub const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// Three VMs, the third of which has an sshd of its own and is the one to be lost.
pub struct Trio {
    pub fleet: TestFleet,
    pub prey: TestSshd,
    out: tempfile::TempDir,
}

impl Trio {
    pub fn start() -> Self {
        let fleet = TestFleet { is_watched: true, ..TestFleet::start() };
        let prey = TestSshd::start();
        prey.let_in(&fleet.sshd);
        put_program(&prey);
        Self { fleet, prey, out: tempfile::tempdir().unwrap() }
    }

    /// For `--vms`.
    pub fn vms(&self) -> String {
        format!("127.0.1.[1-2],127.0.1.3:{}", self.prey.port())
    }

    pub fn output(&self) -> PathBuf {
        self.out.path().join("result.json")
    }

    /// A run at 20 a second each that is long enough for something to happen in it; some snapshots have come.
    pub fn begin(&self, arguments: &[&str]) -> Started {
        self.begin_with(&self.vms(), arguments, |_| ())
    }

    pub fn begin_with(&self, vms: &str, arguments: &[&str], change: impl FnOnce(&mut Program)) -> Started {
        let started = self.start_with(vms, &[&["--rps", "20"], arguments].concat(), change);
        self.fleet.wait_for_rows();
        // Some snapshots arrive.
        std::thread::sleep(Duration::from_millis(3_500));
        assert!(!started.stderr().contains("LOST"), "{}", started.stderr());
        started
    }

    /// A run that is about to begin.
    pub fn start_with(&self, vms: &str, arguments: &[&str], change: impl FnOnce(&mut Program)) -> Started {
        let output = self.output();
        let mut command = self.fleet.command(vms, &[&["--output", output.to_str().unwrap()], arguments].concat());
        change(&mut command);
        let started = command.start();
        started.wait_for_stderr("Starting 3 VMs");
        started
    }

    pub fn name(&self) -> String {
        format!("127.0.1.3:{}", self.prey.port())
    }

    pub fn signal_agent(&self, signal: Signal) {
        let agents = self.agents();
        assert_eq!(agents.len(), 1);
        send(agents[0], signal);
    }

    /// The result, whose counts must add up.
    pub fn document(&self) -> Value {
        let json = crate::harness::document(&self.output());
        assert_adds_up(&json);
        json
    }

    /// The agents of the third VM.
    pub fn agents(&self) -> Vec<u32> {
        processes_naming(self.prey.home().to_str().unwrap())
    }

    #[track_caller]
    pub fn assert_nothing_left(&self) {
        wait_until("the third machine's agent is gone", || self.agents().is_empty());
        self.fleet.assert_nothing_left();
    }

    /// What the result of a run has to say when its third VM, `name`, was lost in the middle.
    #[track_caller]
    pub fn assert_lost(&self, ran: &Ran, name: &str) -> Value {
        let json = self.document();
        assert_eq!((json["status"].as_str(), &json["success"]), (Some("INVALID"), &Value::Bool(false)), "{json}");
        assert_eq!((&json["num_vms"], &json["failed_vms"].as_array().unwrap().len()), (&Value::from(3), &1));
        assert_eq!(json["failed_vms"][0]["hostname"], name);
        let vms = json["per_vm_results"].as_array().unwrap();
        assert_eq!(vms.len(), 3);
        for vm in vms {
            assert_eq!(vm["lost"].is_string(), vm["hostname"] == name, "{vm}");
            assert!(count(&vm["result"], "ok") > 0, "{vm}");
        }
        assert!(self.fleet.rows("chat_inference") >= count(&json, "ok"));
        for part in [name, "LOST", "INVALID"] {
            assert!(ran.stdout.contains(part), "{part} is missing from {}", ran.stdout);
        }
        assert_no_secret(ran);
        json
    }

    /// Begins a run of some seconds, does `fault`, and waits for the end.
    pub fn lose(&self, what: &str, arguments: &[&str], fault: impl FnOnce()) {
        let name = self.name();
        let started = self.begin(&[&["--duration", "14"], arguments].concat());
        fault();
        assert_noticed(&started, what, &name);
        let ran = started.finish().expect(1);
        self.assert_others_went_on(&self.assert_lost(&ran, &name));
    }

    /// 20 a second each for 14 s.
    #[track_caller]
    pub fn assert_others_went_on(&self, json: &Value) {
        for vm in &json["per_vm_results"].as_array().unwrap()[..2] {
            assert_eq!(count(&vm["result"], "scheduled"), 280, "{vm}");
            let written = count(&vm["result"], "ok") + count(&vm["result"], "not_started");
            assert_eq!(written, 280, "{vm}");
        }
        let lost = &json["per_vm_results"][2];
        assert_eq!(count(&lost["result"], "scheduled") + lost["slots_lost"].as_u64().unwrap(), 280, "{lost}");
        // Of the whole, every slot of all three is told, and the rate is over the whole window.
        assert_eq!((count(json, "scheduled"), &json["throughput"]["offered_rps"]), (840, &Value::from(60.0)));
        assert_eq!(count(json, "unreported"), lost["slots_lost"].as_u64().unwrap());
        let achieved_pct = (840 - count(json, "unreported")) as f64 / 8.4;
        assert!(json["throughput"]["target_achieved_pct"].as_f64().unwrap() <= achieved_pct + 0.01, "{json}");
        assert_eq!(json["latency_ms"]["p99_is_lower_bound"], true);
    }
}

/// The password of the database, as it is and as it stands in the connection string.
#[track_caller]
pub fn assert_no_secret(ran: &Ran) {
    for part in ["a secret", "a%20secret", "100%/@", "100%25"] {
        assert!(!ran.stdout.contains(part) && !ran.stderr.contains(part), "{part}: {ran:?}");
    }
}

#[track_caller]
pub fn assert_noticed(started: &Started, what: &str, name: &str) {
    let since = Instant::now();
    started.wait_for_stderr(&format!("LOST {name}"));
    let took = since.elapsed();
    eprintln!("FIGURE time to notice {what}: {:.2} s", took.as_secs_f64());
    assert!(took < NOTICED_WITHIN, "{took:?}");
}

pub fn freeze_all(sshd: &TestSshd) {
    sshd.sessions().into_iter().for_each(|session| sshd.freeze_session(session));
}
