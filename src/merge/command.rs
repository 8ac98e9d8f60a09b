//! `coordinator merge`: read → merge → judge. Printing is the program's.

use std::io::Read;

use super::MergeError;
use super::files::{self, ReadError};
use crate::cli::options::MergeOptions;
use crate::cli::plan::criteria;
use crate::result::RunResult;
use crate::verdict;

/// Why there is no merged result.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A file.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The results do not belong together.
    #[error(transparent)]
    Merge(#[from] MergeError),
}

/// Merges the results that the options name, and judges the sum. `stdin` is read where one of the files is `-`.
///
/// # Errors
/// A file cannot be read, or the results do not belong together.
pub fn run(options: &MergeOptions, stdin: &mut dyn Read) -> Result<RunResult, CommandError> {
    files::check_output(&options.files, options.output.as_deref())?;
    let parts = files::read(&options.files, stdin)?;
    let mut result = super::merge(parts, Vec::new())?;
    verdict::judge(&mut result, &criteria(&options.criteria));
    Ok(result)
}
