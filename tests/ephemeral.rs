//! Owns the tests of the throwaway server, on a real PostgreSQL and real signals. Must not judge by absolute times.
//!
//! Tests that need an owner to kill, or another user, run their own binary again with [`ROLE`] set: the child then
//! enters the test of the same name and takes the other part in it.

mod support;

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postgres_load_test::throwaway::{Signal, ThrowawayError, ThrowawayOptions, ThrowawayServer};
use rustix::process::{Pid, getpgid, getpgrp, kill_process_group, test_kill_process};
use support::TestServer;

/// Set for a child: the folder that it makes its server in.
const ROLE: &str = "POSTGRES_LOAD_TEST_EPHEMERAL_ROOT";

fn alive(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(pid.cast_signed()).unwrap()).is_ok()
}

/// A process that is not our child may take a moment to be taken away by whoever adopted it.
fn gone(pid: u32) -> bool {
    let state = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    !alive(pid) || state(pid).is_some_and(|text| text.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// A folder of the test's own, which any user can reach, so that other tests' servers are not in the way.
fn own_root() -> tempfile::TempDir {
    let root = tempfile::Builder::new().prefix("t-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    root
}

fn options_in(root: &Path) -> ThrowawayOptions {
    ThrowawayOptions { temp_root: Some(root.to_path_buf()), ..ThrowawayOptions::default() }
}

fn entries(root: &Path) -> Vec<PathBuf> {
    fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// This binary again, in the same test, as the owner of a server in `root`.
fn owner(program: &Path, test: &str, root: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture"]).env(ROLE, root).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Starts a server, tells its process id, and waits for the other side to close our input.
fn be_the_owner(root: &str) {
    let server = TestServer::start_with(options_in(Path::new(root)));
    assert_eq!(server.psql("select 1"), "1");
    println!("\nOWNER {} {}", server.server().postmaster_pid(), server.folder().display());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn told_by(child: &mut Child) -> (u32, PathBuf) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.starts_with("OWNER ")).expect("the child's line");
    let mut words = line.split(' ').skip(1);
    (words.next().unwrap().parse().unwrap(), PathBuf::from(words.next().unwrap()))
}

#[test]
fn answers_with_the_tuned_settings() {
    let server = TestServer::start();
    assert_eq!(server.psql("select 1"), "1");
    for (setting, value) in [
        ("shared_buffers", "256MB"),
        ("wal_buffers", "64MB"),
        ("max_wal_size", "2GB"),
        ("synchronous_commit", "off"),
        ("max_connections", "200"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
    ] {
        assert_eq!(server.psql(&format!("SHOW {setting}")), value, "{setting}");
    }
    let version = server.psql("SHOW server_version");
    assert!(version.starts_with(&server.server().version().major.to_string()), "{version}");
    assert_eq!(server.psql("SHOW data_directory"), server.server().data_dir().display().to_string());
    server.create_database("a \"name\"");
    assert_eq!(server.psql_in("a \"name\"", "select current_database()"), "a \"name\"");
}

#[test]
fn the_callers_settings_win() {
    let settings = vec![("synchronous_commit".into(), "on".into()), ("log_line_prefix".into(), r"it's \%p ".into())];
    let server = TestServer::start_with(ThrowawayOptions { settings, max_connections: 321, ..Default::default() });
    assert_eq!(server.psql("SHOW synchronous_commit"), "on");
    assert_eq!(server.psql("SHOW log_line_prefix"), r"it's \%p ");
    assert_eq!(server.psql("SHOW max_connections"), "321");
    // Not on the server's command line, which nothing could change any more.
    server.psql("ALTER SYSTEM SET synchronous_commit = 'local'");
    server.psql("SELECT pg_reload_conf()");
    while server.psql("SHOW synchronous_commit") != "local" {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_connection_string_is_understood() {
    let server = TestServer::start();
    let text = server.server().connection_string();
    let psql = server.server().program_dir().join("psql");
    let output = Command::new(psql).args(["-XAtqc", "select current_user", &text]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "postgres\n");
    let config: tokio_postgres::Config = text.parse().unwrap();
    assert_eq!(config.get_hosts(), [tokio_postgres::config::Host::Unix(server.server().socket_dir())]);
    let url: tokio_postgres::Config = server.url().parse().unwrap();
    assert_eq!(url.get_hosts(), config.get_hosts());
    assert_eq!(url.get_ports(), config.get_ports());
}

#[test]
fn nobody_else_has_access_to_the_folder() {
    let server = TestServer::start();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(server.folder()) & 0o007, 0);
    assert_eq!(mode(server.server().data_dir()), 0o700);
    assert_eq!(mode(server.server().socket_dir()), 0o700);
    assert_eq!(fs::metadata(server.folder()).unwrap().uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn over_tcp_only_with_the_password() {
    let server = TestServer::start_on_tcp();
    assert_eq!(server.psql("select inet_server_addr()"), "127.0.0.1");
    let wrong = server.url().replace("postgres:", "postgres:x");
    let psql = server.server().program_dir().join("psql");
    let output = Command::new(psql).args(["-XAtqwc", "select 1", &wrong]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("password authentication failed"));
    assert!(!server.folder().join("password").exists());
    let open = ThrowawayOptions { tcp: true, ..ThrowawayOptions::default() };
    assert!(matches!(ThrowawayServer::start(&open), Err(ThrowawayError::OpenDoor)));
}

#[test]
fn own_rules_on_who_may_come_in() {
    let hba = Some("local all all reject\n".to_owned());
    let server = TestServer::start_with(ThrowawayOptions { hba, ..ThrowawayOptions::default() });
    let output = server.try_psql_in("postgres", "select 1");
    assert!(String::from_utf8_lossy(&output.stderr).contains("pg_hba.conf rejects connection"));
}

#[test]
fn everything_is_gone_after_a_drop() {
    let root = own_root();
    let server = TestServer::start_with(options_in(root.path()));
    server.psql("create table t as select generate_series(1, 10000)");
    let processes = server.server().processes();
    assert!(processes.len() > 3, "{processes:?}");
    assert!(processes.contains(&server.server().postmaster_pid()));
    drop(server);
    assert!(processes.iter().all(|pid| gone(*pid)), "{processes:?}");
    assert!(entries(root.path()).is_empty());
}

#[test]
fn everything_is_gone_after_a_stop_with_a_busy_backend() {
    let root = own_root();
    let server = TestServer::start_with(options_in(root.path()));
    let psql = server.server().program_dir().join("psql");
    let mut busy = Command::new(psql)
        .args(["-XAtqc", "select pg_sleep(1000)", &server.url()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while server
        .psql("select count(*) from pg_stat_activity where query like '%pg_sleep(1000)%' and wait_event = 'PgSleep'")
        != "1"
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let processes = server.server().processes();
    server.into_server().stop().unwrap();
    assert!(!busy.wait().unwrap().success());
    assert!(processes.iter().all(|pid| gone(*pid)), "{processes:?}");
    assert!(entries(root.path()).is_empty());
}

#[test]
fn everything_is_gone_after_a_panic() {
    let root = own_root();
    let path = root.path().to_path_buf();
    let panicking = std::thread::spawn(move || {
        let server = ThrowawayServer::start(&options_in(&path)).unwrap();
        std::panic::panic_any(server.processes());
    });
    let processes = *panicking.join().unwrap_err().downcast::<Vec<u32>>().unwrap();
    assert!(!processes.is_empty());
    assert!(processes.iter().all(|pid| gone(*pid)), "{processes:?}");
    assert!(entries(root.path()).is_empty());
}

#[test]
fn everything_is_gone_when_it_is_frozen() {
    let root = own_root();
    let server = TestServer::start_with(options_in(root.path()));
    let processes = server.server().processes();
    server.freeze();
    drop(server);
    assert!(processes.iter().all(|pid| gone(*pid)), "{processes:?}");
    assert!(entries(root.path()).is_empty());
}

#[test]
fn nothing_is_left_of_a_failed_start() {
    let root = own_root();
    let settings = vec![("no_such_setting".to_owned(), "1".to_owned())];
    let error = ThrowawayServer::start(&ThrowawayOptions { settings, ..options_in(root.path()) }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("unrecognized configuration parameter \"no_such_setting\""), "{text}");
    assert!(entries(root.path()).is_empty());
}

#[test]
fn the_next_start_clears_what_a_killed_owner_left() {
    const NAME: &str = "the_next_start_clears_what_a_killed_owner_left";
    if let Ok(root) = std::env::var(ROLE) {
        return be_the_owner(&root);
    }
    let root = own_root();
    let mut child = owner(&std::env::current_exe().unwrap(), NAME, root.path()).spawn().unwrap();
    let (postmaster, folder) = told_by(&mut child);

    let neighbour = TestServer::start_with(options_in(root.path()));
    assert!(neighbour.server().cleared().is_empty(), "a living owner's server was taken away");
    assert!(alive(postmaster));

    child.kill().unwrap();
    child.wait().unwrap();
    assert!(alive(postmaster), "the server goes on without its owner; else there is nothing to clear here");
    let next = TestServer::start_with(options_in(root.path()));
    assert_eq!(next.server().cleared(), [folder.canonicalize().unwrap_or(folder.clone())]);
    assert!(gone(postmaster));
    assert!(!folder.exists());
    assert_eq!(neighbour.psql("select 1"), "1");
}

#[test]
fn an_owner_killed_while_it_starts_is_cleared_too() {
    const NAME: &str = "an_owner_killed_while_it_starts_is_cleared_too";
    if let Ok(root) = std::env::var(ROLE) {
        return be_the_owner(&root);
    }
    let root = own_root();
    let mut child = owner(&std::env::current_exe().unwrap(), NAME, root.path()).spawn().unwrap();
    let begun = || entries(root.path()).into_iter().find(|folder| folder.join("data/base").exists());
    let folder = loop {
        if let Some(folder) = begun() {
            break folder;
        }
        assert!(child.try_wait().unwrap().is_none(), "the owner ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let next = TestServer::start_with(options_in(root.path()));
    assert_eq!(next.server().cleared(), std::slice::from_ref(&folder));
    let next_folder = next.folder();
    assert_eq!(entries(root.path()), [next_folder], "an initdb that goes on would make the folder again");
}

#[test]
fn a_ctrl_c_in_the_terminal_does_not_reach_the_server() {
    const NAME: &str = "a_ctrl_c_in_the_terminal_does_not_reach_the_server";
    if let Ok(root) = std::env::var(ROLE) {
        return be_the_owner(&root);
    }
    let root = own_root();
    let program = std::env::current_exe().unwrap();
    let mut child = owner(&program, NAME, root.path()).process_group(0).spawn().unwrap();
    let (postmaster, folder) = told_by(&mut child);
    // A terminal sends SIGINT to the whole group in front; this owner has no handler and dies of it.
    kill_process_group(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    assert!(!child.wait().unwrap().success());
    let group = getpgid(Pid::from_raw(postmaster.cast_signed())).unwrap();
    assert_ne!(group, getpgrp());
    assert!(folder.exists() && alive(postmaster));
    drop(ThrowawayServer::start(&options_in(root.path())).unwrap());
    assert!(gone(postmaster));
    assert!(entries(root.path()).is_empty());
}

#[test]
fn works_as_an_ordinary_user() {
    const NAME: &str = "works_as_an_ordinary_user";
    if let Ok(root) = std::env::var(ROLE) {
        assert!(!rustix::process::geteuid().is_root());
        return be_the_owner(&root);
    }
    let root = own_root();
    let place = own_root();
    // The build's folder may be closed to other users.
    let program = place.path().join("copy");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut command = owner(&program, NAME, root.path());
    if rustix::process::geteuid().is_root() {
        let id = |flag| -> u32 {
            let output = Command::new("id").args([flag, "nobody"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
        };
        std::os::unix::fs::chown(root.path(), Some(id("-u")), Some(id("-g"))).unwrap();
        command.uid(id("-u")).gid(id("-g")).current_dir("/");
    }
    let mut child = command.spawn().unwrap();
    let (postmaster, folder) = told_by(&mut child);
    assert_eq!(fs::metadata(&folder).unwrap().uid(), fs::metadata(root.path()).unwrap().uid());
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(gone(postmaster));
    assert!(entries(root.path()).is_empty());
}

#[test]
fn another_users_leftovers_stay() {
    if !rustix::process::geteuid().is_root() {
        // Only root can make a folder that belongs to another; an ordinary user is refused the marker anyway.
        assert!(std::os::unix::fs::chown(own_root().path(), Some(0), None).is_err());
        return;
    }
    let root = own_root();
    let server = TestServer::start_with(options_in(root.path()));
    let foreign = root.path().join("pg_load_test-foreign");
    fs::create_dir(&foreign).unwrap();
    fs::copy(server.folder().join("marker"), foreign.join("marker")).unwrap();
    std::os::unix::fs::chown(&foreign, Some(65_534), None).unwrap();
    assert!(TestServer::start_with(options_in(root.path())).server().cleared().is_empty());
    assert!(foreign.join("marker").exists());
}

#[test]
fn a_folder_that_is_not_ours_stays() {
    let root = own_root();
    let foreign = root.path().join("pg_load_test-of-somebody");
    fs::create_dir(&foreign).unwrap();
    File::create(foreign.join("precious")).unwrap().write_all(b"x").unwrap();
    drop(TestServer::start_with(options_in(root.path())));
    assert_eq!(entries(root.path()), std::slice::from_ref(&foreign));
    assert!(foreign.join("precious").exists());
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let root = own_root();
    let start = || TestServer::start_with(options_in(root.path()));
    let (first, second) = std::thread::scope(|scope| {
        let (first, second) = (scope.spawn(start), scope.spawn(start));
        (first.join().unwrap(), second.join().unwrap())
    });
    first.psql("create table only_here (a int)");
    assert_eq!(second.psql("select count(*) from pg_class where relname = 'only_here'"), "0");
    assert!(first.server().cleared().is_empty() && second.server().cleared().is_empty());
    drop(first);
    assert_eq!(second.psql("select 1"), "1");
}

#[cfg(target_os = "linux")]
#[test]
fn a_freeze_holds_backends_too() {
    let server = TestServer::start();
    server.freeze();
    let states = |wanted: char| {
        server.server().processes().iter().all(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            text.rsplit(") ").next().unwrap().starts_with(wanted)
        })
    };
    // The signal is sent, not yet obeyed: a processor may still be in a system call.
    while !states('T') {
        std::thread::sleep(Duration::from_millis(1));
    }
    server.thaw();
    assert_eq!(server.psql("select 1"), "1");
}

#[test]
fn after_a_kill_it_starts_again_on_the_same_data() {
    let root = own_root();
    let mut server = TestServer::start_with(options_in(root.path()));
    server.psql("set synchronous_commit = on; create table kept as select 1 as a");
    let before = (server.url(), server.server().postmaster_pid());
    server.kill();
    server.start_again();
    assert_eq!(server.psql("select a from kept"), "1");
    assert_eq!(server.url(), before.0);
    assert_ne!(server.server().postmaster_pid(), before.1);
    server.kill();
    drop(server);
    assert!(entries(root.path()).is_empty());
}

/// Shared memory lies outside of the folder: a System V segment by the key in postmaster.pid, and files in /dev/shm.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_server_leaves_no_shared_memory() {
    let server = TestServer::start();
    let noted = fs::read_to_string(server.server().data_dir().join("postmaster.pid")).unwrap();
    let key = noted.lines().nth(6).unwrap().split_whitespace().next().unwrap().parse::<u32>().unwrap().cast_signed();
    let segment = || {
        let table = fs::read_to_string("/proc/sysvipc/shm").unwrap();
        table.lines().any(|line| line.split_whitespace().next() == Some(key.to_string().as_str()))
    };
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.server().postmaster_pid())).unwrap();
    let shared: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find("/dev/shm/PostgreSQL.").map(|start| PathBuf::from(&line[start..])))
        .collect();
    assert!(segment() && !shared.is_empty() && shared.iter().all(|file| file.exists()));
    server.kill();
    drop(server);
    assert!(!segment());
    assert!(shared.iter().all(|file| !file.exists()), "{shared:?}");
}

#[test]
fn without_postgresql_the_error_tells_how_to_install_it() {
    let empty = own_root();
    let options =
        ThrowawayOptions { program_dirs: Some(vec![empty.path().to_path_buf()]), ..ThrowawayOptions::default() };
    let error = ThrowawayServer::start(&options).unwrap_err();
    let ThrowawayError::NotInstalled { advice, looked } = &error else { panic!("{error}") };
    assert!(advice.contains("install") || advice.contains("https://") || advice.contains("postgresql"), "{advice}");
    assert!(error.to_string().contains(advice.as_str()));
    assert_eq!(*looked, format!("in {}", empty.path().display()));
}

/// As containers do that run as any user ID: no line of /etc/passwd is for it.
#[test]
fn works_as_a_user_without_a_name() {
    const NAME: &str = "works_as_a_user_without_a_name";
    const NAMELESS: u32 = 1_234_567;
    if let Ok(root) = std::env::var(ROLE) {
        assert_eq!(rustix::process::geteuid().as_raw(), NAMELESS);
        return be_the_owner(&root);
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can take a user ID that has no name");
        return;
    }
    let root = own_root();
    let place = own_root();
    let program = place.path().join("copy");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(root.path(), Some(NAMELESS), Some(0)).unwrap();
    let mut child = owner(&program, NAME, root.path()).uid(NAMELESS).gid(0).current_dir("/").spawn().unwrap();
    let (postmaster, folder) = told_by(&mut child);
    assert_eq!(fs::metadata(folder.join("data")).unwrap().uid(), NAMELESS);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(gone(postmaster));
    assert!(entries(root.path()).is_empty());
}
