//! What ssh's configuration says of the way to a host, as `ssh -G` tells it: jump hosts, ProxyCommand, agent, keys. And the
//! configuration that jump hosts need: an ssh that connects to one gets no option of ours but `-F`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// For ssh to read its configuration; `Match exec` and CanonicalizeHostname may take a while.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Jump hosts behind jump hosts; ssh itself ends at some depth, too.
const MOST_HOPS: usize = 8;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// In the order in which they are connected to, as ssh's configuration names them.
    pub(super) jumps: Vec<String>,
    /// Instead of jump hosts.
    pub(super) proxy_command: Option<String>,
    /// IdentityAgent, where the configuration sets it: a path, `SSH_AUTH_SOCK`, `$NAME` or `none`.
    pub(super) agent: Option<String>,
    /// Those that may exist.
    pub(super) keys: Vec<String>,
    /// The files that ssh reads by itself: the user's and the system's.
    pub(super) files: Vec<PathBuf>,
}

impl Route {
    /// Asks ssh. A configuration that it cannot read gives an empty route: connecting will tell why.
    pub(super) async fn ask(program: &Path, arguments: &[std::ffi::OsString]) -> Self {
        let mut command = Command::new(program);
        command.args(["-G", "-v"]).args(arguments);
        command.process_group(0).kill_on_drop(true).stdin(Stdio::null());
        match timeout(TOLD_WITHIN, command.output()).await {
            Ok(Ok(output)) if output.status.success() => {
                Self::parse(&String::from_utf8_lossy(&output.stdout), &String::from_utf8_lossy(&output.stderr))
            }
            _ => Self::default(),
        }
    }

    fn parse(told: &str, debug: &str) -> Self {
        let values = |name: &str| {
            let lines = told.lines().filter_map(|line| line.split_once(' '));
            lines.filter(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned()).collect::<Vec<_>>()
        };
        let value = |name: &str| values(name).into_iter().next().filter(|value| value != "none");
        let jumps = value("proxyjump").map(|jumps| jumps.split(',').map(str::to_owned).collect()).unwrap_or_default();
        let read = debug.lines().filter_map(|line| line.split_once("Reading configuration data "));
        let read: Vec<PathBuf> = read.map(|(_, path)| PathBuf::from(path.trim())).collect();
        // The files that these include are among them.
        let user = read.first().filter(|path| path.ends_with(".ssh/config"));
        let system = read.iter().find(|path| path.file_name().is_some_and(|name| name == "ssh_config"));
        Self {
            jumps,
            proxy_command: value("proxycommand"),
            agent: values("identityagent").into_iter().next(),
            keys: values("identityfile"),
            files: user.into_iter().chain(system).cloned().collect(),
        }
    }

    /// All jump hosts: the first one may have jump hosts of its own. `config` is what they are connected to with.
    pub(super) async fn all_hops(&self, program: &Path, config: &Path) -> Vec<Hop> {
        let mut hops: Vec<Hop> = Vec::new();
        let mut names = self.jumps.clone();
        while let Some(first) = names.first().cloned() {
            let mut found = Vec::new();
            for name in &names {
                let route = Self::ask(program, &destination(name, config)).await;
                found.push(Hop { name: name.clone(), route });
            }
            names = found[0].route.jumps.clone();
            hops.splice(0..0, found);
            if hops.len() >= MOST_HOPS || names.contains(&first) {
                break;
            }
        }
        hops
    }

    /// Where ssh finds its agent: a socket's path.
    pub(super) fn agent_socket(&self) -> Option<PathBuf> {
        let from = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        match self.agent.as_deref() {
            Some("none") => None,
            None | Some("SSH_AUTH_SOCK") => from("SSH_AUTH_SOCK"),
            Some(name) if name.starts_with('$') => from(name.trim_start_matches('$').trim_matches(['{', '}'])),
            Some(path) => Some(expanded(path)),
        }
    }

    pub(super) fn key_files(&self) -> Vec<PathBuf> {
        self.keys.iter().map(|key| expanded(key)).filter(|path| path.is_file()).collect()
    }
}

/// A jump host, and the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) name: String,
    pub(super) route: Route,
}

/// `user@host:port` as ssh's arguments.
fn destination(name: &str, config: &Path) -> Vec<std::ffi::OsString> {
    let (user, place) = name.rsplit_once('@').map_or((None, name), |(user, place)| (Some(user), place));
    let bare = |text: &str| text.trim_matches(['[', ']']).to_owned();
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')) => {
            (bare(host), Some(port))
        }
        _ => (bare(place), None),
    };
    let mut arguments = vec!["-F".into(), config.into()];
    arguments.extend(user.into_iter().flat_map(|user| ["-l".into(), user.into()]));
    arguments.extend(port.into_iter().flat_map(|port| ["-p".into(), port.into()]));
    arguments.extend(["--".into(), host.into()]);
    arguments
}

