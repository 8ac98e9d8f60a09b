//! Files, folders, and small file systems.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::processes::{is_alive, naming, send};
use super::skipped;

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The JSON document in a file.
#[track_caller]
pub fn document(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What is in a folder, by name; nothing where there is no folder.
pub fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

const PREFIX: &str = "plt-";

const ON_DISK: &str = "/tmp";
const IN_MEMORY: &str = "/dev/shm";

/// A folder in `/tmp` that every user can reach. Its name is short, because paths of sockets are limited.
pub fn public_folder() -> TempDir {
    public_folder_in(Path::new(ON_DISK))
}

/// The same in memory, where there is room: to make and remove the thousand files of a server takes ext4 as much of a
/// processor as all else that a test does.
pub fn fast_folder() -> TempDir {
    const ROOM: u64 = 1 << 30;
    let has_room = rustix::fs::statvfs(IN_MEMORY).is_ok_and(|disk| disk.f_bavail * disk.f_frsize > ROOM);
    public_folder_in(Path::new(if has_room { IN_MEMORY } else { ON_DISK }))
}

/// The same in a folder.
pub fn public_folder_in(root: &Path) -> TempDir {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| [ON_DISK, IN_MEMORY].into_iter().for_each(sweep));
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(root).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Ends the servers, and removes the folders, of test programs that were killed.
fn sweep(root: &str) {
    for name in entries(Path::new(root)) {
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok()) else {
            continue;
        };
        if !is_alive(owner) {
            let folder = format!("{root}/{name}");
            naming(&folder).into_iter().for_each(|(pid, _)| send(pid, Signal::KILL));
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Writes a program for `/bin/sh`, and its folder.
pub fn write_script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// A file system in memory. Unmounted when dropped.
pub struct TmpFs {
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl TmpFs {
    /// In a folder of its own, with options of `mount`. `None`, with the reason told, where that is not permitted.
    pub fn mount(options: &str) -> Option<Self> {
        let folder = public_folder();
        let mut mounted = Self::mount_at(folder.path(), options)?;
        mounted._folder = Some(folder);
        Some(mounted)
    }

    /// The same at a path.
    pub fn mount_at(path: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).output().unwrap();
        if !output.status.success() {
            skipped(format!("mount -o {options}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return None;
        }
        Some(Self { path: path.to_owned(), _folder: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TmpFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
