//! Sessions come up, many at once, and nothing is left of them, whichever way they end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use futures::future::join_all;

use super::*;
use crate::harness::{skipped, user};
use crate::library::SshErrorKind;

/// Set for the process that holds sessions until it is killed: the configuration to connect with.
const HOLD: &str = "SSH_TEST_HOLD";

async fn output(session: &Session, command: &str) -> String {
    let output = session.raw_command(command).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_session_runs_commands_in_the_home_of_the_test() {
    let bench = Bench::start().await;
    assert_eq!(output(&bench.session, "echo $HOME").await, bench.sshd.home().to_str().unwrap());
    let folder = folder_of(&bench.session);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(bench.session.control_socket().as_os_str().len() <= 90);
    bench.finish().await;
    assert_nothing_left(&folder);
}

#[tokio::test]
async fn user_and_port_of_the_host_win_and_ipv6_works() {
    let sshd = TestSshd::start();
    let wrong = SshOptions { user: Some("nobody-there".into()), port: Some(1), ..options(&sshd) };
    let sessions = Sessions::new(wrong).unwrap();
    let (user, port) = (user(), sshd.port());
    for name in [format!("{user}@127.0.0.9:{port}"), format!("{user}@[::1]:{port}")] {
        if name.contains("::1") && std::net::TcpStream::connect(("::1", port)).is_err() {
            skipped("no IPv6 here");
            continue;
        }
        let session = sessions.open(&host(&name)).await.unwrap();
        assert_eq!(output(&session, "id -un").await, user);
    }
    sessions.finish().await;
}

#[tokio::test]
async fn an_explicit_key_does_without_a_configuration_of_the_key() {
    let sshd = TestSshd::start();
    let config = sshd.home().join("config");
    let known_hosts = sshd.known_hosts();
    fs::write(&config, format!("UserKnownHostsFile {}\nIdentityAgent none\n", known_hosts.display())).unwrap();
    let by_hand =
        SshOptions { port: Some(sshd.port()), keyfile: Some(sshd.key()), config: Some(config), ..options(&sshd) };
    let sessions = Sessions::new(by_hand).unwrap();
    let session = sessions.open(&host("127.0.0.1")).await.unwrap();
    assert_eq!(output(&session, "echo there").await, "there");
    assert!(fs::read_to_string(known_hosts).unwrap().contains("127.0.0.1"), "the key was written down");
    sessions.finish().await;
}

#[tokio::test]
async fn forty_sessions_come_up_behind_a_server_that_drops_connections() {
    let sshd = TestSshd::start_with("MaxStartups 3:50:6");
    let sessions = Sessions::new(options(&sshd)).unwrap();
    let hosts: Vec<Host> = (1..=40).map(|number| host(&format!("127.0.0.{number}"))).collect();
    let opened = join_all(hosts.iter().map(async |host| {
        let session = sessions.open(host).await.map_err(|error| error.to_string())?;
        // Held by a channel, as an agent's would be.
        let mut command = Arc::clone(&session).arc_raw_command("cat");
        command.stdin(openssh::Stdio::piped()).stdout(openssh::Stdio::piped()).stderr(openssh::Stdio::null());
        let child = command.spawn().await.map_err(|error| error.to_string())?;
        Ok::<_, String>((session, child))
    }))
    .await;
    let failed: Vec<_> = opened.iter().filter_map(|opened| opened.as_ref().err()).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{}", sshd.log());
    let folder = folder_of(&opened[0].as_ref().unwrap().0);
    assert_eq!(sshd.sessions().len(), 40);
    sessions.finish().await;
    assert_nothing_left(&folder);
    eventually("the server notices", || sshd.sessions().is_empty()).await;
}

#[tokio::test]
async fn a_closed_session_leaves_nothing_even_with_a_channel_open() {
    let bench = Bench::start().await;
    let (folder, socket) = (folder_of(&bench.session), bench.session.control_socket().to_owned());
    let mut command = Arc::clone(&bench.session).arc_raw_command("cat");
    let child = command.stdin(openssh::Stdio::piped()).stdout(openssh::Stdio::piped()).spawn().await.unwrap();
    bench.sessions.close(Arc::clone(&bench.session)).await;
    assert!(!socket.exists());
    assert_no_process(&folder);
    bench.sessions.close(Arc::clone(&bench.session)).await;
    drop(child);
    eventually("the server notices", || bench.sshd.sessions().is_empty()).await;
    bench.finish().await;
    assert_nothing_left(&folder);
}

#[tokio::test]
async fn a_session_on_a_dead_network_is_closed_all_the_same() {
    let bench = Bench::start().await;
    let folder = folder_of(&bench.session);
    let mut command = Arc::clone(&bench.session).arc_raw_command("cat >/dev/null");
    let mut child = command.stdin(openssh::Stdio::piped()).spawn().await.unwrap();
    let frozen = bench.sshd.sessions();
    frozen.iter().for_each(|&session| bench.sshd.freeze_session(session));
    // More than all buffers on the way hold: the master cannot even say goodbye.
    let mut stdin = child.stdin().take().unwrap();
    let filling = async { while stdin.write_all(&[0; 65536]).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(1), filling).await.is_err());
    let begun = Instant::now();
    bench.sessions.close(Arc::clone(&bench.session)).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_no_process(&folder);
    bench.sessions.finish().await;
    assert_nothing_left(&folder);
}