/// ssh tells paths as the configuration has them.
fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/").or_else(|| path.strip_prefix("%d/")), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// Writes the configuration with which jump hosts are connected to: `ours` first, as the first value of an option counts.
/// Then what ssh would have read without it.
pub(super) fn write_config(path: &Path, ours: &[String], given: Option<&Path>, files: &[PathBuf]) -> io::Result<()> {
    let mut text = ours.iter().map(|line| format!("{line}\n")).collect::<String>();
    // A file that is included must be nobody else's to write, and one that is given with -F need not be.
    match given {
        Some(given) => text.push_str(&fs::read_to_string(given)?),
        None => {
            for file in files {
                let metadata = fs::metadata(file)?;
                let is_ours = [0, rustix::process::getuid().as_raw()].contains(&metadata.uid());
                let is_system = file.file_name().is_some_and(|name| name == "ssh_config");
                if is_system && !(is_ours && metadata.mode() & 0o022 == 0) {
                    text.push_str(&format!("{}\n", fs::read_to_string(file)?));
                } else {
                    text.push_str(&format!("Include \"{}\"\n", file.display()));
                }
            }
        }
    }
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_tells_the_way() {
        let told = "host vm\nproxyjump me@b:2222,c\nidentityfile ~/.ssh/id_rsa\nidentityfile /k\nidentityagent none\n";
        let debug = "OpenSSH_9\ndebug1: Reading configuration data /home/me/.ssh/config\r\n\
                     debug1: Reading configuration data /x/more\ndebug1: Reading configuration data /etc/ssh/ssh_config\n\
                     debug1: Reading configuration data /etc/ssh/ssh_config.d/a.conf\n";
        let route = Route::parse(told, debug);
        assert_eq!(route.jumps, ["me@b:2222", "c"]);
        assert_eq!(route.keys, ["~/.ssh/id_rsa", "/k"]);
        assert_eq!(route.agent_socket(), None);
        assert_eq!(route.files, [Path::new("/home/me/.ssh/config"), Path::new("/etc/ssh/ssh_config")]);
        assert_eq!(Route::parse("proxyjump none\nproxycommand nc %h %p\n", "").proxy_command.unwrap(), "nc %h %p");
        assert_eq!(Route::parse("proxyjump none\nproxycommand none\n", ""), Route::default());
    }

    #[test]
    fn a_jump_host_s_name_becomes_arguments() {
        for (name, expected) in [
            ("b", "-F /c -- b"),
            ("me@b:22", "-F /c -l me -p 22 -- b"),
            ("[::1]:22", "-F /c -p 22 -- ::1"),
            ("::1", "-F /c -- ::1"),
        ] {
            let arguments = destination(name, Path::new("/c"));
            let arguments: Vec<&str> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
            assert_eq!(arguments.join(" "), expected);
        }
    }

    #[test]
    fn jump_hosts_get_our_options_first_and_then_those_of_the_files() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::create_dir(file(".ssh")).unwrap();
        let (user, system, given, ours) = (file(".ssh/config"), file("ssh_config"), file("given"), file("ours"));
        fs::write(&user, "Host b\n  User u1\n  StrictHostKeyChecking no\n  ConnectTimeout 99\n").unwrap();
        fs::write(&system, "Match final all\n  Port 7\nHost *\n  User u2\n  Compression yes\n").unwrap();
        fs::write(&given, format!("Include {}\nInclude {}\n", user.display(), system.display())).unwrap();
        let options = ["BatchMode yes", "StrictHostKeyChecking accept-new", "ConnectTimeout 3"].map(str::to_owned);
        let assert_told = |given: Option<&Path>| {
            write_config(&ours, &options, given, &[user.clone(), system.clone()]).unwrap();
            let output = std::process::Command::new("ssh").args(["-G", "-F"]).arg(&ours).arg("b").output().unwrap();
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            let expected =
                ["user u1", "port 7", "batchmode yes", "stricthostkeychecking accept-new", "connecttimeout 3"];
            for line in expected.iter().chain(&["compression yes"]) {
                assert!(told.lines().any(|told| told == *line), "{line}: {told} {output:?}");
            }
        };
        assert_told(None);
        assert_told(Some(&given));
        // Others may write to them: ssh does not mind it of these two, unless they are included.
        fs::set_permissions(&system, fs::Permissions::from_mode(0o666)).unwrap();
        assert_told(None);
        fs::set_permissions(&system, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(&given, fs::Permissions::from_mode(0o666)).unwrap();
        assert_told(Some(&given));
    }
}
