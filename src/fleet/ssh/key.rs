//! Files that the user names for ssh, looked at once before the first of many connections would stumble over them: the
//! private key and the configuration. Never keeps a key.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::{SshError, SshErrorKind};

/// Longer than any key.
const LARGEST_KEY_BYTES: u64 = 1 << 20;

/// Whether the private key wants a passphrase. ssh may still use it, if its agent has it.
pub(super) fn check(path: &Path) -> Result<bool, SshError> {
    let shown = path.display();
    let unusable = |what: String| SshError::new(SshErrorKind::KeyFile, what);
    let unreadable = |error: std::io::Error| {
        unusable(format!("The key {shown} cannot be read ({error}): give a readable private key with --ssh-key."))
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unusable(format!("{shown} is not a file: give a private key with --ssh-key.")));
    }
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_KEY_BYTES).read_to_end(&mut content));
    read.map_err(unreadable)?;
    if ["ssh-", "ecdsa-", "sk-"].iter().any(|start| content.starts_with(start.as_bytes())) {
        return Err(unusable(format!(
            "{shown} is a public key: give the private one, usually the same path without \".pub\", with --ssh-key."
        )));
    }
    // ssh ignores such a key, and would only say that permission is denied.
    if metadata.uid() == rustix::process::getuid().as_raw() && metadata.mode() & 0o077 != 0 {
        return Err(unusable(format!(
            "The key {shown} can be read by others (mode {:04o}), and ssh ignores such keys: run chmod 600 {shown}.",
            metadata.mode() & 0o7777
        )));
    }
    Ok(is_encrypted(&content))
}

/// Whether the configuration can be read.
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
    let Some((_, behind)) = text.split_once("BEGIN OPENSSH PRIVATE KEY-----") else { return false };
    let body: String = behind.split("-----").next().unwrap_or_default().split_whitespace().collect();
    let head = STANDARD.decode(body).unwrap_or_default();
    head.strip_prefix(b"openssh-key-v1\0").is_some_and(|rest| !rest.starts_with(b"\0\0\0\x04none"))
}
