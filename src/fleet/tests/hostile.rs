//! A VM that may say anything, without SSH: its lines go the way that they go in a test, up to the report. For
//! tests of this crate and for `fuzz/`.

use clap::Parser;
use serde_json::{Value, json};

use super::super::check::Expected;
use super::super::clock::Reference;
use super::super::hosts::Host;
use super::super::lines::understood;
use super::super::vm::Vm;
use crate::agent::protocol::{AgentEvent, Hello, Line, Preflight, ReadyToRun, Snapshot, VERSION};
use crate::cli::options::LoadTestOptions;
use crate::cli::plan::Plan;
use crate::measure::outcome::{Failure, Outcome};
use crate::measure::recorder::{Instants, Recorder, Window};
use crate::measure::timeline::Timeline;
use crate::merge::{self, Part};
use crate::monitor::Findings;
use crate::postgres::conninfo::Environment;
use crate::report::text::report;
use crate::result::{ClockVsDatabase, Config, Context, FailedVm, RunResult, ServerInfo, assemble_lost};
use crate::schedule::{Arrival, Pace, Rate, Schedule, Share};
use crate::text::terminal::{brief, steers};
use crate::verdict::{Criteria, judge};
use crate::version::BUILD;
use crate::workload::script;

/// T0 of this test, nanoseconds since 1970.
pub const T0_UNIX_NS: u64 = 1_800_000_000_000_000_000;

/// The share of the VM: one of two, ten requests a second of both, a second of warm-up and ten of the window.
pub fn schedule() -> Schedule {
    let rate = Rate::parse("10").unwrap_or_else(|error| unreachable!("{error}"));
    let pace = Pace::Open { rate, arrival: Arrival::Constant };
    let share = Share { index: 0, of: 2 };
    Schedule { pace, share, seed: 1, warmup_ns: 1_000_000_000, duration_ns: 10_000_000_000 }
}

fn config() -> Config {
    let url = "postgres://me@db/test";
    let arguments = ["load_test", "--rps", "10", "--duration", "10", "--warmup", "1", "--postgres-url", url];
    let options = LoadTestOptions::try_parse_from(arguments).unwrap_or_else(|error| unreachable!("{error}"));
    let plan = Plan::resolve(&options, &Environment::of_user("me"), 0, 2);
    plan.unwrap_or_else(|faults| unreachable!("{faults:?}")).config("me@db:5432/test".to_owned())
}

/// What an honest VM says from its first word to its result, of a run in which not everything went well.
pub fn honest() -> Vec<AgentEvent> {
    const MS: u64 = 1_000_000;
    let phases = script::phase_names(config().pipeline, &config().workload);
    let server = ServerInfo { version: Some("15.1".to_owned()), max_connections: Some(100), ..ServerInfo::default() };
    let mut events = vec![
        AgentEvent::Hello(Hello {
            build: BUILD.to_owned(),
            tool_version: "0.1.0".to_owned(),
            pid: 77,
            hostname: "box".to_owned(),
            processors: 2,
            open_files: Some(1_024),
        }),
        AgentEvent::Alive,
        AgentEvent::Pong { number: 0, unix_ns: T0_UNIX_NS },
        AgentEvent::Preflight(Box::new(Preflight {
            server: Some(server.clone()),
            database: Some("1/test".to_owned()),
            target: "me@db:5432/test".to_owned(),
            workers: 8,
            clock_vs_database: Some(ClockVsDatabase { offset_ms: 0.2, bound_ms: 0.1 }),
        })),
        AgentEvent::SetUp,
        AgentEvent::Ready(Box::new(ReadyToRun {
            config: config(),
            server: server.clone(),
            database: Some("1/test".to_owned()),
            phases: phases.clone(),
            warnings: vec!["autovacuum is off".to_owned()],
            clock_vs_database: Some(ClockVsDatabase { offset_ms: 0.2, bound_ms: 0.1 }),
        })),
        AgentEvent::Started { ahead_ms: 500.0 },
        AgentEvent::Watched { readings: vec!["row locks 56%".to_owned()] },
        AgentEvent::Incident { class: "deadlock".to_owned(), message: "ERROR: deadlock detected".to_owned() },
    ];
    let (mut whole, mut timeline) = (Recorder::new(phases.len()), Timeline::default());
    for second in 0..11 {
        let mut part = Recorder::new(phases.len());
        for at in 0..5 {
            let due = second * 1_000 * MS + at * 200 * MS;
            let window = if second == 0 { Window::Warmup } else { Window::Measured };
            let outcome = match at {
                4 => Outcome::Failed(Failure::of_server(b"SERROR\0C40P01\0Mdeadlock detected\0\0")),
                _ => Outcome::Ok,
            };
            let instants = Instants { due, claimed: due + at % 2 * MS, sent: due + 2 * MS, done: due + (10 + at) * MS };
            for recorder in [&mut part, &mut whole] {
                recorder.start(window, due);
                recorder.finish(window, instants, at % 2 == 0, window == Window::Measured, &outcome);
                if window == Window::Measured {
                    recorder.phases(&[MS; script::MAX_ROUND_TRIPS]);
                }
            }
        }
        for recorder in [&mut part.bins, &mut whole.bins] {
            recorder.close_second(second, &part.counters, MS);
        }
        timeline.add(second, part.counters.completed_in_window);
        events.push(AgentEvent::Second(Box::new(Snapshot::new(second, &part))));
    }
    let context = Context {
        hostname: "box".to_owned(),
        config: config(),
        server,
        clock_vs_database: None,
        schedule: schedule(),
        findings: Findings::default(),
        verification: None,
        aborted: None,
        warnings: vec!["autovacuum is off".to_owned()],
    };
    let result = assemble_lost(&whole, &timeline, T0_UNIX_NS, 11_000 * MS, context);
    events.push(AgentEvent::Result(Box::new(result)));
    events
}

