//! Owns the question of who the throwaway server runs as, and how a PostgreSQL program is started on that
//! account's behalf. Must not know what the programs do.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::ThrowawayError;

/// Accounts that root may lend to the server, best first: the one made for it, and the one that owns nothing.
const STAND_INS: [&str; 2] = ["postgres", "nobody"];

/// Variables a relocated installation may need in order to find its libraries; nothing else is handed on, so
/// that neither libpq's settings nor the caller's secrets end in the server's environment.
const HANDED_ON: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"];

/// The account that PostgreSQL's programs run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The stand-in's name when root lends its place; `None` when the caller's own account is used.
    pub(super) stand_in: Option<&'static str>,
}

impl Account {
    /// The caller's own account, or a stand-in when the caller is root (as whom PostgreSQL refuses to run).
    pub(super) fn choose() -> Result<Self, ThrowawayError> {
        let uid = rustix::process::geteuid().as_raw();
        if uid != 0 {
            return Ok(Self { uid, gid: rustix::process::getegid().as_raw(), stand_in: None });
        }
        STAND_INS.into_iter().find_map(Self::stand_in).ok_or(ThrowawayError::NoAccount)
    }

    fn stand_in(name: &'static str) -> Option<Self> {
        let uid = ask_id("-u", name)?;
        let gid = ask_id("-g", name)?;
        (uid != 0).then_some(Self { uid, gid, stand_in: Some(name) })
    }

    /// A command for `program` as this account: a process group of its own (a terminal's Ctrl-C must not stop the
    /// server before its last requests), no input, a bare environment, and `directory` as home and working
    /// directory, which is also how its processes are recognised later.
    pub(super) fn command(&self, program: impl AsRef<OsStr>, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        for name in HANDED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", directory).env("LC_ALL", "C").env("TZ", "UTC");
        command.current_dir(directory).stdin(Stdio::null()).process_group(0);
        if self.stand_in.is_some() {
            // The standard library drops the supplementary groups along with the user.
            command.gid(self.gid).uid(self.uid);
        }
        command
    }

    /// Whether this account may pass through every folder on the way to `path`, and through `path` itself.
    pub(super) fn can_reach(&self, path: &Path) -> bool {
        path.ancestors().filter(|step| !step.as_os_str().is_empty()).all(|step| {
            std::fs::metadata(step).is_ok_and(|folder| {
                let bit = match () {
                    () if folder.uid() == self.uid => 0o100,
                    () if folder.gid() == self.gid => 0o010,
                    () => 0o001,
                };
                folder.is_dir() && folder.mode() & bit != 0
            })
        })
    }
}

/// `id` rather than /etc/passwd, because accounts may come from a directory service.
fn ask_id(flag: &str, name: &str) -> Option<u32> {
    let answer = Command::new("id").args([flag, name]).stdin(Stdio::null()).output().ok()?;
    if !answer.status.success() {
        return None;
    }
    String::from_utf8(answer.stdout).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn never_root() {
        let account = Account::choose().unwrap();
        assert_ne!(account.uid, 0);
        assert_eq!(account.stand_in.is_some(), rustix::process::geteuid().is_root());
    }

    #[test]
    fn a_locked_folder_on_the_way_is_noticed() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        let stranger = Account { uid: 4_000_000, gid: 4_000_000, stand_in: None };
        std::fs::set_permissions(outer.path(), Permissions::from_mode(0o700)).unwrap();
        assert!(!stranger.can_reach(&inner));
        std::fs::set_permissions(outer.path(), Permissions::from_mode(0o711)).unwrap();
        assert!(stranger.can_reach(&inner));
    }

    #[test]
    fn the_environment_is_bare() {
        let account = Account { uid: 1, gid: 1, stand_in: None };
        let command = account.command("true", Path::new("/"));
        assert!(
            command
                .get_envs()
                .all(|(name, _)| { HANDED_ON.iter().chain(&["HOME", "LC_ALL", "TZ"]).any(|allowed| name == *allowed) })
        );
    }
}
