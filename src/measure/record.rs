//! What a run leaves behind: raw counts and times, not yet judged. Pure.

use super::outages::Outage;
use super::recorder::Recorder;
use super::stalls::SeenStalls;
use super::timeline::Timeline;
use crate::clock::Epoch;

#[derive(Debug)]
pub struct RunRecord {
    /// All threads' recordings, added.
    pub recorder: Recorder,
    /// When requests of the window were completed.
    pub completed: Timeline,
    /// Times in which something was due and nothing was acknowledged.
    pub outages: Vec<Outage>,
    /// When the generator stood still, on the monotonic clock.
    pub seen: SeenStalls,
    /// T0.
    pub epoch: Epoch,
    /// End of the warm-up, nanoseconds after T0.
    pub window_start_ns: u64,
    /// End of the measured window, nanoseconds after T0: as planned, or when the run was interrupted.
    pub window_end_ns: u64,
    /// Whether it ended early.
    pub interrupted: bool,
    /// Slots that the cursor handed out.
    pub claimed: u64,
    /// CPU time of the whole process from T0 to the end of the drain, nanoseconds.
    pub process_cpu_ns: u64,
    /// What each thread needed from T0 to the end of the window.
    pub threads: Vec<ThreadTime>,
    /// How busy all processors of the machine were from T0 to the end of the window, percent; absent where the system does
    /// not tell.
    pub machine_cpu_pct: Option<f64>,
    /// How long after T0 the first thread began, nanoseconds; absent where none did.
    pub start_delay_ns: Option<u64>,
}

/// Processor time of a generator thread, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct ThreadTime {
    pub cpu_ns: u64,
    /// Time in the run queue; absent where the system does not tell.
    pub run_queue_ns: Option<u64>,
}