#[tokio::test]
async fn an_interrupt_ends_attempts_and_forbids_more() {
    let sshd = TestSshd::start();
    let sessions = Sessions::new(options(&sshd)).unwrap();
    let first = sessions.open(&host("127.0.0.1")).await.unwrap();
    let folder = folder_of(&first);
    sshd.freeze();
    let second = host("127.0.0.2");
    let begun = Instant::now();
    let (outcome, ()) = tokio::join!(sessions.open(&second), async {
        eventually("it connects", || processes_of(&folder).len() > 1).await;
        sessions.interrupt();
        sessions.interrupt();
    });
    assert_eq!(outcome.unwrap_err().kind(), SshErrorKind::Interrupted);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(sessions.open(&second).await.unwrap_err().kind(), SshErrorKind::Interrupted);
    sshd.thaw();
    sessions.finish().await;
    assert_nothing_left(&folder);
}

#[tokio::test]
async fn an_abandoned_attempt_leaves_nothing() {
    let sshd = TestSshd::start();
    let sessions = Sessions::new(options(&sshd)).unwrap();
    let first = sessions.open(&host("127.0.0.1")).await.unwrap();
    let folder = folder_of(&first);
    let second = host("127.0.0.2");
    // Some of these end before it is connected, and some after.
    for wait_ms in [5, 50, 150, 300] {
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), sessions.open(&second)).await;
    }
    sessions.finish().await;
    assert_nothing_left(&folder);
    eventually("the server notices", || sshd.sessions().is_empty()).await;
}

/// No test of its own: the process that [`a_killed_process_leaves_nothing_running`] kills.
#[tokio::test]
async fn holds_sessions_until_it_is_killed() {
    let Some(config) = std::env::var_os(HOLD) else { return };
    let options = SshOptions {
        user: None,
        port: None,
        keyfile: None,
        config: Some(config.into()),
        host_keys: HostKeys::AcceptNew,
        connect_timeout: Duration::from_secs(20),
        concurrency: 8,
    };
    let sessions = Sessions::new(options).unwrap();
    let opened = [sessions.open(&host("127.0.0.1")).await.unwrap(), sessions.open(&host("127.0.0.2")).await.unwrap()];
    let mut command = Arc::clone(&opened[0]).arc_raw_command("cat");
    let _held = command.stdin(openssh::Stdio::piped()).stdout(openssh::Stdio::piped()).spawn().await.unwrap();
    println!("\nfolder={}", folder_of(&opened[0]).display());
    tokio::time::sleep(PATIENCE).await;
}

#[tokio::test]
async fn a_killed_process_leaves_nothing_running() {
    let sshd = TestSshd::start();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = module_path!().split_once("::").unwrap().1.to_owned() + "::holds_sessions_until_it_is_killed";
    command.args(["--exact", &name, "--nocapture"]);
    let mut holder = command.env(HOLD, sshd.config()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines().map_while(Result::ok);
    let folder = lines.into_iter().find_map(|line| line.strip_prefix("folder=").map(PathBuf::from)).unwrap();
    assert!(processes_of(&folder).len() >= 2, "two masters: {:?}", processes_of(&folder));
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually("all is gone", || processes_of(&folder).is_empty()).await;
    drop(Sessions::new(options(&sshd)).unwrap());
    assert!(!folder.exists(), "the next run removes the folder");
    eventually("the server notices", || sshd.sessions().is_empty()).await;
}

#[tokio::test]
async fn dropped_sessions_leave_nothing_either() {
    let bench = Bench::start().await;
    let folder = folder_of(&bench.session);
    drop(bench.sessions);
    eventually("all is gone", || processes_of(&folder).is_empty() && !folder.exists()).await;
}
