//! Why there is no test, as a sentence or a list of VMs.

use super::binary::BinaryError;
use super::ssh::SshError;
use crate::merge::MergeError;
use crate::result::FailedVm;
use crate::text::grouped;

/// The phase in which some VMs may be running already.
pub(super) const STARTING: &str = "starting";

pub(super) const RUNNING: &str = "running";

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error(transparent)]
    Ssh(#[from] SshError),
    #[error(transparent)]
    Binary(#[from] BinaryError),
    #[error("the load_test beside this program is not found ({0}); build both, or give --agent-binary")]
    NoBinary(std::io::Error),
    #[error("{}", told(.phase, .failures))]
    Vms { phase: &'static str, failures: Vec<FailedVm> },
    #[error(transparent)]
    Merge(#[from] MergeError),
}

fn told(phase: &str, failures: &[FailedVm]) -> String {
    let said = failures.iter().map(|vm| (vm.hostname.as_str(), vm.error.as_str()));
    let line = |sentence: String| format!("\n{}", sentence.replace('\n', "\n  "));
    let lines: Vec<String> = grouped::sentences(said).into_iter().map(line).collect();
    let vms = if failures.len() == 1 { "a VM".to_owned() } else { format!("{} VMs", failures.len()) };
    let outcome = match phase {
        STARTING => "all were stopped as the load began",
        RUNNING => "there is nothing to report",
        _ => "no load was started",
    };
    format!("{vms} failed while {phase}, so {outcome}:{}", lines.concat())
}
