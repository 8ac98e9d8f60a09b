//! Nothing is left of a server, whichever way it or its owner ends.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, getpgrp, kill_process_group};

use super::{ROLE, be_the_owner, options_in, owner, paths, psql, start, start_in, told_by};
use crate::harness::processes::is_alive;
use crate::harness::{Program, public_folder};
use crate::library::{ThrowawayOptions, ThrowawayServer};

#[test]
fn everything_is_gone_after_a_drop() {
    let root = public_folder();
    let server = start_in(root.path());
    psql(&server, "create table t as select generate_series(1, 10000)");
    let processes = server.processes();
    assert!(processes.len() > 3, "{processes:?}");
    assert!(processes.contains(&server.postmaster_pid()));
    drop(server);
    assert!(processes.iter().all(|pid| !is_alive(*pid)), "{processes:?}");
    assert!(paths(root.path()).is_empty());
}

#[test]
fn everything_is_gone_after_a_stop_with_a_busy_backend() {
    let root = public_folder();
    let server = start_in(root.path());
    let connection_string = server.connection_string();
    let sleep = ["-XAtqc", "select pg_sleep(1000)", &connection_string];
    let busy = Program::new(server.program_dir().join("psql")).args(sleep).start();
    while psql(
        &server,
        "select count(*) from pg_stat_activity where query like '%pg_sleep(1000)%' and wait_event = 'PgSleep'",
    ) != "1"
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let processes = server.processes();
    server.stop().unwrap();
    assert_ne!(busy.finish().code, Some(0));
    assert!(processes.iter().all(|pid| !is_alive(*pid)), "{processes:?}");
    assert!(paths(root.path()).is_empty());
}

#[test]
fn everything_is_gone_after_a_panic() {
    let root = public_folder();
    let path = root.path().to_path_buf();
    let panicking = std::thread::spawn(move || {
        let server = ThrowawayServer::start(&options_in(&path)).unwrap();
        std::panic::panic_any(server.processes());
    });
    let processes = *panicking.join().unwrap_err().downcast::<Vec<u32>>().unwrap();
    assert!(!processes.is_empty());
    assert!(processes.iter().all(|pid| !is_alive(*pid)), "{processes:?}");
    assert!(paths(root.path()).is_empty());
}

#[test]
fn everything_is_gone_when_it_is_frozen() {
    let root = public_folder();
    let server = start_in(root.path());
    let processes = server.processes();
    server.signal_all(Signal::STOP);
    drop(server);
    assert!(processes.iter().all(|pid| !is_alive(*pid)), "{processes:?}");
    assert!(paths(root.path()).is_empty());
}

#[test]
fn nothing_is_left_of_a_failed_start() {
    let root = public_folder();
    let settings = vec![("no_such_setting".to_owned(), "1".to_owned())];
    let error = ThrowawayServer::start(&ThrowawayOptions { settings, ..options_in(root.path()) }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("unrecognized configuration parameter \"no_such_setting\""), "{text}");
    assert!(paths(root.path()).is_empty());
}

#[test]
fn the_next_start_clears_what_a_killed_owner_left() {
    const NAME: &str = "the_next_start_clears_what_a_killed_owner_left";
    if let Ok(root) = std::env::var(ROLE) {
        return be_the_owner(&root);
    }
    let root = public_folder();
    let mut child = owner(&std::env::current_exe().unwrap(), module_path!(), NAME, root.path()).spawn().unwrap();
    let (postmaster, folder) = told_by(&mut child);

    let neighbour = start_in(root.path());
    assert!(neighbour.cleared().is_empty(), "a living owner's server was taken away");
    assert!(is_alive(postmaster));

    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_alive(postmaster), "the server goes on without its owner; else there is nothing to clear here");
    let next = start_in(root.path());
    assert_eq!(next.cleared(), [folder.canonicalize().unwrap_or(folder.clone())]);
    assert!(!is_alive(postmaster));
    assert!(!folder.exists());
    assert_eq!(psql(&neighbour, "select 1"), "1");
}

