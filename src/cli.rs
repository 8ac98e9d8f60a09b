//! What was asked for: the command lines, and what they mean.
//!
//! - [`options`]: options with their types and help texts. [`values`]: what may be typed for one option.
//! - [`mod@read`]: a command line → options, and all that is wrong with it. [`plan`]: options → the plan of a run.
//! - [`handover`]: takes the connection string out of the arguments of the process.

pub mod handover;
pub mod options;
pub mod plan;
mod read;
pub mod values;

pub use read::{all_or_faults, read};
