//! Owns finding PostgreSQL's server programs on this system, their version, and the advice for a system that has
//! none. Must not know what is done with them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::ThrowawayError;
use super::account::Account;
use super::program::{ask, is_program};

/// Where distributions, Homebrew and the installers for macOS put the server's programs; `*` stands for any text
/// within one component.
const USUAL_PLACES: [&str; 20] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/lib/postgresql*/bin",
    "/usr/lib64/postgresql*/bin",
    "/usr/libexec/postgresql*",
    "/usr/local/pgsql*/bin",
    "/usr/local/bin",
    "/usr/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/opt/homebrew/bin",
    "/usr/local/opt/postgresql*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
    "/home/linuxbrew/.linuxbrew/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/Library/PostgreSQL/*/bin",
    "/opt/local/lib/postgresql*/bin",
    "/opt/postgresql*/bin",
    "/snap/*/current/usr/lib/postgresql/*/bin",
    "/snap/*/current/bin",
    "/run/current-system/sw/bin",
];

/// The oldest major version whose postmaster.pid tells when the server is ready.
const OLDEST: u32 = 10;

/// A server's version as its own program states it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    pub major: u32,
    /// 4 of 16.4; `None` for a development or beta version.
    pub minor: Option<u32>,
}

impl ServerVersion {
    /// From a line such as `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` or `… 18beta1`.
    fn parse(line: &str) -> Option<Self> {
        let number = line.split("(PostgreSQL)").nth(1)?.split_whitespace().next()?;
        let (major, rest) =
            number.split_at(number.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(number.len()));
        let minor = rest.strip_prefix('.').and_then(|text| text.split('.').next()?.parse().ok());
        Some(Self { major: major.parse().ok()?, minor })
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(out, "{}.{minor}", self.major),
            None => write!(out, "{} (pre-release)", self.major),
        }
    }
}

/// A folder that holds `postgres` and `initdb`.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) dir: PathBuf,
    pub(super) version: ServerVersion,
}

/// The newest usable PostgreSQL in `dirs`, or on this system when `dirs` is `None`; of equals the one found first.
pub(super) fn locate(dirs: Option<&[PathBuf]>, account: &Account) -> Result<Programs, ThrowawayError> {
    let candidates = match dirs {
        Some(dirs) => dirs.to_vec(),
        None => system_candidates(std::env::var_os("PATH").as_deref()),
    };
    let mut seen = HashSet::new();
    let mut best: Option<Programs> = None;
    let mut unusable = None;
    let given = candidates.clone();
    for dir in candidates.into_iter().filter_map(|dir| real_dir(&dir)) {
        if !seen.insert(dir.clone()) {
            continue;
        }
        match probe(&dir, account) {
            Ok(version) if best.as_ref().is_none_or(|known| known.version < version) => {
                best = Some(Programs { dir, version });
            }
            Ok(_) => {}
            Err(reason) => unusable = unusable.or(Some(ThrowawayError::Unusable { dir, reason })),
        }
    }
    let not_installed =
        || ThrowawayError::NotInstalled { looked: looked(&given, dirs.is_none()), advice: advice_here() };
    best.ok_or_else(|| unusable.unwrap_or_else(not_installed))
}

/// Where the programs were looked for, and where one of them is without the other.
fn looked(dirs: &[PathBuf], on_system: bool) -> String {
    let mut looked = match (on_system, std::env::var_os("PATH").filter(|path| !path.is_empty())) {
        (false, _) => {
            format!("in {}", dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", "))
        }
        (true, Some(path)) => {
            format!("on PATH ({}) and in the usual places ({})", path.display(), USUAL_PLACES.join(", "))
        }
        (true, None) => format!("in the usual places ({}); PATH is not set", USUAL_PLACES.join(", ")),
    };
    for (there, missing) in [("postgres", "initdb"), ("initdb", "postgres")] {
        if let Some(dir) = dirs.iter().find(|dir| is_program(&dir.join(there)) && !is_program(&dir.join(missing))) {
            looked.push_str(&format!("; {} has {there}, but not {missing}", dir.display()));
        }
    }
    looked
}

/// The folder that the programs in `dir` really lie in, which has the rest of the installation beside them; `None`
/// when they are not both there.
fn real_dir(dir: &Path) -> Option<PathBuf> {
    let complete = |dir: &Path| ["postgres", "initdb"].iter().all(|name| is_program(&dir.join(name)));
    if !complete(dir) {
        return None;
    }
    let linked_from = dir.join("postgres").canonicalize().ok()?.parent()?.to_path_buf();
    if complete(&linked_from) { Some(linked_from) } else { dir.canonicalize().ok() }
}

