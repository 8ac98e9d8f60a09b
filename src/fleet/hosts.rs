//! The VMs that `--vms` names: `user@host:port`, ranges, IPv6, files of them. Owns that syntax, and what may be
//! handed to ssh at all: text from outside must steer neither its options nor a terminal. Pure; reads files only through
//! what it is given, and never asks DNS or ssh's configuration.

mod file;
mod range;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;

use crate::text::terminal::brief;
pub use file::read_list;

/// More VMs than this are taken for a slip of the keyboard.
pub const MOST_HOSTS: usize = 10_000;

/// The longest name that DNS can carry.
const LONGEST_ADDRESS_BYTES: usize = 253;

/// Faults that are told one by one: where a list is another file by mistake, every line of it is one.
const MOST_FAULTS: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// As the user wrote it, with its range resolved: a unique label, fit for a terminal.
    pub name: String,
    /// The account there; `None` leaves it to the options or to ssh's configuration.
    pub user: Option<String>,
    /// What ssh is given: a name, an alias of ssh's configuration, an IPv4 address, an IPv6 address without brackets.
    pub address: String,
    /// The port of its sshd; `None` leaves it to the options or to ssh's configuration.
    pub port: Option<u16>,
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// Reads the value of `--vms`: hosts and `@file`s, separated by commas, semicolons or white space. `read_file` gives a
/// file's text.
///
/// # Errors
/// All that is wrong with it, each a clause with the item and what to give instead.
pub fn parse(text: &str, read_file: &dyn Fn(&Path) -> io::Result<String>) -> Result<Vec<Host>, Vec<String>> {
    let mut list = List { hosts: Vec::new(), faults: Vec::new(), further: 0, full: false };
    for item in parts(text, is_separator).filter(|item| !item.is_empty()) {
        // The path of a file may hold spaces. It is read once: it may be a pipe.
        let spaced = item.strip_prefix('@').filter(|path| path.contains(char::is_whitespace));
        if let Some((path, text)) = spaced.and_then(|path| Some((path, read_file(Path::new(path)).ok()?))) {
            list.add_file(path, &|_| Ok(text.clone()));
            continue;
        }
        for item in items(item) {
            match item.strip_prefix('@') {
                Some(path) => list.add_file(path, read_file),
                None => list.add(item),
            }
        }
    }
    list.refuse_duplicates();
    if list.hosts.is_empty() && list.faults.is_empty() {
        list.faults
            .push("--vms names no host: give for example vm1.example.com,root@10.0.0.2:2222 or @hosts.txt".into());
    }
    if list.further > 0 {
        list.faults.push(format!("--vms: {} more items cannot be used either", list.further));
    }
    if list.faults.is_empty() { Ok(list.hosts) } else { Err(list.faults) }
}

/// The items of a list, without empty ones.
fn items(text: &str) -> impl Iterator<Item = &str> {
    parts(text, |character| is_separator(character) || character.is_whitespace()).filter(|item| !item.is_empty())
}

fn is_separator(character: char) -> bool {
    [',', ';', '\n', '\r'].contains(&character)
}

/// Splits a text, and trims the parts. What stands within brackets in one line belongs together.
fn parts(text: &str, separates: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    let mut within = false;
    let parts = text.split(move |character| {
        match character {
            '[' => within = true,
            ']' | '\n' | '\r' => within = false,
            _ => {}
        }
        !within && separates(character)
    });
    parts.map(str::trim)
}

struct List {
    hosts: Vec<Host>,
    faults: Vec<String>,
    /// How many faults there are beyond [`MOST_FAULTS`].
    further: usize,
    /// Whether it has been said that there are too many.
    full: bool,
}

impl List {
    fn fault(&mut self, what: String) {
        if self.faults.len() < MOST_FAULTS { self.faults.push(what) } else { self.further += 1 }
    }

