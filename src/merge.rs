//! Results of several VMs → one result. Pure, but for [`files`], which reads the documents.
//!
//! Histograms are added, counts are summed, and percentiles are computed again from the sums, never averaged. Rates are
//! taken over the time in which all VMs were measuring. Documents may be broken or hostile: what does not belong together
//! or contradicts itself is refused with a sentence that names the VMs and what to do.

mod belonging;
mod bounds;
mod check;
mod clocks;
mod combine;
pub mod files;
mod outages;
mod rates;
mod server_stats;
mod stalls;
mod sums;
#[cfg(test)]
mod tests;
mod unreported;

pub(crate) use belonging::{comparable, differences};
pub(crate) use bounds::out_of_bounds;
pub(crate) use check::{check_whole, errors_disagree, figures_disagree, not_presentable};
pub(crate) use clocks::comparison;

use crate::result::{Accounting, ClockComparison, FailedVm, HistogramError, RunResult};
use crate::schedule::Share;

/// One VM's result, with what is known about it from outside.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name in the report.
    pub hostname: String,
    /// The file that it was read from; absent if an agent sent it.
    pub file: Option<String>,
    pub result: RunResult,
    /// How its clock compares, if that is known.
    pub clock: Option<ClockComparison>,
    /// When it began, compared with the common T0 on one clock for all, milliseconds.
    pub start_skew_ms: Option<f64>,
    /// Why its result ends early, if it does.
    pub lost: Option<String>,
}

impl Part {
    /// What messages call it: its file, where it has one, and the VM.
    pub(crate) fn label(&self) -> String {
        match &self.file {
            Some(file) => format!("{file} (VM {})", short(&self.hostname)),
            None => short(&self.hostname),
        }
    }
}

/// Why results cannot be merged. Each message is a sentence with a remedy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MergeError {
    #[error("no VM delivered a result")]
    Nothing,
    /// Written by a program whose documents this one does not know.
    #[error(
        "{host}: its document is {found}, and this program reads {} version {}; merge with the coordinator of the \
         release that wrote it",
        crate::result::FORMAT,
        crate::result::VERSION
    )]
    OtherFormat { host: String, found: String },
    #[error(
        "{} ran {} and {} ran {}, and results of different builds do not compare; run the same load_test on every \
         VM",
        hosts[0], builds[0], hosts[1], builds[1]
    )]
    OtherBuild { hosts: [String; 2], builds: [String; 2] },
    #[error(
        "{} and {} did not run the same test: {differences}; give every VM the same options (only --workers, \
         --threads and --share may differ), or merge them apart",
        hosts[0], hosts[1]
    )]
    UnlikeConfig {
        hosts: [String; 2],
        /// The first fields that differ, with both values.
        differences: String,
    },
    /// Each VM wrote to a database of its own.
    #[error(
        "{} and {} each ran against a throwaway server of its own, so there is no database that their sum describes; \
         give all VMs one database with --postgres-url",
        hosts[0], hosts[1]
    )]
    ThrowawayServers { hosts: [String; 2] },
    #[error("the same result was given twice: {} and {}; leave one of them out", hosts[0], hosts[1])]
    SameResultTwice { hosts: [String; 2] },
    #[error("{}", same_share(hosts, share))]
    SameShareTwice { hosts: [String; 2], share: Share },
    #[error(
        "{} ran a part of {} and {} a part of {}, and such parts overlap; give every VM the same N in --share I/N",
        hosts[0], of[0], hosts[1], of[1]
    )]
    OtherDivision {
        hosts: [String; 2],
        /// In how many parts each saw the test divided.
        of: [u64; 2],
    },
    /// A merged document has no share that could be added to others.
    #[error("{host}: this is a merged result already; merge the VMs' own results instead")]
    AlreadyMerged { host: String },
    #[error(
        "{host}: its document contradicts itself ({what}), so it was changed or damaged; use the file as load_test wrote it"
    )]
    Contradiction { host: String, what: String },
    #[error("{host}: its histogram of {histogram} cannot be used: {source}; use the file as load_test wrote it")]
    Histogram { host: String, histogram: String, source: HistogramError },
    #[error(
        "{} and {} ran at different times: {} had stopped measuring {apart_s:.1} s before {} began, so they never put \
         load on the database together; start all VMs at one time with --start-at",
        hosts[0], hosts[1], hosts[0], hosts[1]
    )]
    NoCommonTime {
        /// The first to end and the last to begin.
        hosts: [String; 2],
        /// From the one's end to the other's beginning, seconds.
        apart_s: f64,
    },
    /// Every part adds up, and the sum does not.
    #[error("the merged requests do not add up, which is a bug, so there is no report")]
    DoesNotAddUp,
}

