//! From a result to something that people read. Writes to an `impl Write` or returns text; never prints.

pub mod hdr_log;
pub mod live;
pub mod text;
