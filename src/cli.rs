//! What was asked for: the command lines as typed, and what they mean.
//!
//! - [`options`]: raw values and help texts. [`plan`]: the resolved plan of a run, or all that is wrong with the options.
//! - [`handover`]: takes passwords out of the arguments and the environment of the process.

pub mod handover;
pub mod options;
pub mod plan;
