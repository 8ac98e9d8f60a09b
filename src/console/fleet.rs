//! A test on many VMs as who runs it sees it: what is said in each phase, what a signal does, and the code at the end.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::MissedTickBehavior;

use super::fleet_screen::{FleetScreen, vm_count};
use super::{Stopped, code_of, deliver, lines, note, say, say_ready};
use crate::cli::options::HostKeys;
use crate::fleet::plan::FleetPlan;
use crate::fleet::{Fleet, FleetEvent, HOST_KEYS_OFF};
use crate::report::exporters::Exporters;
use crate::report::header::{FleetHeader, fleet_header};
use crate::report::preflight;
use crate::result::RunResult;
use crate::run::aborts;
use crate::signals::Stops;

/// How often it is looked whether only results are waited for.
const LOOK: Duration = Duration::from_secs(1);

/// Everything between the command line and the exit code. Whatever happens, nothing is left on the VMs.
///
/// # Errors
/// There is nothing to report.
pub async fn coordinate(plan: FleetPlan) -> Result<u8> {
    let mut outputs = Exporters::open(&plan.plan.output)?;
    let mut stops = Stops::listen()?;
    let mut fleet = Fleet::new(plan)?;
    let outcome = test(&mut fleet, &mut outputs, &mut stops).await;
    // Tidying up takes some seconds at most; who has no patience for it has pressed more than twice by then.
    tokio::select! {
        () = fleet.shut_down() => {}
        () = async { for _ in 0..2 { stops.next().await } } => note("Left without tidying up; what is left ends by itself."),
    }
    let Some((result, stopped)) = outcome? else { return Ok(0) };
    Ok(code_of(&result, stopped))
}

/// The phases in their order; `None` where only the set-up was asked for.
async fn test(fleet: &mut Fleet, outputs: &mut Exporters, stops: &mut Stops) -> Result<Option<(RunResult, bool)>> {
    let (json, setup_only) = (fleet.plan().plan.output.is_json, fleet.plan().plan.database.setup_only);
    let ready = async {
        make_ready(fleet).await?;
        if setup_only { Ok(()) } else { begin(fleet, json).await }
    };
    tokio::select! {
        ready = ready => ready?,
        () = stops.next() => return Err(Stopped.into()),
    }
    if setup_only {
        let ready = format!("Ready: {} of {} set up the tables", fleet.vms_left(), vm_count(fleet.vms().len()));
        say_ready(&ready, json)?;
        return Ok(None);
    }
    outputs.begin(fleet.t0_unix_ns())?;
    let (mut stopped, aborted) = drive(fleet, outputs, stops).await;
    let total = tokio::select! {
        total = fleet.count_total() => total,
        () = stops.next() => {
            stopped = true;
            Err("it was interrupted".to_owned())
        }
    };
    let result = fleet.conclude(aborted, total, stopped).await?;
    deliver(outputs, &result, json)?;
    Ok(Some((result, stopped)))
}

/// Connected, looked at, set up.
async fn make_ready(fleet: &mut Fleet) -> Result<()> {
    if fleet.plan().ssh.host_keys == HostKeys::Off {
        note(&format!("warning: {HOST_KEYS_OFF}"));
    }
    let all = fleet.vms().len();
    let is_quiet = fleet.plan().plan.output.quiet;
    tell(is_quiet, &format!("Connecting to {} ...", vm_count(all)));
    let mut told = 0;
    let mut tell_connected = |there: usize| {
        // Some lines for many VMs, none for a few.
        if there >= told + 16 && there < all {
            told = there;
            tell(is_quiet, &format!("  {there} of {all} are there"));
        }
    };
    let connected = fleet.connect(&mut tell_connected).await;
    for warning in fleet.warnings() {
        note(&format!("warning: {warning}"));
    }
    let looked = match connected {
        Ok(()) => fleet.preflight().await,
        failed => failed,
    };
    let table = preflight::table(fleet.vms(), looked.is_ok(), lines::columns() - 1);
    tell(is_quiet && looked.is_ok(), table.trim_end());
    looked?;
    tell(is_quiet, "Setting up the database ...");
    Ok(fleet.set_up().await?)
}

/// Connections, header, T0.
async fn begin(fleet: &mut Fleet, json: bool) -> Result<()> {
    let is_quiet = fleet.plan().plan.output.quiet;
    tell(is_quiet, "Opening connections ...");
    fleet.open_connections().await?;
    if !json {
        say(&format!("\n{}", header(fleet)))?;
    }
    fleet.start().await?;
    tell(is_quiet, &format!("Starting {} ...", vm_count(fleet.vms_left())));
    Ok(())
}

/// Says how far the test is, unless `--quiet` is given.
fn tell(is_quiet: bool, line: &str) {
    if !is_quiet {
        note(line);
    }
}

fn header(fleet: &Fleet) -> String {
    let vms = fleet.vms();
    let Some(ready) = vms.iter().find_map(|vm| vm.ready()) else { return String::new() };
    let mut config = ready.config.clone();
    config.workers_per_vm = Some(config.workers);
    config.workers *= vms.iter().filter(|vm| vm.ready().is_some()).count();
    let per_vm_rps = fleet.plan().rps_per_vm.or(config.target_rps.map(|total| total / vms.len() as f64));
    let vms: Vec<&str> = vms.iter().map(|vm| vm.host.name.as_str()).collect();
    let target_from = fleet.plan().url_from.as_str();
    fleet_header(&FleetHeader { config: &config, server: &ready.server, vms: &vms, per_vm_rps, target_from })
}

/// Shows the run until it is over. The first signal stops it gently, the second one at once. Returns whether one came,
/// and why the test ended itself, where it did.
async fn drive(fleet: &mut Fleet, outputs: &mut Exporters, stops: &mut Stops) -> (bool, Option<String>) {
    let mut screen = FleetScreen::new(fleet);
    let (mut signals, mut failed, mut aborted) = (0, 0u64, None);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = fleet.next() => event,
            _ = looks.tick() => {
                screen.waiting(fleet.plan().plan.database.verify);
                continue;
            }
            () = stops.next() => {
                // The windows have closed by the time that only results are waited for.
                signals += if screen.waits_for_results() { 2 } else { 1 };
                screen.stopping(signals);
                fleet.stop(signals > 1);
                continue;
            }
        };
        match event {
            FleetEvent::Second { vm, index, interval } => {
                screen.last_second = Instant::now();
                failed = failed.saturating_add(interval.errors);
                screen.progress.add(vm, index, &interval);
                let reason = aborts(fleet.plan().plan.abort_on_errors, failed).filter(|_| aborted.is_none());
                if let Some(reason) = reason {
                    fleet.stop(false);
                    screen.close();
                    screen.out.print(&format!("{reason}; waiting for requests in flight"));
                    aborted = Some(reason);
                }
            }
            FleetEvent::Watched { vm, readings } => screen.progress.watch(vm, readings),
            FleetEvent::Incident { vm, class, message } => screen.incident(&fleet.vms()[vm], &class, &message),
            FleetEvent::Delivered { vm } => screen.progress.gone(vm, "done"),
            FleetEvent::Lost { vm } => screen.lost(fleet, vm),
            FleetEvent::Finished => {
                screen.seconds(outputs);
                screen.out.end();
                return (signals > 0, aborted);
            }
        }
        let has_new = screen.seconds(outputs);
        screen.show(has_new);
    }
}
