//! The options of `load_test report`.

use std::path::PathBuf;

use clap::Parser;

use crate::cli::values;
use crate::verdict::Slo;

/// Shows the JSON result of an earlier run or merge: as text, or as an HTML page
#[derive(Parser, Clone, Debug)]
#[command(
    name = "report",
    bin_name = "load_test report",
    max_term_width = 100,
    args_override_self = true,
    allow_negative_numbers = true,
    after_help = "Exit codes: 0 it was shown; 2 wrong use; 3 a file cannot be read or written."
)]
pub struct ReportOptions {
    /// File with the JSON result, as --json-output or --output of load_test, coordinator or coordinator merge wrote it; - is
    /// standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Write the result as one HTML page to this file instead of printing it; - is stdout
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,

    /// Latency limit to mark in the page, such as 'p99<20ms'; repeatable
    ///
    /// The verdict stays as it was.
    #[arg(long, value_name = "LIMIT", value_parser = values::slo, help_heading = "Output")]
    pub slo: Vec<Slo>,
}
