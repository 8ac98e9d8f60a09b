//! What the result of several VMs has in addition. Pure.

use serde::{Deserialize, Serialize};

use super::RunResult;

/// These fields stand at the top level of the document; the result of one run has none of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fleet {
    /// Several VMs: whether every VM delivered its whole result. Says nothing about the figures; see `status`.
    pub success: bool,
    /// Several VMs: how many were asked for.
    pub num_vms: usize,
    /// Several VMs: those whose result is missing or ends early.
    pub failed_vms: Vec<FailedVm>,
    /// Several VMs: those that measured something, in the order of their shares.
    pub per_vm_results: Vec<VmResult>,
    /// Several VMs: time between the first VM to begin and the last one; `null` if their clocks were not compared.
    pub start_skew_ms: Option<f64>,
}

/// A VM whose result is missing or ends early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FailedVm {
    /// As given in `--vms`, or the name of its file.
    pub hostname: String,
    /// Why.
    pub error: String,
}

/// One VM of several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmResult {
    /// As given in `--vms`, or the VM's own name.
    pub hostname: String,
    /// Its `throughput.actual_rps`.
    pub actual_rps: f64,
    /// Its `throughput.success_rate`, percent.
    pub success_rate: Option<f64>,
    /// Its `latency_ms.p50`.
    pub latency_p50: Option<f64>,
    /// How its clock compares; `null` if that is not known.
    pub clock: Option<ClockComparison>,
    /// When it began, compared with the common T0 on one clock for all VMs; negative is early. `null` if not known.
    pub start_skew_ms: Option<f64>,
    /// Why its result ends early, at its last snapshot; `null` if it is whole.
    pub lost: Option<String>,
    /// Slots of its share that nobody reported because it was lost: its part of `accounting.unreported`.
    pub slots_lost: u64,
    /// Its own document, with its figures computed again from its histograms and counts.
    pub result: Box<RunResult>,
}

/// A VM's wall clock, compared with a reference that is the same for all VMs. The bound is half of the smallest round trip.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClockComparison {
    /// How far it was ahead of the reference before T0.
    pub offset_ms: f64,
    /// The true offset differs by no more than this.
    pub bound_ms: f64,
    /// How far it was ahead after the test; `null` if the VM was lost or merged from a file.
    pub offset_after_ms: Option<f64>,
    /// The bound of `offset_after_ms`.
    pub bound_after_ms: Option<f64>,
    /// Whose clock the offsets compare with.
    #[serde(default)]
    pub reference: ClockReference,
}

/// A clock that those of all VMs are compared with: the one that can be read more exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ClockReference {
    /// The coordinator's.
    #[default]
    Coordinator,
    /// The database server's.
    Database,
}
