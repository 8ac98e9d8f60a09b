//! One run for a person or a script: make ready, drive, show, say the result.

use anyhow::Result;

use super::screen::Screen;
use super::{Stopped, code_of, deliver, note, say, say_ready, stopping};
use crate::cli::plan::Plan;
use crate::engine::{Event, Incident, RunRecord};
use crate::report::exporters::Exporters;
use crate::report::header::header;
use crate::report::live::Progress;
use crate::run::{self, Live};
use crate::signals::Stops;
use crate::text::terminal::printable;

/// Runs a plan, and returns the exit code.
///
/// # Errors
/// There is no result, or it could not be written.
pub async fn load_test(plan: Plan) -> Result<u8> {
    let mut exporters = Exporters::open(&plan.output)?;
    let mut stops = Stops::listen()?;
    let Some(mut live) = make_ready(&plan, &mut stops).await? else { return Ok(0) };
    if !plan.output.is_json && !plan.output.quiet {
        say("Starting workers...\n")?;
    }
    exporters.begin(live.epoch().unix_ns)?;
    let (record, signals) = drive(&plan, &mut live, &mut exporters, &mut stops).await?;
    let mut is_stopped = signals > 0;
    // After a second signal nothing more is waited for.
    let verification = if signals > 1 {
        live.unverified(&record)
    } else {
        if plan.database.verify && !plan.output.quiet {
            note("  Comparing the rows in the database with what was acknowledged...");
        }
        tokio::select! {
            verification = live.wind_up(&record) => verification,
            () = stops.next() => {
                // Without rows to count the run is complete, and only the server's last counters are missing.
                is_stopped |= plan.database.verify;
                live.unverified(&record)
            }
        }
    };
    live.release().await;
    let result = live.conclude(&record, verification, is_stopped)?;
    deliver(&mut exporters, &result, plan.output.is_json)?;
    Ok(code_of(&result, is_stopped))
}

/// Server, tables, connections, T0; `None` where only the set-up was asked for.
async fn make_ready(plan: &Plan, stops: &mut Stops) -> Result<Option<Live>> {
    let is_json = plan.output.is_json;
    let tell_if = plan.output.verbose;
    let mut tell = move |what: &str| {
        if tell_if {
            note(what);
        }
    };
    let for_server = plan.clone();
    let mut starting = tokio::task::spawn_blocking(move || run::start_server(&for_server));
    let server = tokio::select! {
        server = &mut starting => server??,
        () = stops.next() => {
            // Whatever has been started by now is removed when it is dropped here.
            drop(starting.await);
            return Err(Stopped.into());
        }
    };
    let ready = async {
        let pool = (!plan.database.setup_only).then(|| plan.workload.pool(plan.engine.schedule.seed));
        let reached = run::reach(plan, server, &mut tell).await?;
        let database = run::set_up(plan, reached, pool.as_ref(), &mut tell).await?;
        let Some(pool) = pool else {
            let tables = database.info().tables.as_deref().unwrap_or_default();
            say_ready(&format!("Ready: {tables} tables in {}", database.describe()), is_json)?;
            return Ok(None);
        };
        let ready = run::prepare(plan.clone(), database, pool, &mut tell).await?;
        if !is_json {
            say(&header(&ready))?;
        }
        ready.clock_warning().iter().for_each(|warning| note(&format!("warning: {warning}")));
        anyhow::Ok(Some(ready.start()?))
    };
    tokio::select! {
        live = ready => live,
        () = stops.next() => Err(Stopped.into()),
    }
}

/// Shows the run until it is over. The first signal stops it gently, the second one at once. Returns how many came.
async fn drive(plan: &Plan, live: &mut Live, exporters: &mut Exporters, stops: &mut Stops) -> Result<(RunRecord, u32)> {
    let mut progress = Progress::new(live.planned_seconds());
    let mut screen = Screen::new(plan.output.quiet);
    let show = |screen: &mut Screen, progress: &Progress, watched: Vec<String>| {
        screen.show(
            progress.seconds(),
            |columns, _| vec![progress.terminal_line(columns, &watched)],
            || progress.line(&watched),
        );
    };
    show(&mut screen, &progress, Vec::new());
    let (mut signals, mut has_said_aborted) = (0, false);
    loop {
        let event = tokio::select! {
            event = live.next() => event?,
            () = stops.next() => {
                signals += 1;
                // From here on only answers are waited for.
                progress.close();
                screen.print(stopping(signals));
                live.stop(signals > 1);
                continue;
            }
        };
        match event {
            Event::Second { index, recorded } => {
                let interval = recorded.interval();
                exporters.second(index, &interval);
                progress.add(index, &interval);
                if let Some(reason) = live.aborted().filter(|_| !has_said_aborted) {
                    has_said_aborted = true;
                    progress.close();
                    screen.print(&format!("{reason}; waiting for requests in flight"));
                }
                show(&mut screen, &progress, live.watched());
            }
            Event::Incident(incident) => {
                if let Some(line) = incident_line(&incident, plan.output.verbose) {
                    screen.print(&line);
                }
            }
            Event::Finished(record) => {
                screen.end();
                return Ok((*record, signals));
            }
        }
    }
}

/// What is said of an incident, if anything.
fn incident_line(incident: &Incident, is_verbose: bool) -> Option<String> {
    let (what, failure) = match incident {
        Incident::NewError(failure) => ("first of its kind", failure),
        Incident::ReconnectFailed(failure) => ("while connecting anew", failure),
        Incident::StoodStill { started_s, seconds } => {
            return Some(format!("  The generator stood still for {seconds:.1} s at {started_s:.1} s"));
        }
    };
    is_verbose.then(|| printable(&format!("error ({what}): {}: {}", failure.class, failure.message)))
}
