//! A machine with a network of its own, whose link can be cut without anybody being told.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::sshd::{TestSshd, descendants, send};
use crate::tool::wait_until;

/// A network namespace with a link to here. Gone when dropped.
pub struct Namespace {
    name: String,
    subnet: u32,
    sshd: Option<Child>,
}

impl Namespace {
    /// `None`, with the reason told, where it is not permitted.
    pub fn create() -> Option<Self> {
        let id = std::process::id();
        let namespace = Self { name: format!("plt{id}"), subnet: id % 250, sshd: None };
        let (name, net) = (&namespace.name, namespace.subnet);
        let steps = [
            format!("netns add {name}"),
            format!("link add {name}h type veth peer name {name}p"),
            format!("link set {name}p netns {name}"),
            format!("addr add 10.77.{net}.1/30 dev {name}h"),
            format!("link set {name}h up"),
            format!("-n {name} addr add 10.77.{net}.2/30 dev {name}p"),
            format!("-n {name} link set {name}p up"),
            format!("-n {name} link set lo up"),
        ];
        for step in steps {
            if let Err(error) = ip(&step) {
                let _ = writeln!(
                    std::io::stderr(),
                    "SKIPPED: a network namespace is not to be had here: ip {step}: {error}"
                );
                return None;
            }
        }
        Some(namespace)
    }

    /// A second sshd with the configuration of `like`, in here.
    pub fn start_sshd(&mut self, like: &TestSshd) {
        let config = like.config().with_file_name("sshd_config");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "/usr/sbin/sshd", "-D", "-e", "-f"]).arg(config);
        let sshd = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.sshd = Some(sshd);
        let address = (self.address(), like.port());
        wait_until("sshd listens in the namespace", || {
            std::net::TcpStream::connect((address.0.as_str(), address.1)).is_ok()
        });
    }

    pub fn address(&self) -> String {
        format!("10.77.{}.2", self.subnet)
    }

    /// What is sent from now on is lost without a word.
    pub fn cut(&self) {
        ip(&format!("-n {0} link set {0}p down", self.name)).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(mut sshd) = self.sshd.take() {
            descendants(sshd.id()).into_iter().for_each(|pid| send(pid, Signal::KILL));
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
        let _ = ip(&format!("link del {}h", self.name));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
