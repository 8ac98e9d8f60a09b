//! Owns the private folder: where it may lie, how it is made, marked, locked, written to and removed, and the
//! clearing of folders whose owner was killed. Must not know PostgreSQL beyond "the data directory is in `data`".
//!
//! ```text
//! pg_load_test-XXXXXXXXXXXX   the caller's; a stand-in account may pass through it, not change it
//! ├ marker                    says what this is; locked (flock) for as long as the owner lives
//! ├ postgresql.conf …         written by the caller, read by the server
//! ├ data                      the server's account's
//! └ socket                    the server's account's
//! ```
//!
//! The outer folder and the marker stay with the caller, so that a program of the stand-in account can neither take
//! the marker away nor lead the removal elsewhere. For the same reason root clears only what root has made.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::account::Account;
use super::{ThrowawayError, processes};

/// What the name of every folder begins with.
pub(super) const PREFIX: &str = "pg_load_test-";
const MARKER: &str = "marker";
const MARKER_TEXT: &str = "postgres_load_test: a throwaway server; removed by its owner or by the next run\n";
const RANDOM_LETTERS: usize = 12;

/// The shorter of the limits on a socket's path (macOS 104 bytes, Linux 108), less the closing zero.
const SOCKET_PATH_BYTES: usize = 103;
/// What follows the folder in the socket's path, with the longest port.
const SOCKET_TAIL: &str = "/socket/.s.PGSQL.65535";

/// A folder of our own; removed when dropped.
#[derive(Debug)]
pub(super) struct PrivateFolder {
    path: PathBuf,
    /// Held, not read: the lock ends with this descriptor, which no child inherits.
    _lock: File,
}

impl PrivateFolder {
    pub(super) fn create(root: &Path, account: &Account) -> io::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .rand_bytes(RANDOM_LETTERS)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(root)?;
        if account.stand_in.is_some() {
            chown(folder.path(), None, Some(account.gid))?;
            fs::set_permissions(folder.path(), Permissions::from_mode(0o710))?;
        }
        for inner in ["data", "socket"] {
            let path = folder.path().join(inner);
            DirBuilder::new().mode(0o700).create(&path)?;
            if account.stand_in.is_some() {
                chown(&path, Some(account.uid), Some(account.gid))?;
            }
        }
        let mut marker =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(folder.path().join(MARKER))?;
        // Locked before it is marked, so that it never looks left over. Waiting, because a sweeper may hold the lock
        // for the moment it takes to see that there is no mark yet.
        flock(&marker, FlockOperation::LockExclusive)?;
        marker.write_all(MARKER_TEXT.as_bytes())?;
        Ok(Self { path: folder.keep(), _lock: marker })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file that the server's account may read, and nobody else.
    pub(super) fn write(&self, name: &str, text: &str, account: &Account) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        if account.stand_in.is_some() {
            chown(&path, None, Some(account.gid))?;
            fs::set_permissions(&path, Permissions::from_mode(0o640))?;
        }
        file.write_all(text.as_bytes())?;
        Ok(path)
    }

    /// Removes everything now rather than on drop, and says whether it worked.
    pub(super) fn remove(self) -> io::Result<()> {
        remove(&self.path)
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // There is nobody to tell; the next run tries again.
        let _ = remove(&self.path);
    }
}

/// The marker goes last: a removal that is cut short can be taken up again.
fn remove(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == MARKER {
            continue;
        }
        let removed =
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        ignore_missing(removed)?;
    }
    ignore_missing(fs::remove_file(path.join(MARKER)))?;
    ignore_missing(fs::remove_dir(path))
}

/// Somebody who clears temporary files may have been quicker.
fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Where folders may be made, best first: `asked` alone if there is one.
pub(super) fn roots(asked: Option<&Path>) -> Vec<PathBuf> {
    if let Some(asked) = asked {
        return vec![asked.to_path_buf()];
    }
    let mut roots = vec![std::env::temp_dir()];
    for usual in ["/tmp", "/var/tmp"].map(PathBuf::from) {
        if !roots.contains(&usual) {
            roots.push(usual);
        }
    }
    roots
}

