//! What the server is like, and who may run it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::{ROLE, be_the_owner, owner, paths, psql, start, start_in, told_by, try_psql};
use crate::harness::processes::is_alive;
use crate::harness::{PASSWORD, Program, public_folder, skipped};
use crate::library::{ThrowawayError, ThrowawayOptions, ThrowawayServer};

#[test]
fn answers_with_the_tuned_settings() {
    let server = start(&ThrowawayOptions::default());
    assert_eq!(psql(&server, "select 1"), "1");
    for (setting, value) in [
        ("shared_buffers", "256MB"),
        ("wal_buffers", "64MB"),
        ("max_wal_size", "2GB"),
        ("synchronous_commit", "off"),
        ("max_connections", "200"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
    ] {
        assert_eq!(psql(&server, &format!("SHOW {setting}")), value, "{setting}");
    }
    let version = psql(&server, "SHOW server_version");
    assert!(version.starts_with(&server.version().major.to_string()), "{version}");
    assert_eq!(psql(&server, "SHOW data_directory"), server.data_dir().display().to_string());
}

#[test]
fn the_callers_settings_win() {
    let settings = vec![("synchronous_commit".into(), "on".into()), ("log_line_prefix".into(), r"it's \%p ".into())];
    let server = start(&ThrowawayOptions { settings, max_connections: 321, ..Default::default() });
    assert_eq!(psql(&server, "SHOW synchronous_commit"), "on");
    assert_eq!(psql(&server, "SHOW log_line_prefix"), r"it's \%p ");
    assert_eq!(psql(&server, "SHOW max_connections"), "321");
    // Not on the server's command line, which nothing could change any more.
    psql(&server, "ALTER SYSTEM SET synchronous_commit = 'local'");
    psql(&server, "SELECT pg_reload_conf()");
    while psql(&server, "SHOW synchronous_commit") != "local" {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_connection_string_is_understood() {
    let server = start(&ThrowawayOptions::default());
    let text = server.connection_string();
    assert_eq!(psql(&server, "select current_user"), "postgres");
    let config: tokio_postgres::Config = text.parse().unwrap();
    assert_eq!(config.get_hosts(), [tokio_postgres::config::Host::Unix(server.socket_dir())]);
    assert_eq!(config.get_ports(), [server.port()]);
}

#[test]
fn nobody_else_has_access_to_the_folder() {
    let server = start(&ThrowawayOptions::default());
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(server.folder_path()) & 0o007, 0);
    assert_eq!(mode(&server.data_dir()), 0o700);
    assert_eq!(mode(&server.socket_dir()), 0o700);
    assert_eq!(fs::metadata(server.folder_path()).unwrap().uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn over_tcp_only_with_the_password() {
    let superuser_password = Some(PASSWORD.to_owned());
    let server = start(&ThrowawayOptions { tcp: true, superuser_password, ..ThrowawayOptions::default() });
    let at = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", server.port());
    let right = try_psql(&server, &format!("{at} password='{PASSWORD}'"), "select inet_server_addr()").expect(0);
    assert_eq!(right.stdout, "127.0.0.1\n");
    let wrong = try_psql(&server, &format!("{at} password='x{PASSWORD}'"), "select 1").expect(2);
    assert!(wrong.stderr.contains("password authentication failed"), "{}", wrong.stderr);
    assert!(!server.folder_path().join("password").exists());
    let open = ThrowawayOptions { tcp: true, ..ThrowawayOptions::default() };
    assert!(matches!(ThrowawayServer::start(&open), Err(ThrowawayError::OpenDoor)));
}

#[test]
fn own_rules_on_who_may_come_in() {
    let hba = Some("local all all reject\n".to_owned());
    let server = start(&ThrowawayOptions { hba, ..ThrowawayOptions::default() });
    let ran = try_psql(&server, &server.connection_string(), "select 1").expect(2);
    assert!(ran.stderr.contains("pg_hba.conf rejects connection"), "{}", ran.stderr);
}

#[test]
fn works_as_an_ordinary_user() {
    const NAME: &str = "works_as_an_ordinary_user";
    if let Ok(root) = std::env::var(ROLE) {
        assert!(!rustix::process::geteuid().is_root());
        return be_the_owner(&root);
    }
    let root = public_folder();
    let place = public_folder();
    // The build's folder may be closed to other users.
    let program = place.path().join("copy");
    Program::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).run().expect(0);
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut command = owner(&program, module_path!(), NAME, root.path());
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
    assert!(!is_alive(postmaster));
    assert!(paths(root.path()).is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_freeze_holds_backends_too() {
    let server = start(&ThrowawayOptions::default());
    server.signal_all(Signal::STOP);
    let states = |wanted: char| {
        server.processes().iter().all(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            text.rsplit(") ").next().unwrap().starts_with(wanted)
        })
    };
    // The signal is sent, not yet obeyed: a processor may still be in a system call.
    while !states('T') {
        std::thread::sleep(Duration::from_millis(1));
    }
    server.signal_all(Signal::CONT);
    assert_eq!(psql(&server, "select 1"), "1");
}

#[test]
fn after_a_kill_it_starts_again_on_the_same_data() {
    let root = public_folder();
    let mut server = start_in(root.path());
    psql(&server, "set synchronous_commit = on; create table kept as select 1 as a");
    let before = (server.connection_string(), server.postmaster_pid());
    server.signal_all(Signal::KILL);
    server.start_again().unwrap();
    assert_eq!(psql(&server, "select a from kept"), "1");
    assert_eq!(server.connection_string(), before.0);
    assert_ne!(server.postmaster_pid(), before.1);
    server.signal_all(Signal::KILL);
    drop(server);
    assert!(paths(root.path()).is_empty());
}

#[test]
fn without_postgresql_the_error_tells_how_to_install_it() {
    let empty = public_folder();
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
        return skipped("only root can take a user ID that has no name");
    }
    let root = public_folder();
    let place = public_folder();
    let program = place.path().join("copy");
    // By another process: a child that a neighbouring test starts meanwhile would hold the copy open for writing, and then it
    // cannot be run.
    Program::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).run().expect(0);
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(root.path(), Some(NAMELESS), Some(0)).unwrap();
    let mut child =
        owner(&program, module_path!(), NAME, root.path()).uid(NAMELESS).gid(0).current_dir("/").spawn().unwrap();
    let (postmaster, folder) = told_by(&mut child);
    assert_eq!(fs::metadata(folder.join("data")).unwrap().uid(), NAMELESS);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(!is_alive(postmaster));
    assert!(paths(root.path()).is_empty());
}
