//! One file that a run writes. It is opened before the run and written after it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::outputs::OutputError;
use crate::cli::options::descriptor_of;

/// A file that is open and still as it was found.
#[derive(Debug)]
pub(super) struct OutputFile {
    /// As given.
    pub(super) path: PathBuf,
    file: Option<File>,
    /// Whether the file has just been created, and is empty.
    is_new: bool,
    /// Whether the file is a descriptor of ours (`/dev/stderr`, `/dev/fd/3`): somebody else may have written to it, so
    /// output is appended.
    is_descriptor: bool,
}

impl OutputFile {
    /// Opens a file for writing, and creates it where there is none.
    pub(super) fn open(flag: &'static str, path: &Path) -> Result<Self, OutputError> {
        let descriptor = descriptor_of(path);
        let (file, is_new) = match descriptor {
            Some(2) => (io::stderr().as_fd().try_clone_to_owned().map(File::from), false),
            Some(_) => (OpenOptions::new().append(true).open(path), false),
            None => match OpenOptions::new().write(true).create_new(true).open(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // A symbolic link to nothing exists, too.
                    (OpenOptions::new().write(true).create(true).truncate(false).open(path), false)
                }
                created => (created, true),
            },
        };
        let what = || format!("cannot be written to {}; give another path", path.display());
        let file = file.map_err(|source| OutputError::System { flag, what: what(), source })?;
        Ok(Self { path: path.to_owned(), file: Some(file), is_new, is_descriptor: descriptor.is_some() })
    }

    /// Its device and inode, where two writers would spoil it.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        identity(self.file.as_ref()?.metadata().ok()?)
    }

    /// Whether it is the file with this device and inode.
    pub(super) fn is_same_file(&self, other: Option<(u64, u64)>) -> bool {
        other.is_some() && self.identity() == other
    }

    /// Standard output and standard error may be redirected to the same file.
    ///
    /// # Errors
    /// One of them is.
    pub(super) fn check_unlike_streams(&self, flag: &'static str) -> Result<(), OutputError> {
        if self.is_descriptor {
            // Whoever names a descriptor knows where it leads, and nothing is overwritten.
            return Ok(());
        }
        let of = |stream: io::Result<std::os::fd::OwnedFd>| identity(File::from(stream.ok()?).metadata().ok()?);
        let streams = [
            (of(io::stdout().as_fd().try_clone_to_owned()), "standard output"),
            (of(io::stderr().as_fd().try_clone_to_owned()), "standard error"),
        ];
        match streams.into_iter().find(|(stream, _)| self.is_same_file(*stream)) {
            Some((_, stream)) => Err(same_file(flag, &self.path, stream)),
            None => Ok(()),
        }
    }

    /// Empties it for writing. From here on it stays.
    pub(super) fn begin(mut self) -> io::Result<File> {
        let file = self.file.take().ok_or(io::ErrorKind::NotFound)?;
        // A pipe or terminal has nothing to empty.
        if !self.is_descriptor && file.metadata()?.is_file() {
            file.set_len(0)?;
        }
        Ok(file)
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.file.is_some() && self.is_new {
            // An empty file would look like a result.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What says that one of two writers would overwrite what the other wrote.
pub(super) fn same_file(flag: &'static str, path: &Path, other: &'static str) -> OutputError {
    OutputError::SameFile { flag, path: path.display().to_string(), other }
}

fn identity(metadata: Metadata) -> Option<(u64, u64)> {
    let kind = metadata.file_type();
    (kind.is_file() || kind.is_fifo()).then(|| (metadata.dev(), metadata.ino()))
}