/// Events as the lines that they are sent in.
pub fn lines(events: &[AgentEvent]) -> Vec<Value> {
    let line = |event: &AgentEvent| serde_json::to_value(Line { agent: VERSION, event: event.clone() });
    events.iter().map(|event| line(event).unwrap_or_else(|error| unreachable!("{error}"))).collect()
}

/// Lines as bytes. The mark has to come first, and `Value` sorts its fields.
pub fn spoken(lines: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let mut rest = line.clone();
        let agent = rest.as_object_mut().and_then(|fields| fields.remove("agent")).unwrap_or_default();
        let rest = rest.to_string();
        let rest = rest.strip_prefix('{').unwrap_or(&rest);
        bytes.extend_from_slice(format!("{{\"agent\":{agent},{rest}\n").as_bytes());
    }
    bytes
}

/// Puts a lie in some place of a document, counted from its beginning; both are taken as remainders.
pub fn spoil(document: &mut Value, place: usize, lie: usize) {
    let lies = [
        json!(-1),
        json!(0),
        json!(1),
        json!(u64::MAX),
        json!(i64::MAX),
        json!(1e300),
        json!(0.5),
        json!(1_000_000),
        json!(""),
        json!("\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\n\r$(reboot)`reboot`"),
        json!("x".repeat(100_000)),
        json!(null),
        json!([]),
        json!({}),
        json!(true),
        json!(vec![1; 10_000]),
        json!("HISTFAAAAB94nJNpmSzMwMD"),
    ];
    let mut left = place % places(document).max(1);
    replace(document, &mut left, &lies[lie % lies.len()]);
}

fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(fields) => fields.values().map(places).sum(),
        _ => 0usize,
    }
}

fn replace(value: &mut Value, left: &mut usize, lie: &Value) -> bool {
    if *left == 0 {
        *value = lie.clone();
        return true;
    }
    *left -= 1;
    let mut within = |inner: &mut Value| replace(inner, left, lie);
    match value {
        Value::Array(items) => items.iter_mut().any(&mut within),
        Value::Object(fields) => fields.values_mut().any(&mut within),
        _ => false,
    }
}

/// Lets a VM say `lines`, all of them after T0 was ordered. Returns what of it would be merged, or why nothing.
///
/// # Errors
/// Why the VM is lost with all that it said.
pub fn hear(lines: &[u8]) -> Result<Part, String> {
    let name = "h1".to_owned();
    let mut vm = Vm::new(Host { name: name.clone(), user: None, address: name, port: None });
    let expected = Expected {
        schedule: schedule(),
        t0_there_ns: Some(T0_UNIX_NS),
        since_t0_ns: 12_000_000_000,
        stopped: false,
        verify: false,
    };
    let reference = Reference::now();
    for (at_ns, line) in (0..).zip(lines.split(|byte| *byte == b'\n')) {
        let answered = match understood(line) {
            Ok(None) => continue,
            Ok(Some(event)) if vm.is_delivered() && !matches!(event, AgentEvent::Pong { .. }) => continue,
            Ok(Some(event)) => vm.answer(0, at_ns, event, &expected, &reference).map(drop),
            Err(reason) => Err(reason.into()),
        };
        if let Err(loss) = answered {
            vm.lose(loss);
            break;
        }
    }
    let lost = brief(vm.lost().unwrap_or("it delivered nothing"), 2_000);
    let mut part = vm.part(schedule(), T0_UNIX_NS).ok_or_else(|| lost.clone())?;
    part.lost = (!vm.is_present() || !vm.is_delivered()).then_some(lost);
    // Whatever was taken in until then has to be fit for merging, or what was checked on the way was not enough.
    merge::check_whole(&part).map_err(|error| error.to_string())?;
    Ok(part)
}

/// Merges, judges and reports; panics where something in the report could steer a terminal or is of megabytes.
pub fn told(parts: Vec<Part>) -> Option<RunResult> {
    let missing = vec![FailedVm { hostname: "h2".to_owned(), error: "nothing was heard of it".to_owned() }];
    let mut result = merge::merge(parts, missing).ok()?;
    let criteria = Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() };
    judge(&mut result, &criteria);
    let mut text = Vec::new();
    report(&mut text, &result).unwrap_or_else(|error| unreachable!("writing to memory: {error}"));
    let text = String::from_utf8_lossy(&text);
    assert!(!text.chars().any(|c| steers(c) && c != '\n'), "{text:?}");
    assert!(text.len() < 1 << 20, "a report of {} bytes", text.len());
    Some(result)
}

#[cfg(test)]
mod tests;
