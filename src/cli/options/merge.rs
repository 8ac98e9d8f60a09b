//! The command line of `coordinator merge`, as typed.

use std::path::PathBuf;

use clap::Args;

use super::CriteriaOptions;

/// Which results are merged, and what they must reach.
#[derive(Args, Clone, Debug)]
pub struct MergeOptions {
    /// Files with the JSON results of the single machines, as load_test --json-output or --output wrote them; - for
    /// standard input. A file may hold several, one after another
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub criteria: CriteriaOptions,

    /// Print one JSON document on stdout instead of the report
    #[arg(long, help_heading = "Output")]
    pub json_output: bool,

    /// Also write the JSON document to this file; - is stdout, as with --json-output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
}
