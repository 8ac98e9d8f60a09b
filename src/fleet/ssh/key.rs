//! Files that the user names for ssh, looked at once before the first of many connections would stumble over them: the
//! private key and the configuration. Never keeps a key.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::agent::take;
use super::error::{SshError, SshErrorKind};

/// Longer than any key.
const LARGEST_KEY_BYTES: u64 = 1 << 20;

/// What a file given as a key is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyFile {
    Private,
    /// One that wants a passphrase. ssh may still use it, if its agent has it.
    Locked,
    /// A public key, in ssh's encoding: it names the private key that ssh's agent has.
    Public(Vec<u8>),
}

pub(super) fn check(path: &Path) -> Result<KeyFile, SshError> {
    let shown = path.display();
    let unusable = |what: String| SshError::new(SshErrorKind::KeyFile, what);
    let (metadata, content) = read(path).map_err(|error| {
        unusable(format!("The key {shown} cannot be read ({error}): give a readable private key with --ssh-key."))
    })?;
    if !metadata.is_file() {
        return Err(unusable(format!("{shown} is not a file: give a private key with --ssh-key.")));
    }
    if let Some(public) = public_key(&content) {
        return Ok(KeyFile::Public(public));
    }
    // ssh ignores such a key, and would only say that permission is denied.
    if metadata.uid() == rustix::process::getuid().as_raw() && metadata.mode() & 0o077 != 0 {
        return Err(unusable(format!(
            "The key {shown} can be read by others (mode {:04o}), and ssh ignores such keys: run chmod 600 {shown}.",
            metadata.mode() & 0o7777
        )));
    }
    Ok(if is_encrypted(&content) { KeyFile::Locked } else { KeyFile::Private })
}

/// Whether a private key wants a passphrase and is none of those that the agent holds.
pub(super) fn is_locked(path: &Path, held: &[Vec<u8>]) -> bool {
    let content = |path: &Path| read(path).map(|(_, content)| content).unwrap_or_default();
    let private = content(path);
    let beside = || {
        let mut name = path.as_os_str().to_owned();
        name.push(".pub");
        public_key(&content(Path::new(&name)))
    };
    is_encrypted(&private) && !public_half(&private).or_else(beside).is_some_and(|public| held.contains(&public))
}

/// What a file is, and what is in it. Of a pipe or a device nothing is read: it may have no end.
fn read(path: &Path) -> std::io::Result<(Metadata, Vec<u8>)> {
    let (metadata, mut content) = (fs::metadata(path)?, Vec::new());
    if metadata.is_file() {
        File::open(path)?.take(LARGEST_KEY_BYTES).read_to_end(&mut content)?;
    }
    Ok((metadata, content))
}

/// Of a line such as "ssh-ed25519 AAAA… comment".
fn public_key(content: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(content);
    let mut words = text.split_whitespace();
    let kind = words.next()?;
    let is_public = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| kind.starts_with(start));
    STANDARD.decode(words.next().filter(|_| is_public)?).ok()
}

/// OpenSSH's own format has the public key in clear, after the cipher, the function that makes its key, and that one's
/// options (PROTOCOL.key).
fn public_half(content: &[u8]) -> Option<Vec<u8>> {
    let body = openssh_body(content)?;
    let mut rest = body.strip_prefix(b"openssh-key-v1\0")?;
    for _ in 0..3 {
        take(&mut rest)?;
    }
    rest = rest.get(4..)?;
    take(&mut rest).map(<[u8]>::to_vec)
}

fn openssh_body(content: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(content);
    let (_, behind) = text.split_once("BEGIN OPENSSH PRIVATE KEY-----")?;
    let body: String = behind.split("-----").next().unwrap_or_default().split_whitespace().collect();
    STANDARD.decode(body).ok()
}

pub(super) fn check_config(path: &Path) -> Result<(), SshError> {
    // Nobody may write to a pipe, and what is read from it ssh would not find there any more.
    let is_pipe = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    let read = match is_pipe {
        true => Err(std::io::Error::other("it is a pipe")),
        false => File::open(path).and_then(|mut file| file.read(&mut [0])),
    };
    read.map(drop).map_err(|error| {
        let shown = path.display();
        let what =
            format!("ssh's configuration {shown} cannot be read ({error}): give another file with --ssh-config.");
        SshError::new(SshErrorKind::Config, what)
    })
}

/// OpenSSH's own format begins with a magic word and the cipher's name (PROTOCOL.key); PEM says it in its head.
fn is_encrypted(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    if text.contains("ENCRYPTED") {
        return true;
    }
    let body = openssh_body(content).unwrap_or_default();
    body.strip_prefix(b"openssh-key-v1\0").is_some_and(|rest| !rest.starts_with(b"\0\0\0\x04none"))
}
