//! From a result to something that people read. Writes to an `impl Write` or returns text; never prints.

pub mod fleet;
pub mod hdr_log;
mod headline;
pub mod live;
pub mod live_fleet;
mod output_file;
pub mod outputs;
pub mod preflight;
pub mod text;
