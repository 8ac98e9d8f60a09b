//! The options of `coordinator merge`.

use std::path::PathBuf;

use clap::Parser;

use super::{CriteriaOptions, EXIT_CODES};

/// Merges the JSON results of load_test --share 1/N ... N/N into one, exactly
#[derive(Parser, Clone, Debug)]
#[command(
    name = "merge",
    bin_name = "coordinator merge",
    max_term_width = 100,
    args_override_self = true,
    allow_negative_numbers = true,
    after_help = EXIT_CODES
)]
pub struct MergeOptions {
    /// Files with the JSON results of the single VMs, as load_test --json-output or --output wrote them; - is standard
    /// input
    ///
    /// A file may hold several, one after another.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    pub criteria: CriteriaOptions,

    /// Print one JSON document on stdout instead of the report
    #[arg(long, help_heading = "Output")]
    pub json_output: bool,

    /// Also write the JSON document to this file; - is stdout, as with --json-output
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Also write the result as one HTML page to this file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,
}
