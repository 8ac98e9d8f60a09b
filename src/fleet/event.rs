//! What happens while the load runs, for who shows it. VMs are told by their place in the list.

use crate::measure::recorder::Interval;

#[derive(Debug)]
pub enum FleetEvent {
    /// A VM's second `index` since T0.
    Second { vm: usize, index: u64, interval: Box<Interval> },
    /// What the monitors of a VM show now, a few words each. One VM of a test watches the server.
    Watched { vm: usize, readings: Vec<String> },
    /// The first error of a class on a VM.
    Incident { vm: usize, class: String, message: String },
    /// Why stands in [`super::Vm::lost`].
    Lost { vm: usize },
    /// A VM's result is there.
    Delivered { vm: usize },
    /// Nothing more is expected.
    Finished,
}
