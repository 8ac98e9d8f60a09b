//! The private folder of control sockets, and the guard that removes it with all masters in it when this process is gone,
//! be it by SIGKILL. Owns its name, its lock, and the sweep of folders whose owner and guard are both gone.
//!
//! In it: `owner`, locked for as long as the owner lives; `config` for jump hosts; a folder an attempt with `m` (the
//! socket), `log`, `way` (what is said on the way there), and `pid` (of the ssh process, while it runs).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::error::{SshError, SshErrorKind};

/// Of `sockaddr_un`'s path, less what ssh appends for its temporary socket.
const LONGEST_SOCKET_BYTES: usize = 90;
/// The longest path of a socket within the folder.
const SOCKET_IN_FOLDER: &str = "/1000000/m";
const GUARD_ENDS_WITHIN: Duration = Duration::from_secs(4);

/// Waits for the end of the pipe, then ends every process whose id stands in the folder and whose command line names the
/// folder, politely, a second later by force; then removes the folder, its argument.
const GUARD: &str = r#"
trap '' INT HUP TERM
while read -r _; do :; done
each() {
  left=
  for file in "$1"/*/pid; do
    [ -r "$file" ] && read -r pid <"$file" || continue
    if [ -d /proc/self ]; then
      grep -qF -- "$1/" "/proc/$pid/cmdline" || continue
    else
      ps -o command= -p "$pid" | grep -qF -- "$1/" || continue
    fi
    kill -"$2" "-$pid" 2>/dev/null
    kill -"$2" "$pid" && left=1
  done
}
each "$1" TERM
[ -z "$left" ] || sleep 1
each "$1" KILL
rm -rf -- "$1"
"#;

/// The folder and its guard.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    guard: Option<Child>,
    /// Holds the lock.
    _owner: File,
}

impl Folder {
    pub(super) fn create() -> Result<Self, SshError> {
        let prefix = format!("plt-ssh-{}-", rustix::process::getuid().as_raw());
        let base = base_for(&prefix, &std::env::temp_dir());
        sweep(&base, &prefix);
        let failed = |what: &str, error: &io::Error| {
            let base = base.display();
            let what = format!("{what} in {base} ({error}): point TMPDIR to a folder that can be written.");
            SshError::new(SshErrorKind::Local, what)
        };
        let no_folder = |error: io::Error| failed("There is no place for the control sockets of ssh", &error);
        let private = fs::Permissions::from_mode(0o700);
        let path = tempfile::Builder::new().prefix(&prefix).permissions(private).tempdir_in(&base);
        let path = path.map_err(no_folder)?.keep();
        let made = lock(&path).and_then(|owner| Ok((owner, guard(&path)?)));
        match made {
            Ok((owner, guard)) => Ok(Self { path, guard: Some(guard), _owner: owner }),
            Err(error) => {
                let _ = fs::remove_dir_all(&path);
                Err(failed("The guard of the control sockets cannot be started", &error))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder; the guard finds nothing left to do, and is waited for.
    pub(super) async fn remove(mut self) {
        let _ = fs::remove_dir_all(&self.path);
        let Some(mut guard) = self.guard.take() else { return };
        drop(guard.stdin.take());
        let ended = async {
            while matches!(guard.try_wait(), Ok(None)) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(GUARD_ENDS_WITHIN, ended).await.is_err() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
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

/// In a process group of its own, so that what a terminal sends to ours does not reach it.
fn guard(folder: &Path) -> io::Result<Child> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", GUARD, "sh"]).arg(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir("/").process_group(0).spawn()
}

/// Removes folders of this user whose owner is gone, with the masters in them: their guard was killed too.
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
        let path = entry.path();
        // A lock tells the living from the dead also where they see other process ids, as in containers.
        let Ok(owner) = File::open(path.join("owner")) else { continue };
        // Where locks do not work, as on some network file systems, nobody can tell: it stays.
        if owner.try_lock().is_ok() {
            remove_abandoned(&path);
        }
    }
}

fn remove_abandoned(folder: &Path) {
    // With an empty stdin the guard's script does its work at once.
    let mut command = Command::new("/bin/sh");
    command.args([OsStr::new("-c"), OsStr::new(GUARD), OsStr::new("sh"), folder.as_os_str()]);
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/").status();
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
