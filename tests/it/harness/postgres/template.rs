//! Data directories to copy: as `initdb` leaves them, and with the load test's tables. Kept in the build's folder, and
//! made anew when the version of PostgreSQL or the tables change.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use rustix::process::Signal;

use super::{Setup, TestServer, as_server_user, give_to_server_user, wait_until};

const TABLES: &str = include_str!("../../../../schema.sql");

/// Fills `data`, an empty folder of the server's account.
pub(super) fn copy(programs: &Path, has_tables: bool, data: &Path) {
    static FOLDERS: Mutex<Option<HashMap<PathBuf, PathBuf>>> = Mutex::new(None);
    let folder = {
        let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        let known = folders.get_or_insert_default().entry(programs.to_owned());
        known.or_insert_with(|| folder_of(programs)).clone()
    };
    copy_tree(&folder.join(if has_tables { "tables" } else { "plain" }), data);
}

/// The folder with the data directories of this version.
fn folder_of(programs: &Path) -> PathBuf {
    let version = Command::new(programs.join("postgres")).arg("--version").output().unwrap().stdout;
    let mut hasher = DefaultHasher::new();
    (version, programs, TABLES, include_str!("template.rs")).hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres-{:016x}", hasher.finish()));
    if !folder.exists() {
        let unfinished = folder.with_extension(std::process::id().to_string());
        fs::create_dir_all(&unfinished).unwrap();
        make(programs, &unfinished);
        // Another process may have been quicker; its folder is as good.
        let _ = fs::rename(&unfinished, &folder);
    }
    folder
}

fn make(programs: &Path, folder: &Path) {
    let setup = Setup::of_programs(programs.to_owned()).set("max_connections", "10");
    let mut server = TestServer::new(setup, |_, data| {
        initdb(programs, data);
        fs::create_dir(folder.join("plain")).unwrap();
        copy_tree(data, &folder.join("plain"));
    });
    server.sql(TABLES);
    // Shut down in order, so that there is nothing to recover.
    server.signal_main(Signal::INT);
    wait_until("the server has shut down", || server.main.try_wait().unwrap().is_some());
    fs::create_dir(folder.join("tables")).unwrap();
    copy_tree(&server.data_dir(), &folder.join("tables"));
    // The configuration is each server's own.
    fs::copy(folder.join("plain/postgresql.conf"), folder.join("tables/postgresql.conf")).unwrap();
}

fn initdb(programs: &Path, data: &Path) {
    let mut initdb = as_server_user(programs.join("initdb"));
    initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]);
    // The first segment is a large part of what has to be copied.
    let output = initdb.arg("--wal-segsize=4").arg("-D").arg(data).output().unwrap();
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies what is in a folder into another one, for the server's account.
fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            fs::set_permissions(&to, super::private_mode()).unwrap();
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
        give_to_server_user(&to);
    }
}
