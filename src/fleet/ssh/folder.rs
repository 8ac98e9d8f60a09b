//! The private folder of control sockets. Owns its name, its lock, and the sweep of folders that killed runs left.
//!
//! In it: `owner`, locked for as long as the owner lives; `config` for jump hosts; a folder an attempt with `m` (the
//! socket), `log`, and `way` (what is said on the way there).

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::error::{SshError, SshErrorKind};

/// Of `sockaddr_un`'s path, less what ssh appends for its temporary socket.
const LONGEST_SOCKET_BYTES: usize = 90;
/// The longest path of a socket within the folder.
const SOCKET_IN_FOLDER: &str = "/1000000/m";

/// The folder, removed when it is dropped.
#[derive(Debug)]
pub(super) struct SocketFolder {
    folder: TempDir,
    /// Holds the lock.
    _owner: File,
}

impl SocketFolder {
    pub(super) fn create() -> Result<Self, SshError> {
        let prefix = format!("plt-ssh-{}-", rustix::process::getuid().as_raw());
        let base = base_for(&prefix, &std::env::temp_dir());
        sweep(&base, &prefix);
        let private = fs::Permissions::from_mode(0o700);
        let made = tempfile::Builder::new().prefix(&prefix).permissions(private).tempdir_in(&base);
        let made = made.and_then(|folder| Ok(Self { _owner: lock(folder.path())?, folder }));
        made.map_err(|error| {
            let what = format!(
                "There is no place for the control sockets of ssh in {} ({error}): point TMPDIR to a folder that can be \
                 written.",
                base.display()
            );
            SshError::new(SshErrorKind::Local, what)
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The temporary folder, or `/tmp` where sockets below it would have too long a path.
fn base_for(prefix: &str, temporary: &Path) -> PathBuf {
    let longest = temporary.as_os_str().len() + 1 + prefix.len() + 6 + SOCKET_IN_FOLDER.len();
    if longest <= LONGEST_SOCKET_BYTES && temporary.is_absolute() {
        temporary.to_owned()
    } else {
        PathBuf::from("/tmp")
    }
}

/// The lock is there before its name is: a sweep never sees a folder that looks abandoned because it is new.
fn lock(folder: &Path) -> io::Result<File> {
    let unnamed = folder.join("owner.new");
    let owner = File::create(&unnamed)?;
    owner.lock()?;
    fs::rename(unnamed, folder.join("owner"))?;
    Ok(owner)
}

/// Removes folders of this user whose owner was killed. What ssh was left in them has ended by itself, or soon will.
fn sweep(base: &Path, prefix: &str) {
    let uid = rustix::process::getuid().as_raw();
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let is_private = entry
            .metadata()
            .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o777 == 0o700);
        if !entry.file_name().as_bytes().starts_with(prefix.as_bytes()) || !is_private {
            continue;
        }
        // A lock tells the living from the dead also where they see other process ids, as in containers. Where locks do not
        // work, as on some network file systems, nobody can tell: it stays.
        let Ok(owner) = File::open(entry.path().join("owner")) else { continue };
        if owner.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_temporary_folder_is_left_for_tmp() {
        assert_eq!(base_for("plt-ssh-0-", Path::new("/var/tmp")), Path::new("/var/tmp"));
        assert_eq!(base_for("plt-ssh-0-", Path::new(&format!("/{}", "x".repeat(80)))), Path::new("/tmp"));
        assert_eq!(base_for("plt-ssh-0-", Path::new("relative")), Path::new("/tmp"));
    }

    #[test]
    fn only_abandoned_folders_are_swept() {
        let base = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = base.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            path
        };
        let (dead, alive, new, other) = (folder("plt-x-dead"), folder("plt-x-alive"), folder("plt-x-new"), folder("x"));
        drop(lock(&dead).unwrap());
        let owner = lock(&alive).unwrap();
        drop(lock(&other).unwrap());
        sweep(base.path(), "plt-x-");
        assert_eq!([&dead, &alive, &new, &other].map(|path| path.exists()), [false, true, true, true]);
        drop(owner);
    }
}