/// Asked as the account that will run it: a folder below root's home is of no use to a stand-in.
fn probe(dir: &Path, account: &Account) -> Result<ServerVersion, String> {
    let program = dir.join("postgres");
    let output = account.command(&program, Path::new("/")).arg("--version").output().map_err(|error| {
        let who = account.stand_in.map_or(String::new(), |name| format!(" as the user {name}"));
        format!("{} cannot be run{who}: {error}", program.display())
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    match ServerVersion::parse(&text) {
        Some(version) if version.major >= OLDEST => Ok(version),
        Some(version) => Err(format!("version {version} is older than {OLDEST}")),
        None => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{} --version did not state a version: {}", program.display(), said.trim()))
        }
    }
}

fn system_candidates(path: Option<&OsStr>) -> Vec<PathBuf> {
    let on_path: Vec<PathBuf> =
        path.map(|path| std::env::split_paths(path).filter(|dir| dir.is_absolute()).collect()).unwrap_or_default();
    let configured = on_path.iter().map(|dir| dir.join("pg_config")).find(|program| is_program(program));
    let mut dirs = on_path;
    dirs.extend(configured.and_then(|program| ask(&program, &["--bindir"])).map(PathBuf::from));
    dirs.extend(USUAL_PLACES.iter().flat_map(|pattern| expand(Path::new("/"), pattern)));
    dirs
}

/// The existing folders below `root` that match `pattern`, in the order of their names.
fn expand(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![root.to_path_buf()];
    for component in pattern.split('/').filter(|component| !component.is_empty()) {
        found = found.iter().flat_map(|dir| step(dir, component)).collect();
    }
    found
}

fn step(dir: &Path, component: &str) -> Vec<PathBuf> {
    let Some((before, after)) = component.split_once('*') else {
        let next = dir.join(component);
        return if next.is_dir() { vec![next] } else { Vec::new() };
    };
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut matching: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    matching.sort();
    matching
}

fn advice_here() -> String {
    let os_release = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| fs::read_to_string(path).ok());
    advice(std::env::consts::OS, os_release.as_deref().unwrap_or(""), rustix::process::geteuid().is_root())
}

/// How PostgreSQL's server is installed on `os` (as `std::env::consts::OS` names it) with this os-release file.
fn advice(os: &str, os_release: &str, root: bool) -> String {
    let command = match os {
        "macos" => return "brew install postgresql@17".to_owned(),
        "freebsd" => Some("pkg install postgresql17-server"),
        "openbsd" => Some("pkg_add postgresql-server"),
        _ => families(os_release).iter().find_map(|family| match family.as_str() {
            "debian" | "ubuntu" => Some("apt-get install postgresql"),
            "fedora" | "rhel" | "centos" | "rocky" | "almalinux" => Some("dnf install postgresql-server"),
            "amzn" => Some("dnf install postgresql17-server"),
            "alpine" => Some("apk add postgresql"),
            "arch" => Some("pacman -S postgresql"),
            "suse" | "opensuse" | "sles" => Some("zypper install postgresql-server"),
            "gentoo" => Some("emerge dev-db/postgresql"),
            "void" => Some("xbps-install postgresql"),
            _ => None,
        }),
    };
    match command {
        Some(command) if root => command.to_owned(),
        Some(command) => format!("sudo {command}"),
        None if families(os_release).contains(&"nixos".to_owned()) => "nix-shell -p postgresql".to_owned(),
        None => "your system's package of the PostgreSQL server (https://www.postgresql.org/download/)".to_owned(),
    }
}

