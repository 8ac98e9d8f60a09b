//! What can keep a session from coming up, each with the sentence that says so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;
use crate::harness::processes::send;
use crate::harness::sshd::{generate_key, generate_key_with};
use crate::harness::user;
use crate::library::{SshError, SshErrorKind};

async fn failure_of(options: SshOptions, name: &str) -> SshError {
    let sessions = Sessions::new(options).unwrap();
    let error = sessions.open(&host(name)).await.expect_err("no session");
    sessions.finish().await;
    error
}

#[track_caller]
fn assert_says(error: &SshError, kind: SshErrorKind, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    parts.iter().for_each(|part| assert!(text.contains(part), "{part} is missing: {text}"));
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

#[tokio::test]
async fn a_wrong_key() {
    let sshd = TestSshd::start();
    let stranger = sshd.home().join("stranger");
    generate_key(&stranger);
    fs::write(sshd.config(), fs::read_to_string(sshd.config()).unwrap().replace("  IdentityFile", "  #")).unwrap();
    let error = failure_of(SshOptions { keyfile: Some(stranger.clone()), ..options(&sshd) }, "127.0.0.1").await;
    let user = format!("user {}", user());
    assert_says(&error, SshErrorKind::Denied, &["127.0.0.1: ", &user, stranger.to_str().unwrap(), "--ssh-key"]);

    let error = failure_of(options(&sshd), "nobody-there@127.0.0.1").await;
    assert_says(&error, SshErrorKind::Denied, &["user nobody-there", "--ssh-key", "--ssh-user", "authorized_keys"]);
}

#[tokio::test]
async fn a_key_with_a_passphrase() {
    let sshd = TestSshd::start();
    let locked = sshd.home().join("locked");
    generate_key_with(&locked, "a secret");
    fs::copy(locked.with_extension("pub"), sshd.authorized_keys()).unwrap();
    let error = failure_of(SshOptions { keyfile: Some(locked), ..options(&sshd) }, "127.0.0.1").await;
    assert_says(&error, SshErrorKind::Denied, &["passphrase", "ssh-add"]);
}

/// An agent on a socket of its own, with a key. Ended when dropped.
pub struct TestAgent {
    pub socket: PathBuf,
    child: std::process::Child,
}

impl TestAgent {
    pub async fn start(folder: &Path, key: Option<&Path>) -> Self {
        let socket = folder.join("agent");
        let mut command = Command::new("ssh-agent");
        let child = command.args(["-D", "-a"]).arg(&socket).stdout(std::process::Stdio::null()).spawn().unwrap();
        let agent = Self { socket, child };
        eventually("the agent listens", || std::os::unix::net::UnixStream::connect(&agent.socket).is_ok()).await;
        if let Some(key) = key {
            let mut add = Command::new("ssh-add");
            let output = add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &agent.socket).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        agent
    }

    pub fn freeze(&self) {
        send(self.child.id(), rustix::process::Signal::STOP);
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The configuration with the agent's socket in it, and perhaps without its key.
fn use_agent(sshd: &TestSshd, agent: &Path, with_key: bool) {
    let config = fs::read_to_string(sshd.config()).unwrap();
    let config = config.replace("IdentityAgent none", &format!("IdentityAgent {}", agent.display()));
    let key = if with_key { "IdentityFile" } else { "# IdentityFile" };
    fs::write(sshd.config(), config.replace("IdentityFile", key)).unwrap();
}

#[tokio::test]
async fn a_public_key_whose_private_key_is_in_the_agent() {
    let sshd = TestSshd::start();
    let public = sshd.home().join("moved.pub");
    fs::copy(sshd.key().with_extension("pub"), &public).unwrap();
    let agent = TestAgent::start(&sshd.home(), Some(&sshd.key())).await;
    use_agent(&sshd, &agent.socket, false);
    let sessions = Sessions::new(SshOptions { keyfile: Some(public), ..options(&sshd) }).unwrap();
    sessions.open(&host("127.0.0.1")).await.unwrap_or_else(|error| panic!("{error}"));
    sessions.finish().await;
    let connections = sshd.connections();
    let stranger = sshd.home().join("stranger");
    generate_key(&stranger);
    let keyfile = Some(stranger.with_extension("pub"));
    let error = failure_of(SshOptions { keyfile, ..options(&sshd) }, "127.0.0.1").await;
    assert_says(&error, SshErrorKind::KeyFile, &["stranger.pub is a public key", "--ssh-key", "ssh-add"]);
    assert_eq!(sshd.connections(), connections, "nothing was tried");
}

#[tokio::test]
async fn an_agent_that_does_not_answer() {
    let sshd = TestSshd::start();
    let agent = TestAgent::start(&sshd.home(), None).await;
    use_agent(&sshd, &agent.socket, true);
    agent.freeze();
    let connections = sshd.connections();
    let error = failure_of(options(&sshd), "127.0.0.1").await;
    let socket = agent.socket.display().to_string();
    assert_says(&error, SshErrorKind::Agent, &["agent on this machine does not answer", &socket, "SSH_AUTH_SOCK"]);
    assert_eq!(sshd.connections(), connections + 1, "one attempt");
}

#[tokio::test]
async fn a_key_of_the_configuration_with_a_passphrase_and_no_agent() {
    let sshd = TestSshd::start();
    fs::remove_file(sshd.key()).unwrap();
    generate_key_with(&sshd.key(), "a secret");
    fs::copy(sshd.key().with_extension("pub"), sshd.authorized_keys()).unwrap();
    let error = failure_of(options(&sshd), "127.0.0.1").await;
    let key = format!("run ssh-add {}", sshd.key().display());
    assert_says(&error, SshErrorKind::Denied, &["has a passphrase", &key]);
}

#[tokio::test]
async fn host_keys_that_cannot_be_written_down_are_told_once() {
    let sshd = TestSshd::start();
    fs::remove_file(sshd.known_hosts()).unwrap();
    fs::create_dir(sshd.known_hosts()).unwrap();
    let sessions = Sessions::new(options(&sshd)).unwrap();
    for name in ["127.0.0.1", "127.0.0.2"] {
        sessions.open(&host(name)).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let notes = sessions.notes();
    assert!(notes.len() == 1 && notes[0].contains(sshd.known_hosts().to_str().unwrap()), "{notes:?}");
    sessions.finish().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_refused_before_connecting() {
    let sshd = TestSshd::start();
    let refused = |keyfile: PathBuf| {
        Sessions::new(SshOptions { keyfile: Some(keyfile), ..options(&sshd) }).expect_err("it is refused")
    };
    assert_says(&refused(sshd.home().join("missing")), SshErrorKind::KeyFile, &["missing", "--ssh-key"]);
    assert_says(&refused(sshd.home()), SshErrorKind::KeyFile, &["is not a file"]);
    fs::set_permissions(sshd.key(), fs::Permissions::from_mode(0o644)).unwrap();
    assert_says(&refused(sshd.key()), SshErrorKind::KeyFile, &["mode 0644", "chmod 600"]);

    let error = Sessions::new(SshOptions { config: Some("/nowhere/config".into()), ..options(&sshd) }).unwrap_err();
    assert_says(&error, SshErrorKind::Config, &["/nowhere/config", "--ssh-config"]);

    // Nobody writes to it, so reading it would never end.
    let pipe = sshd.home().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = Sessions::new(SshOptions { config: Some(pipe), ..options(&sshd) }).unwrap_err();
    assert_says(&error, SshErrorKind::Config, &["it is a pipe", "--ssh-config"]);
}

#[tokio::test]
async fn a_key_of_the_configuration_that_others_can_read() {
    let sshd = TestSshd::start();
    fs::set_permissions(sshd.key(), fs::Permissions::from_mode(0o644)).unwrap();
    let error = failure_of(options(&sshd), "127.0.0.1").await;
    assert_says(&error, SshErrorKind::KeyFile, &["are too open", "--ssh-key"]);
}

#[tokio::test]
async fn a_changed_host_key() {
    let mut sshd = TestSshd::start();
    let sessions = Sessions::new(options(&sshd)).unwrap();
    sessions.open(&host("127.0.0.1")).await.unwrap();
    sshd.change_host_key();
    let entry = format!("-R '[127.0.0.1]:{}'", sshd.port());
    let file = sshd.known_hosts().display().to_string();
    for host_keys in [HostKeys::AcceptNew, HostKeys::Strict] {
        let error = failure_of(SshOptions { host_keys, ..options(&sshd) }, "127.0.0.1").await;
        assert_says(&error, SshErrorKind::HostKeyChanged, &["an attack", "ssh-keygen", &file, &entry]);
    }
    let before = fs::read_to_string(sshd.known_hosts()).unwrap();
    let careless = Sessions::new(SshOptions { host_keys: HostKeys::Off, ..options(&sshd) }).unwrap();
    careless.open(&host("127.0.0.1")).await.unwrap();
    assert_eq!(fs::read_to_string(sshd.known_hosts()).unwrap(), before);
    careless.finish().await;
    sessions.finish().await;
}

#[tokio::test]
async fn an_unknown_host_key_where_only_known_ones_are_accepted() {
    let sshd = TestSshd::start();
    let error = failure_of(SshOptions { host_keys: HostKeys::Strict, ..options(&sshd) }, "127.0.0.1").await;
    assert_says(&error, SshErrorKind::HostKeyUnknown, &["127.0.0.1: ", "--host-keys accept-new"]);
    assert_eq!(fs::read_to_string(sshd.known_hosts()).unwrap(), "");
}

#[tokio::test]
async fn a_name_without_an_address() {
    let sshd = TestSshd::start();
    let error = failure_of(options(&sshd), "no-such-host.invalid").await;
    // Where there is no DNS at all, it cannot be told from a name that is not there.
    assert!([SshErrorKind::Unresolved, SshErrorKind::ResolverFailed].contains(&error.kind()), "{error}");
    assert_says(&error, error.kind(), &["no-such-host.invalid: ", "--vms"]);
}

#[tokio::test]
async fn nothing_listens() {
    let mut sshd = TestSshd::start();
    sshd.stop();
    let error = failure_of(options(&sshd), "127.0.0.1").await;
    assert_says(&error, SshErrorKind::Refused, &["Connection refused", "--ssh-port"]);
}

#[tokio::test]
async fn nobody_greets() {
    let sshd = TestSshd::start();
    sshd.freeze();
    let sessions = Sessions::new(SshOptions { connect_timeout: Duration::from_millis(10), ..options(&sshd) }).unwrap();
    let error = sessions.open(&host("127.0.0.1")).await.unwrap_err();
    assert_says(&error, SshErrorKind::Timeout, &["--connect-timeout"]);
    sshd.thaw();
    sessions.finish().await;
}

#[tokio::test]
async fn a_configuration_that_ssh_does_not_understand() {
    let sshd = TestSshd::start();
    fs::write(sshd.config(), "NoSuchOption yes\n").unwrap();
    let error = failure_of(options(&sshd), "127.0.0.1").await;
    assert_says(&error, SshErrorKind::Config, &["--ssh-config", "line 1"]);
}

#[tokio::test]
async fn an_account_without_a_shell_and_words_that_would_steer_a_terminal() {
    let bench = Bench::start_with("ForceCommand printf '\\033]0;owned\\007go away' >&2; exit 1").await;
    let error = bench.launch(&deploy_options("~", DeployMode::Auto)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("go away") && text.contains("/bin/sh"), "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    bench.finish().await;
}