    fn add_file(&mut self, path: &str, read_file: &dyn Fn(&Path) -> io::Result<String>) {
        if path.is_empty() {
            self.fault("--vms: @ needs the path of a file behind it: give for example @hosts.txt".into());
            return;
        }
        let text = match read_file(Path::new(path)) {
            Ok(text) => text,
            Err(error) => {
                let path = shown(path);
                self.fault(format!(
                    "--vms: the file {path} cannot be read ({error}): give a file with one host a line"
                ));
                return;
            }
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let before = (self.hosts.len(), self.faults.len() + self.further);
        for line in text.lines() {
            for item in items(line.split('#').next().unwrap_or_default()) {
                if item.starts_with('@') {
                    self.fault(format!(
                        "--vms: {} stands in the file {}, and files do not name files: give both in --vms itself",
                        shown(item),
                        shown(path)
                    ));
                } else {
                    self.add(item);
                }
            }
        }
        if before == (self.hosts.len(), self.faults.len() + self.further) {
            self.fault(format!("--vms: the file {} names no host: give one a line", shown(path)));
        }
    }

    fn add(&mut self, item: &str) {
        match hosts_of(item, MOST_HOSTS.saturating_sub(self.hosts.len())) {
            Ok(hosts) => self.hosts.extend(hosts),
            Err(ItemFault::TooMany) if self.full => {}
            Err(ItemFault::TooMany) => {
                self.full = true;
                self.fault(format!(
                    "--vms: {} brings more than {MOST_HOSTS} hosts together: check the ranges for a digit too many",
                    shown(item)
                ));
            }
            Err(ItemFault::Wrong(what)) => self.fault(format!("--vms: {}: {what}", shown(item))),
        }
    }

    fn refuse_duplicates(&mut self) {
        let mut seen = HashMap::new();
        let mut faults = Vec::new();
        for host in &self.hosts {
            let key = (host.user.as_deref(), host.address.to_ascii_lowercase(), host.port);
            match seen.get_mut(&key) {
                None => {
                    seen.insert(key, (host.name.as_str(), false));
                }
                Some((_, true)) => {}
                Some((first, told)) => {
                    *told = true;
                    let also = if *first == host.name { String::new() } else { format!(" (also as {})", host.name) };
                    faults.push(format!(
                        "--vms names {first} more than once{also}: give each host once; for more load from one, raise \
                         --workers"
                    ));
                }
            }
        }
        faults.into_iter().for_each(|fault| self.fault(fault));
    }
}

enum ItemFault {
    TooMany,
    Wrong(String),
}

impl From<String> for ItemFault {
    fn from(what: String) -> Self {
        Self::Wrong(what)
    }
}

/// An item as part of a sentence: quoted, short, harmless for a terminal.
fn shown(item: &str) -> String {
    format!("\"{}\"", brief(item, 80))
}

fn hosts_of(item: &str, room: usize) -> Result<Vec<Host>, ItemFault> {
    if item.chars().any(char::is_control) {
        return Err(ItemFault::Wrong("a host cannot hold control characters: remove them".into()));
    }
    if item.chars().any(char::is_whitespace) {
        return Err(ItemFault::Wrong("a range cannot hold spaces: write for example vm[1,3,7-9]".into()));
    }
    let (user, place) = match item.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, item),
    };
    let user = user.map(checked_user).transpose()?;
    let (addresses, port) = addresses_and_port(place, room)?;
    // Of the name only the range is replaced: brackets of IPv6 and the port stay as they were written.
    let before = user.map_or(String::new(), |user| format!("{user}@"));
    let behind = port.map_or(String::new(), |(text, _)| format!(":{text}"));
    let host = |Address { written, address }| Host {
        name: format!("{before}{written}{behind}"),
        user: user.map(str::to_owned),
        address,
        port: port.map(|(_, number)| number),
    };
    Ok(addresses.into_iter().map(host).collect())
}

/// As it was written, and without brackets.
struct Address {
    written: String,
    address: String,
}

/// As it was written, and as a number.
type Port<'a> = (&'a str, u16);

fn addresses_and_port(place: &str, room: usize) -> Result<(Vec<Address>, Option<Port<'_>>), ItemFault> {
    if let Some((within, behind)) = place.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && within.contains(':')
    {
        let port = match behind.strip_prefix(':') {
            Some(port) => Some(checked_port(port)?),
            None if behind.is_empty() => None,
            None => {
                return Err(ItemFault::Wrong(format!(
                    "only a port can follow an address in brackets: write [{within}]:22"
                )));
            }
        };
        let address = checked_ipv6(within)?.to_owned();
        return Ok((vec![Address { written: format!("[{address}]"), address }], port));
    }
    let colons = place.matches(':').count();
    if colons > 1 {
        if place.contains(['[', ']']) {
            return Err(ItemFault::Wrong("ranges and IPv6 do not mix: write an IPv6 address as [fe80::1]:22".into()));
        }
        let address = checked_ipv6(place)?.to_owned();
        return Ok((vec![Address { written: address.clone(), address }], None));
    }
    let (pattern, port) = match place.split_once(':') {
        Some((pattern, port)) => (pattern, Some(checked_port(port)?)),
        None => (place, None),
    };
    if pattern.is_empty() {
        return Err(ItemFault::Wrong("the host's name is missing: write user@host:port".into()));
    }
    let texts = range::expand(pattern, room)?;
    texts.iter().try_for_each(|text| checked_address(text))?;
    Ok((texts.into_iter().map(|address| Address { written: address.clone(), address }).collect(), port))
}

fn checked_user(user: &str) -> Result<&str, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._@\\+-".contains(c);
    if user.is_empty() {
        return Err("the user is missing before the @: write user@host, or the host alone".into());
    }
    if user.starts_with('-') {
        return Err("a user cannot begin with \"-\": remove it".into());
    }
    match user.chars().find(|&c| !allowed(c)) {
        Some(c) => Err(format!("a user cannot hold {c:?}: give letters, digits and . _ @ \\ + -")),
        None => Ok(user),
    }
}

fn checked_port(port: &str) -> Result<Port<'_>, String> {
    let number = port.parse().ok().filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()));
    match number {
        Some(number) if number > 0 => Ok((port, number)),
        _ => Err(format!("{} is not a port: give a number from 1 to 65535", shown(port))),
    }
}

fn checked_address(address: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if address.starts_with('-') {
        return Err("a host cannot begin with \"-\": ssh would take it for an option; remove it".into());
    }
    if address.contains("://") || address.contains('/') {
        return Err("a URL or path is no host: write user@host:port".into());
    }
    if let Some(c) = address.chars().find(|&c| !allowed(c)) {
        return Err(format!("a host cannot hold {c:?}: give a name, an alias of ssh's configuration or an IP address"));
    }
    if address.len() > LONGEST_ADDRESS_BYTES { Err(too_long()) } else { Ok(()) }
}

fn too_long() -> String {
    format!("a host's name has at most {LONGEST_ADDRESS_BYTES} characters: check for a missing comma")
}

fn checked_ipv6(text: &str) -> Result<&str, String> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if address.parse::<Ipv6Addr>().is_err() {
        return Err(format!("{} is not an IPv6 address: write for example fe80::1 or [fe80::1]:22", shown(text)));
    }
    match zone {
        Some(zone) if zone.is_empty() || !zone.chars().all(allowed) => {
            Err(format!("{} is not the zone of an IPv6 address: write for example fe80::1%eth0", shown(zone)))
        }
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests;