#[test]
fn an_owner_killed_while_it_starts_is_cleared_too() {
    const NAME: &str = "an_owner_killed_while_it_starts_is_cleared_too";
    if let Ok(root) = std::env::var(ROLE) {
        return be_the_owner(&root);
    }
    let root = public_folder();
    let mut child = owner(&std::env::current_exe().unwrap(), module_path!(), NAME, root.path()).spawn().unwrap();
    let begun = || paths(root.path()).into_iter().find(|folder| folder.join("data/base").exists());
    let folder = loop {
        if let Some(folder) = begun() {
            break folder;
        }
        assert!(child.try_wait().unwrap().is_none(), "the owner ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let next = start_in(root.path());
    assert_eq!(next.cleared(), std::slice::from_ref(&folder));
    let next_folder = next.folder_path();
    assert_eq!(paths(root.path()), [next_folder], "an initdb that goes on would make the folder again");
}

#[test]
fn a_ctrl_c_in_the_terminal_does_not_reach_the_server() {
    const NAME: &str = "a_ctrl_c_in_the_terminal_does_not_reach_the_server";
    if let Ok(root) = std::env::var(ROLE) {
        return be_the_owner(&root);
    }
    let root = public_folder();
    let program = std::env::current_exe().unwrap();
    let mut child = owner(&program, module_path!(), NAME, root.path()).process_group(0).spawn().unwrap();
    let (postmaster, folder) = told_by(&mut child);
    // A terminal sends SIGINT to the whole group in front; this owner has no handler and dies of it.
    kill_process_group(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    assert!(!child.wait().unwrap().success());
    let group = getpgid(Pid::from_raw(postmaster.cast_signed())).unwrap();
    assert_ne!(group, getpgrp());
    assert!(folder.exists() && is_alive(postmaster));
    drop(ThrowawayServer::start(&options_in(root.path())).unwrap());
    assert!(!is_alive(postmaster));
    assert!(paths(root.path()).is_empty());
}

#[test]
fn another_users_leftovers_stay() {
    if !rustix::process::geteuid().is_root() {
        // Only root can make a folder that belongs to another; an ordinary user is refused the marker anyway.
        assert!(std::os::unix::fs::chown(public_folder().path(), Some(0), None).is_err());
        return;
    }
    let root = public_folder();
    let server = start_in(root.path());
    let foreign = root.path().join("pg_load_test-foreign");
    fs::create_dir(&foreign).unwrap();
    fs::copy(server.folder_path().join("marker"), foreign.join("marker")).unwrap();
    std::os::unix::fs::chown(&foreign, Some(65_534), None).unwrap();
    assert!(start_in(root.path()).cleared().is_empty());
    assert!(foreign.join("marker").exists());
}

#[test]
fn a_folder_that_is_not_ours_stays() {
    let root = public_folder();
    let foreign = root.path().join("pg_load_test-of-somebody");
    fs::create_dir(&foreign).unwrap();
    File::create(foreign.join("precious")).unwrap().write_all(b"x").unwrap();
    drop(start_in(root.path()));
    assert_eq!(paths(root.path()), std::slice::from_ref(&foreign));
    assert!(foreign.join("precious").exists());
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let root = public_folder();
    let start = || start_in(root.path());
    let (first, second) = std::thread::scope(|scope| {
        let (first, second) = (scope.spawn(start), scope.spawn(start));
        (first.join().unwrap(), second.join().unwrap())
    });
    psql(&first, "create table only_here (a int)");
    assert_eq!(psql(&second, "select count(*) from pg_class where relname = 'only_here'"), "0");
    assert!(first.cleared().is_empty() && second.cleared().is_empty());
    drop(first);
    assert_eq!(psql(&second, "select 1"), "1");
}

/// Shared memory lies outside of the folder: a System V segment by the key in postmaster.pid, and files in /dev/shm.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_server_leaves_no_shared_memory() {
    let server = start(&ThrowawayOptions::default());
    let noted = fs::read_to_string(server.data_dir().join("postmaster.pid")).unwrap();
    let key = noted.lines().nth(6).unwrap().split_whitespace().next().unwrap().parse::<u32>().unwrap().cast_signed();
    let segment = || {
        let table = fs::read_to_string("/proc/sysvipc/shm").unwrap();
        table.lines().any(|line| line.split_whitespace().next() == Some(key.to_string().as_str()))
    };
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.postmaster_pid())).unwrap();
    let shared: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find("/dev/shm/PostgreSQL.").map(|start| PathBuf::from(&line[start..])))
        .collect();
    assert!(segment() && !shared.is_empty() && shared.iter().all(|file| file.exists()));
    server.signal_all(Signal::KILL);
    drop(server);
    assert!(!segment());
    assert!(shared.iter().all(|file| !file.exists()), "{shared:?}");
}
