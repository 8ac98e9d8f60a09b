//! Owns the question of who the throwaway server runs as, and how a PostgreSQL program is started on that
//! account's behalf. Must not know what the programs do.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::ThrowawayError;
use super::program::{self, FOLDERS, find};

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
        let entries = std::fs::read_to_string(PASSWD).unwrap_or_default();
        let id = find("id");
        STAND_INS.into_iter().find_map(|name| Self::stand_in(name, &entries, id.as_deref())).ok_or_else(|| {
            let looked = match &id {
                Some(id) => format!("{PASSWD}, {}", id.display()),
                None => format!("{PASSWD}; the program id is neither on PATH nor in {}", FOLDERS.join(", ")),
            };
            ThrowawayError::NoAccount { looked }
        })
    }

    /// From the text of /etc/passwd; from the program `id` where accounts come from a directory service.
    fn stand_in(name: &'static str, entries: &str, id: Option<&Path>) -> Option<Self> {
        let asked = |flag| program::ask(id?, &[flag, name])?.parse().ok();
        let (uid, gid) = entry(entries, |fields| fields[0] == name).or_else(|| Some((asked("-u")?, asked("-g")?)))?;
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

const PASSWD: &str = "/etc/passwd";

/// User and group ID of the first account that is wanted, by the fields of its line.
fn entry(entries: &str, is_wanted: impl Fn(&[&str]) -> bool) -> Option<(u32, u32)> {
    let fields = entries.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut wanted = fields.filter(|fields| fields.len() >= 4 && is_wanted(fields));
    wanted.find_map(|fields| Some((fields[2].parse().ok()?, fields[3].parse().ok()?)))
}

/// An account other than root that has a name here: for a program that only has to look up its own.
pub(super) fn some_named_account() -> Option<(u32, u32)> {
    let entries = std::fs::read_to_string(PASSWD).ok()?;
    let found = STAND_INS.into_iter().find_map(|name| entry(&entries, |fields| fields[0] == name));
    found.or_else(|| entry(&entries, |fields| fields[2] != "0")).filter(|(uid, _)| *uid != 0)
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
    fn stand_ins_are_found_without_a_program() {
        let entries = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\nodd:line\npostgres:x:abc:1::/:\n";
        let found = |name, entries| Account::stand_in(name, entries, None).map(|account| (account.uid, account.gid));
        assert_eq!(found("nobody", entries), Some((65_534, 65_533)));
        assert_eq!(found("postgres", entries), None);
        assert_eq!(found("root", entries), None, "root is no stand-in for root");
        assert!(find("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find("no-program-of-this-name"), None);
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
