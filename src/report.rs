//! From a result to something that people and programs read. Writes to a writer or returns text; never prints.
//!
//! - [`exporter`]: the interface of a format. [`json`], [`hdr_log`], [`text`], [`html`]: the formats. [`exporters`]: the files of a run.
//! - [`header`], [`preflight`], [`live`], [`live_fleet`]: what is said before and during the load.

pub mod exporter;
pub mod exporters;
pub mod hdr_log;
pub mod header;
mod headline;
pub mod html;
mod insight;
pub mod json;
mod layout;
pub mod live;
pub mod live_fleet;
pub mod output_file;
pub mod preflight;
pub mod text;
mod vms;