/// The first of `roots` that the account can reach and whose sockets have a short enough path. A root that keeps its
/// files in memory comes last, unless it was chosen (`chosen`: by TMPDIR or the caller): a load test would fill the
/// memory and measure no disk.
pub(super) fn choose_root(roots: &[PathBuf], account: &Account, chosen: bool) -> Result<PathBuf, ThrowawayError> {
    let mut reasons = Vec::new();
    let mut fit = Vec::new();
    for root in roots {
        match fitness(root, account) {
            Ok(root) => fit.push(root),
            Err(reason) => reasons.push(format!("{}: {reason}", root.display())),
        }
    }
    let on_disk = if chosen { None } else { fit.iter().find(|root| !in_memory(root)) };
    let best = on_disk.or(fit.first()).cloned();
    best.ok_or_else(|| ThrowawayError::NoRoot { reasons: reasons.join("; ") })
}

/// The root's real path, or why it cannot be used.
fn fitness(root: &Path, account: &Account) -> Result<PathBuf, String> {
    let root = root.canonicalize().map_err(|error| error.to_string())?;
    let Some(text) = root.to_str() else { return Err("the path is not UTF-8".to_owned()) };
    if text.contains([',', '\n', '"', '\'', '\\']) {
        return Err("the path has a letter in it that separates or quotes in a connection string".to_owned());
    }
    let bytes = text.len() + 1 + PREFIX.len() + RANDOM_LETTERS + SOCKET_TAIL.len();
    if bytes > SOCKET_PATH_BYTES {
        return Err(format!("a socket's path in it would have {bytes} bytes, and {SOCKET_PATH_BYTES} are possible"));
    }
    if !account.can_reach(&root) {
        let who = account.stand_in.map_or("this user".to_owned(), |name| format!("the user {name}, as whom it runs,"));
        return Err(format!("{who} has no access to it"));
    }
    Ok(root)
}

/// Whether files below `path` are kept in memory (tmpfs). Known on Linux only.
#[cfg(target_os = "linux")]
pub(super) fn in_memory(path: &Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // The field's type differs between architectures.
    rustix::fs::statfs(path).is_ok_and(|system| system.f_type as i64 == TMPFS_MAGIC)
}

/// Whether files below `path` are kept in memory (tmpfs). Known on Linux only.
#[cfg(not(target_os = "linux"))]
pub(super) fn in_memory(_path: &Path) -> bool {
    false
}

/// Clears what killed owners left in `root`: ends the servers and removes the folders. `before_removal` is called
/// with each folder once its processes are gone. Returns the folders that are gone.
///
/// Only a real folder of this very user with our prefix, our marker in it and nobody's lock on the marker is
/// touched. Faults are passed over: what cannot be cleared now is met again by the next run.
pub(super) fn sweep(root: &Path, before_removal: impl Fn(&Path)) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .filter(|path| clear_if_stale(path, &before_removal).unwrap_or(false))
        .collect()
}