/// The system's own name first, then those it resembles.
fn families(os_release: &str) -> Vec<String> {
    let value = |key: &str| {
        os_release.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim_matches(['"', '\''])))
    };
    [value("ID"), value("ID_LIKE")].into_iter().flatten().flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    fn version(major: u32, minor: Option<u32>) -> ServerVersion {
        ServerVersion { major, minor }
    }

    #[test]
    fn versions() {
        for (line, expected) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", Some(version(15, Some(14)))),
            ("postgres (PostgreSQL) 17.0", Some(version(17, Some(0)))),
            ("postgres (PostgreSQL) 18beta1", Some(version(18, None))),
            ("postgres (PostgreSQL) 19devel", Some(version(19, None))),
            ("postgres (PostgreSQL) 9.6.24", Some(version(9, Some(6)))),
            ("postgres (EnterpriseDB) 15.1", None),
            ("", None),
        ] {
            assert_eq!(ServerVersion::parse(line), expected, "{line}");
        }
        assert!(version(17, Some(0)) > version(16, Some(9)));
        assert!(version(17, Some(0)) > version(17, None), "a release is newer than its betas");
    }

    #[test]
    fn advice_by_system() {
        for (os, release, expected) in [
            ("linux", "NAME=x\nID=debian\n", "sudo apt-get install postgresql"),
            ("linux", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "sudo apt-get install postgresql"),
            ("linux", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "sudo dnf install postgresql-server"),
            ("linux", "ID=alpine\n", "sudo apk add postgresql"),
            ("linux", "ID=manjaro\nID_LIKE=arch\n", "sudo pacman -S postgresql"),
            ("linux", "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n", "sudo zypper install postgresql-server"),
            ("linux", "ID=nixos\n", "nix-shell -p postgresql"),
            ("macos", "", "brew install postgresql@17"),
        ] {
            assert_eq!(advice(os, release, false), expected, "{release}");
        }
        assert_eq!(advice("linux", "ID=debian", true), "apt-get install postgresql");
        assert!(advice("linux", "", true).contains("https://"));
    }

    #[test]
    fn patterns_match_within_one_component() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["usr/lib/pg/14/bin", "usr/lib/pg/16/bin", "usr/lib/pg/17", "usr/pgsql-15/bin"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let found = |pattern| -> Vec<String> {
            expand(root.path(), pattern)
                .iter()
                .map(|path| path.strip_prefix(root.path()).unwrap().display().to_string())
                .collect()
        };
        assert_eq!(found("/usr/lib/pg/*/bin"), ["usr/lib/pg/14/bin", "usr/lib/pg/16/bin"]);
        assert_eq!(found("/usr/pgsql-*/bin"), ["usr/pgsql-15/bin"]);
        assert!(found("/nowhere/*/bin").is_empty());
    }

    /// A folder with a `postgres` that states `line` and an `initdb`.
    fn fake_installation(root: &Path, name: &str, line: &str) -> PathBuf {
        let dir = root.join(name);
        fs::create_dir(&dir).unwrap();
        for (program, text) in [("postgres", format!("#!/bin/sh\necho '{line}'\n")), ("initdb", "#!/bin/sh\n".into())] {
            // Written by another process: a descriptor of ours could be open in a child that another test is just
            // starting, and the file then be "busy".
            let write = "printf %s \"$2\" > \"$1\" && chmod 755 \"$1\"";
            let path = dir.join(program);
            assert!(Command::new("sh").args(["-c", write, "sh"]).arg(path).arg(text).status().unwrap().success());
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    #[test]
    fn the_newest_wins_and_the_unusable_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let account = Account::choose().unwrap();
        let older = fake_installation(root.path(), "a", "postgres (PostgreSQL) 14.9");
        let newest = fake_installation(root.path(), "b", "postgres (PostgreSQL) 16.2");
        let same = fake_installation(root.path(), "c", "postgres (PostgreSQL) 16.2");
        let ancient = fake_installation(root.path(), "d", "postgres (PostgreSQL) 9.6.1");
        let found = locate(Some(&[older, newest.clone(), same, ancient.clone()]), &account).unwrap();
        assert_eq!(found.dir, newest.canonicalize().unwrap());
        assert_eq!(found.version, version(16, Some(2)));
        let links = root.path().join("links");
        fs::create_dir(&links).unwrap();
        for program in ["postgres", "initdb"] {
            std::os::unix::fs::symlink(newest.join(program), links.join(program)).unwrap();
        }
        assert_eq!(locate(Some(&[links]), &account).unwrap().dir, newest.canonicalize().unwrap());
        let error = locate(Some(&[ancient]), &account).unwrap_err();
        assert!(matches!(error, ThrowawayError::Unusable { .. }), "{error}");
        fs::remove_file(newest.join("initdb")).unwrap();
        let error = locate(Some(&[root.path().join("absent"), newest.clone()]), &account).unwrap_err().to_string();
        let half = format!("{} has postgres, but not initdb", newest.display());
        assert!(error.contains("absent, ") && error.contains(&half) && error.contains("install"), "{error}");
    }
}