impl MergeError {
    /// Whether the program itself is at fault.
    pub fn is_bug(&self) -> bool {
        matches!(self, Self::DoesNotAddUp)
    }
}

fn same_share(hosts: &[String; 2], share: &Share) -> String {
    let [one, other] = hosts;
    if *share == Share::WHOLE {
        return format!(
            "{one} and {other} each ran the whole schedule, so they are two tests; merge them apart, or run them again with \
             --share 1/2 and --share 2/2"
        );
    }
    format!(
        "{one} and {other} are two runs of share {} of {}; leave out the one that is not of this test, or run the test \
         again with a --share of its own for each process",
        share.index.saturating_add(1),
        share.of
    )
}

/// Merges the results of one test. `missing` are VMs that delivered nothing; shares that nobody delivered count as missing
/// VMs, too.
///
/// # Errors
/// The results do not belong together, or one of them contradicts itself.
pub fn merge(parts: Vec<Part>, missing: Vec<FailedVm>) -> Result<RunResult, MergeError> {
    merge_closed(parts, missing, None)
}

/// The same where the test was stopped `closed_ns` nanoseconds after T0, which counts where no VM is left to tell when its
/// window closed.
pub fn merge_closed(
    mut parts: Vec<Part>,
    missing: Vec<FailedVm>,
    closed_ns: Option<u64>,
) -> Result<RunResult, MergeError> {
    // One VM's histograms are decoded, added and let go before the next one's, so that memory does not grow with the number
    // of VMs.
    parts.sort_by(|a, b| order(a).cmp(&order(b)));
    let mut sums: Option<sums::Sums> = None;
    for part in &mut parts {
        let (result, figures) = check::check(part)?;
        sums.get_or_insert_with(|| sums::Sums::new(figures.phases.len())).add(&result, &figures);
        part.result = result;
    }
    clocks::compare(&mut parts);
    // One that is stopped while it waits for its last answers has a whole window.
    let is_cut = |part: &Part| {
        let run = &part.result.run;
        let whole_s = part.result.config.warmup_seconds + part.result.config.duration_seconds;
        run.interrupted && run.window_start_s + run.window_seconds < whole_s - 1e-8
    };
    // A test that was stopped as a whole reaches some VMs before the end of their windows, and others after it.
    if closed_ns.is_none() && parts.iter().any(|part| !is_cut(part) && part.lost.is_none()) {
        // Of a test that went on to its end, a part that was stopped is missing from then on.
        for part in parts.iter_mut().filter(|part| is_cut(part) && part.lost.is_none()) {
            part.lost = Some("it was stopped before its time".to_owned());
        }
    }
    belonging::check(&parts)?;
    let window_ns = unreported::test_window(&parts, closed_ns);
    let time = rates::common_time(&parts, window_ns.clone())?;
    let unreported = unreported::Unreported::of(&parts, &window_ns);
    let mut sums = sums.ok_or(MergeError::Nothing)?;
    let slots = unreported.total();
    sums.accounting.add(&Accounting { scheduled: slots, unreported: slots, ..Accounting::default() });
    if !sums.accounting.holds() {
        return Err(MergeError::DoesNotAddUp);
    }
    combine::combine(parts, missing, &time, &sums, &unreported)
}

/// By share, so that the order in which results were given does not matter.
fn order(part: &Part) -> (u64, u64, &str, &Option<String>) {
    (part.result.run.share.index, part.result.run.started_unix_ns, &part.hostname, &part.file)
}

/// A text from a document, in a length that fits a message.
pub(crate) fn short(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