fn clear_if_stale(path: &Path, before_removal: impl Fn(&Path)) -> io::Result<bool> {
    let folder = fs::symlink_metadata(path)?;
    let own = rustix::process::geteuid().as_raw();
    if !folder.is_dir() || folder.uid() != own {
        return Ok(false);
    }
    // Neither following a link nor waiting for a pipe's other end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut marker =
        OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path.join(MARKER))?;
    let opened = marker.metadata()?;
    if !opened.is_file() || opened.uid() != own {
        return Ok(false);
    }
    if flock(&marker, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    let mut text = String::new();
    Read::by_ref(&mut marker).take(MARKER_TEXT.len() as u64 + 1).read_to_string(&mut text)?;
    // Without a link: another run has removed it between our opening and our locking.
    if text != MARKER_TEXT || marker.metadata()?.nlink() == 0 {
        return Ok(false);
    }
    if !processes::halt(&path.join("data")).is_empty() {
        return Ok(false);
    }
    before_removal(path);
    remove(path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// The caller's own account, even if that is root: no server is started here.
    fn own_account() -> Account {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Account { uid, gid, stand_in: None }
    }

    /// What is left of a folder whose owner was killed.
    fn abandoned(root: &Path) -> PathBuf {
        let folder = PrivateFolder::create(root, &own_account()).unwrap();
        let path = folder.path().to_path_buf();
        let copy = root.join(format!("{PREFIX}abandoned"));
        fs::create_dir(&copy).unwrap();
        fs::create_dir(copy.join("data")).unwrap();
        fs::write(copy.join("data/file"), "x").unwrap();
        fs::copy(path.join(MARKER), copy.join(MARKER)).unwrap();
        copy
    }

    #[test]
    fn a_folder_goes_with_its_owner() {
        let root = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::create(root.path(), &own_account()).unwrap();
        let path = folder.path().to_path_buf();
        folder.write("x.conf", "a", &own_account()).unwrap();
        fs::write(folder.path().join("data/deep"), "x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_living_owner_is_left_alone_and_a_dead_one_cleared() {
        let root = tempfile::tempdir().unwrap();
        let living = PrivateFolder::create(root.path(), &own_account()).unwrap();
        let dead = abandoned(root.path());
        assert_eq!(sweep(root.path(), |_| ()), std::slice::from_ref(&dead));
        assert!(!dead.exists());
        assert!(living.path().join("data").exists());
    }

    #[test]
    fn foreign_folders_stay() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let named = |name: &str| root.path().join(format!("{PREFIX}{name}"));
        fs::create_dir(named("unmarked")).unwrap();
        fs::create_dir(named("other-text")).unwrap();
        fs::write(named("other-text").join(MARKER), "mine").unwrap();
        fs::create_dir(named("longer-text")).unwrap();
        fs::write(named("longer-text").join(MARKER), format!("{MARKER_TEXT}and more")).unwrap();
        fs::create_dir(named("empty")).unwrap();
        fs::write(named("empty").join(MARKER), "").unwrap();
        fs::create_dir(named("linked-marker")).unwrap();
        fs::write(elsewhere.path().join("text"), MARKER_TEXT).unwrap();
        symlink(elsewhere.path().join("text"), named("linked-marker").join(MARKER)).unwrap();
        symlink(abandoned(elsewhere.path()), named("link")).unwrap();
        fs::write(named("file"), "x").unwrap();
        fs::create_dir(root.path().join("unrelated")).unwrap();
        fs::write(root.path().join("unrelated").join(MARKER), MARKER_TEXT).unwrap();
        assert!(sweep(root.path(), |_| ()).is_empty());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 8);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 2);
    }

    #[test]
    fn links_inside_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let precious = tempfile::tempdir().unwrap();
        fs::write(precious.path().join("file"), "x").unwrap();
        let dead = abandoned(root.path());
        symlink(precious.path(), dead.join("data/link")).unwrap();
        symlink(precious.path(), dead.join("link")).unwrap();
        assert_eq!(sweep(root.path(), |_| ()).len(), 1);
        assert!(precious.path().join("file").exists());
    }

    #[test]
    fn sweepers_at_the_same_time_do_no_harm() {
        let root = tempfile::tempdir().unwrap();
        let living = PrivateFolder::create(root.path(), &own_account()).unwrap();
        for _ in 0..20 {
            let dead = abandoned(root.path());
            let cleared: usize = std::thread::scope(|scope| {
                let sweepers: Vec<_> = (0..4).map(|_| scope.spawn(|| sweep(root.path(), |_| ()).len())).collect();
                sweepers.into_iter().map(|sweeper| sweeper.join().unwrap()).sum()
            });
            assert_eq!(cleared, 1);
            assert!(!dead.exists());
        }
        assert!(living.path().join("data").exists());
    }

    #[test]
    fn unfit_roots_are_named_with_the_reason() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let long = root.path().join("x".repeat(80));
        fs::create_dir(&long).unwrap();
        let account = own_account();
        let error = choose_root(std::slice::from_ref(&long), &account, true).unwrap_err().to_string();
        assert!(error.contains("bytes"), "{error}");
        let error = choose_root(&[root.path().join("missing")], &account, true).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
        let chosen = choose_root(&[long, root.path().to_path_buf()], &account, true).unwrap();
        assert_eq!(chosen, root.path().canonicalize().unwrap());
    }
}
