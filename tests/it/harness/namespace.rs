//! A machine with a network of its own, whose link can be cut without a word to either side.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Program, skipped};

/// A network namespace with a link to here. Gone when dropped.
pub struct Namespace {
    name: String,
    subnet: u32,
}

impl Namespace {
    /// `None`, with the reason told, where that is not permitted.
    pub fn create() -> Option<Self> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let (id, number) = (std::process::id(), CREATED.fetch_add(1, Ordering::Relaxed));
        // Names of links have 15 characters at most.
        let namespace = Self { name: format!("plt{id}n{number}"), subnet: (id + number) % 250 };
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
                skipped(format!("no network namespaces here: ip {step}: {error}"));
                return None;
            }
        }
        Some(namespace)
    }

    /// A second link to here, for what must not be cut off together with the first one. Returns our address on it.
    pub fn add_link(&self) -> String {
        let (name, net) = (&self.name, self.subnet);
        for step in [
            format!("link add {name}i type veth peer name {name}q"),
            format!("link set {name}q netns {name}"),
            format!("addr add 10.78.{net}.1/30 dev {name}i"),
            format!("link set {name}i up"),
            format!("-n {name} addr add 10.78.{net}.2/30 dev {name}q"),
            format!("-n {name} link set {name}q up"),
        ] {
            ip(&step).unwrap();
        }
        format!("10.78.{net}.1")
    }

    /// What is sent from there through the second link is lost without a word.
    pub fn lose_link(&self) {
        let (name, host) = (&self.name, format!("10.78.{}.1", self.subnet));
        ip(&format!("-n {name} neigh replace {host} lladdr 02:00:00:00:00:01 dev {name}q nud permanent")).unwrap();
    }

    /// The end of [`Self::lose_link`].
    pub fn find_link(&self) {
        ip(&format!("-n {0} neigh del 10.78.{1}.1 dev {0}q", self.name, self.subnet)).unwrap();
    }

    /// The same program in there.
    pub fn run(&self, program: &Program) -> Program {
        program.within(&["ip", "netns", "exec", &self.name])
    }

    /// Its address, as seen from here.
    pub fn address(&self) -> String {
        format!("10.77.{}.2", self.subnet)
    }

    /// Ours, as seen from there.
    pub fn address_of_host(&self) -> String {
        format!("10.77.{}.1", self.subnet)
    }

    /// What is sent from now on is lost without a word.
    pub fn cut(&self) {
        ip(&format!("-n {0} link set {0}p down", self.name)).unwrap();
    }

    /// The same in one direction, and the system in there does not know it.
    pub fn lose(&self) {
        let host = self.address_of_host();
        ip(&format!("-n {0} neigh replace {host} lladdr 02:00:00:00:00:01 dev {0}p nud permanent", self.name)).unwrap();
    }

    /// The end of [`Self::lose`].
    pub fn find(&self) {
        ip(&format!("-n {0} neigh del {1} dev {0}p", self.name, self.address_of_host())).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}h", self.name));
        // Gone already where there is none.
        let _ = ip(&format!("link del {}i", self.name));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
