//! One file that a run writes. It is opened before the run, and stays as it was until it is first written to.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::cli::options::descriptor_of;

/// A file that cannot be had or written. Names the option.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("{flag} {what}: {source}")]
    System { flag: &'static str, what: String, source: io::Error },
    /// One of two writers would overwrite what the other wrote.
    #[error("{flag} {path} is the same file as {other}; give each a file of its own")]
    SameFile { flag: &'static str, path: String, other: &'static str },
}

/// A file, and what it was when it was opened.
#[derive(Debug)]
pub(super) struct OutputFile {
    /// The option that names it.
    flag: &'static str,
    /// As given.
    path: PathBuf,
    file: File,
    /// Whether it has just been created, and is empty.
    is_new: bool,
    /// Whether it is a descriptor of ours (`/dev/stderr`, `/dev/fd/3`): somebody else may have written to it, so output
    /// is appended.
    is_descriptor: bool,
    has_begun: bool,
}

impl OutputFile {
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
        let (path, is_descriptor) = (path.to_owned(), descriptor.is_some());
        Ok(Self { flag, path, file, is_new, is_descriptor, has_begun: false })
    }

    /// Its device and inode, where two writers would spoil it.
    fn identity(&self) -> Option<(u64, u64)> {
        identity(self.file.metadata().ok()?)
    }

    /// # Errors
    /// Both are one file.
    pub(super) fn check_unlike(&self, other: &Self) -> Result<(), OutputError> {
        self.check_other(other.identity(), other.flag)
    }

    /// # Errors
    /// Standard output or standard error is redirected to the same file.
    pub(super) fn check_unlike_streams(&self) -> Result<(), OutputError> {
        if self.is_descriptor {
            // Whoever names a descriptor knows where it leads, and nothing is overwritten.
            return Ok(());
        }
        let of = |stream: io::Result<std::os::fd::OwnedFd>| identity(File::from(stream.ok()?).metadata().ok()?);
        self.check_other(of(io::stdout().as_fd().try_clone_to_owned()), "standard output")?;
        self.check_other(of(io::stderr().as_fd().try_clone_to_owned()), "standard error")
    }

    fn check_other(&self, identity: Option<(u64, u64)>, other: &'static str) -> Result<(), OutputError> {
        match identity.is_some() && self.identity() == identity {
            true => Err(OutputError::SameFile { flag: self.flag, path: self.path.display().to_string(), other }),
            false => Ok(()),
        }
    }

    pub(super) fn cannot_write(&self, source: io::Error) -> OutputError {
        OutputError::System { flag: self.flag, what: "cannot be written".to_owned(), source }
    }
}

/// The first write empties the file; from then on it stays.
impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.has_begun, true) {
            // A pipe or terminal has nothing to empty.
            if !self.is_descriptor && self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.is_new && !self.has_begun {
            // An empty file would look like a result.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(metadata: Metadata) -> Option<(u64, u64)> {
    let kind = metadata.file_type();
    (kind.is_file() || kind.is_fifo()).then(|| (metadata.dev(), metadata.ino()))
}
