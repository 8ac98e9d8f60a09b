//! A jump host, or a ProxyCommand, on the way: what fails there is told of it, in its own words, after one attempt.

use std::fs;

use futures::future::join_all;

use super::faults::TestAgent;
use super::*;
use crate::harness::sshd::generate_key_with;
use crate::library::{SshError, SshErrorKind};

/// A machine that can only be reached through another one, and a configuration that says so.
struct Behind {
    bastion: TestSshd,
    vm: TestSshd,
    config: PathBuf,
}

impl Behind {
    fn start() -> Self {
        Self::start_with("", "ProxyJump bastion")
    }

    /// With lines of the jump host's `sshd_config`, and what the configuration says of the VMs.
    fn start_with(sshd: &str, way: &str) -> Self {
        let (bastion, vm) = (TestSshd::start_with(sshd), TestSshd::start());
        let config = vm.config().with_file_name("config");
        let behind = Self { bastion, vm, config };
        behind.configure("127.0.9.9", behind.bastion.port(), way);
        behind
    }

    fn configure(&self, address: &str, port: u16, way: &str) {
        let (key, way) = (self.bastion.key(), way.replace("CONFIG", self.config.to_str().unwrap()));
        let vms = fs::read_to_string(self.vm.config()).unwrap();
        let text = format!(
            "Host bastion\n  HostName {address}\n  Port {port}\n  IdentityFile {}\nMatch host \"127.0.1.*\"\n  {way}\n{vms}",
            key.display()
        );
        fs::write(&self.config, text).unwrap();
    }

    fn options(&self) -> SshOptions {
        SshOptions { config: Some(self.config.clone()), ..options(&self.vm) }
    }

    /// Opens several VMs at once with these options, none of which can be reached.
    async fn failures(&self, options: SshOptions) -> Vec<SshError> {
        let sessions = Sessions::new(options).unwrap();
        let hosts = [1, 2, 3].map(|number| host(&format!("127.0.1.{number}")));
        let failed = join_all(hosts.iter().map(async |host| sessions.open(host).await.expect_err("no session"))).await;
        sessions.finish().await;
        for (host, error) in hosts.iter().zip(&failed) {
            assert!(error.to_string().starts_with(&format!("{host}: ")), "{error}");
        }
        failed
    }

    /// All of them fail in the same way, and the jump host saw `connections` of them.
    async fn assert_fails(&self, options: SshOptions, kind: SshErrorKind, connections: usize, parts: &[&str]) {
        let before = self.bastion.connections();
        for error in self.failures(options).await {
            let text = error.to_string();
            assert_eq!(error.kind(), kind, "{text}");
            parts.iter().for_each(|part| assert!(text.contains(part), "{part} is missing: {text}"));
            assert!(!text.contains("MaxStartups") && !text.chars().any(char::is_control), "{text:?}");
        }
        assert_eq!(self.bastion.connections() - before, connections, "{}", self.bastion.log());
    }
}

#[tokio::test]
async fn a_new_jump_host_is_treated_as_the_vms_are() {
    let behind = Behind::start();
    let sessions = Sessions::new(behind.options()).unwrap();
    let hosts = [1, 2, 3].map(|number| host(&format!("127.0.1.{number}")));
    let opened = join_all(hosts.iter().map(async |host| sessions.open(host).await.map_err(|error| error.to_string())));
    let opened: Vec<_> = opened.await.into_iter().map(Result::unwrap).collect();
    let output = opened[2].raw_command("echo $HOME").output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), behind.vm.home().to_str().unwrap());
    let known = fs::read_to_string(behind.vm.known_hosts()).unwrap();
    assert!(known.contains("127.0.9.9") && known.contains("127.0.1.3"), "{known}");
    assert_eq!(sessions.notes(), [""; 0]);
    let folder = folder_of(&opened[0]);
    sessions.finish().await;
    assert_nothing_left(&folder);
    eventually("the jump host notices", || behind.bastion.sessions().is_empty()).await;
    // Nothing is compared nor written down, on the way either.
    fs::write(behind.vm.known_hosts(), "").unwrap();
    let sessions = Sessions::new(SshOptions { host_keys: HostKeys::Off, ..behind.options() }).unwrap();
    sessions.open(&hosts[0]).await.unwrap();
    assert_eq!(fs::read_to_string(behind.vm.known_hosts()).unwrap(), "");
    sessions.finish().await;
}

#[tokio::test]
async fn an_unknown_jump_host() {
    let behind = Behind::start();
    let options = SshOptions { host_keys: HostKeys::Strict, ..behind.options() };
    let parts = ["the host key of its jump host bastion", "ssh bastion", "--host-keys accept-new"];
    behind.assert_fails(options, SshErrorKind::HostKeyUnknown, 1, &parts).await;
}

#[tokio::test]
async fn a_jump_host_with_a_changed_key() {
    let mut behind = Behind::start();
    let sessions = Sessions::new(behind.options()).unwrap();
    sessions.open(&host("127.0.1.1")).await.unwrap();
    sessions.finish().await;
    behind.bastion.change_host_key();
    let entry = format!("-R '[127.0.9.9]:{}'", behind.bastion.port());
    let parts = ["the host key of its jump host bastion is not the one that is known", "ssh-keygen", &entry];
    behind.assert_fails(behind.options(), SshErrorKind::HostKeyChanged, 1, &parts).await;
}

#[tokio::test]
async fn a_jump_host_that_refuses_the_key() {
    let behind = Behind::start_with("Banner /etc/hostname", "ProxyJump bastion");
    fs::write(behind.bastion.authorized_keys(), "").unwrap();
    let parts =
        ["its jump host bastion did not let us in", "@127.0.9.9: Permission denied (publickey)", "IdentityFile"];
    behind.assert_fails(behind.options(), SshErrorKind::Denied, 1, &parts).await;
    // The same, and the key could not be used at all.
    fs::remove_file(behind.bastion.key()).unwrap();
    generate_key_with(&behind.bastion.key(), "a secret");
    let add = format!("run ssh-add {}", behind.bastion.key().display());
    behind.assert_fails(behind.options(), SshErrorKind::Denied, 1, &["bastion did not let us in", &add]).await;
}

#[tokio::test]
async fn a_jump_host_on_which_nothing_listens_or_that_has_no_address() {
    let mut behind = Behind::start();
    behind.bastion.stop();
    let parts = ["nothing listens on its jump host bastion", "Connection refused"];
    behind.assert_fails(behind.options(), SshErrorKind::Refused, 0, &parts).await;
    behind.configure("no-such-host.invalid", 22, "ProxyJump bastion");
    for error in behind.failures(behind.options()).await {
        assert!([SshErrorKind::Unresolved, SshErrorKind::ResolverFailed].contains(&error.kind()), "{error}");
        assert!(error.to_string().contains("its jump host bastion has no address"), "{error}");
    }
}

#[tokio::test]
async fn a_jump_host_that_makes_no_connections_for_others() {
    let behind = Behind::start_with("AllowTcpForwarding no", "ProxyJump bastion");
    let parts =
        ["its jump host bastion does not connect to others", "administratively prohibited", "AllowTcpForwarding"];
    behind.assert_fails(behind.options(), SshErrorKind::Forwarding, 1, &parts).await;
}

#[tokio::test]
async fn vms_behind_a_jump_host_on_which_nothing_listens() {
    let mut behind = Behind::start();
    behind.vm.stop();
    // As without a jump host, it may just be starting.
    let parts = ["its jump host bastion gets no connection to it", "Connection refused"];
    behind.assert_fails(behind.options(), SshErrorKind::Refused, 6, &parts).await;
}

#[tokio::test]
async fn a_jump_host_that_does_not_answer() {
    let behind = Behind::start();
    let sessions = Sessions::new(SshOptions { connect_timeout: Duration::from_secs(1), ..behind.options() }).unwrap();
    behind.bastion.freeze();
    let error = sessions.open(&host("127.0.1.1")).await.unwrap_err();
    behind.bastion.thaw();
    assert_eq!(error.kind(), SshErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("its jump host bastion did not answer within 1 s"), "{error}");
    behind.vm.freeze();
    let error = sessions.open(&host("127.0.1.1")).await.unwrap_err();
    behind.vm.thaw();
    assert_eq!(error.kind(), SshErrorKind::Timeout, "{error}");
    assert!(error.to_string().starts_with("127.0.1.1: no answer within"), "{error}");
    sessions.finish().await;
}

#[tokio::test]
async fn of_several_jump_hosts_the_guilty_one_is_named() {
    let behind = Behind::start();
    let inner = TestSshd::start();
    let second = format!(
        "ProxyJump bastion,inner\nHost inner\n  HostName 127.0.8.8\n  Port {}\n  IdentityFile {}",
        inner.port(),
        inner.key().display()
    );
    behind.configure("127.0.9.9", behind.bastion.port(), &second);
    let sessions = Sessions::new(behind.options()).unwrap();
    sessions.open(&host("127.0.1.1")).await.unwrap_or_else(|error| panic!("{error}"));
    sessions.finish().await;
    fs::write(inner.authorized_keys(), "").unwrap();
    behind.assert_fails(behind.options(), SshErrorKind::Denied, 1, &["jump host inner did not", "@127.0.8.8: "]).await;
    fs::write(behind.bastion.authorized_keys(), "").unwrap();
    behind
        .assert_fails(behind.options(), SshErrorKind::Denied, 1, &["jump host bastion did not", "@127.0.9.9: "])
        .await;
    // The same chain, told by the jump host's own entry.
    let chain = second
        .replace("ProxyJump bastion,inner", "ProxyJump inner")
        .replace("Host inner", "Host inner\n  ProxyJump bastion");
    behind.configure("127.0.9.9", behind.bastion.port(), &chain);
    behind
        .assert_fails(behind.options(), SshErrorKind::Denied, 1, &["jump host bastion did not", "@127.0.9.9: "])
        .await;
}

/// Only that is worth another attempt.
#[tokio::test]
async fn a_jump_host_that_has_too_many_connections_for_a_moment() {
    let behind = Behind::start_with("MaxStartups 1:100:1", "ProxyJump bastion");
    let held = std::net::TcpStream::connect(("127.0.0.1", behind.bastion.port())).unwrap();
    let sessions = Sessions::new(behind.options()).unwrap();
    let host = host("127.0.1.1");
    let (opened, ()) = tokio::join!(sessions.open(&host), async {
        eventually("one is dropped", || behind.bastion.log().contains("MaxStartups")).await;
        drop(held);
    });
    opened.unwrap_or_else(|error| panic!("{error}\n{}", behind.bastion.log()));
    sessions.finish().await;
}

#[tokio::test]
async fn an_agent_that_does_not_answer_for_the_jump_host() {
    let behind = Behind::start();
    let agent = TestAgent::start(&behind.vm.home(), None).await;
    agent.freeze();
    let text = fs::read_to_string(&behind.config).unwrap();
    let own = format!("Host bastion\n  IdentityAgent {}", agent.socket.display());
    fs::write(&behind.config, text.replace("Host bastion", &own)).unwrap();
    let parts = ["agent on this machine does not answer", agent.socket.to_str().unwrap()];
    behind.assert_fails(behind.options(), SshErrorKind::Agent, 1, &parts).await;
}

#[tokio::test]
async fn a_proxy_command_that_fails() {
    let behind = Behind::start();
    fs::write(behind.bastion.authorized_keys(), "").unwrap();
    let count = behind.vm.home().join("count");
    let counted = format!("sh -c 'echo x >>{}; echo no tunnel today >&2; exit 1'", count.display());
    for (command, connections, parts) in [
        ("nc9 %h %p", 0, &["nc9", "not found", "by hand: nc9 %h %p"][..]),
        (&counted, 0, &["no tunnel today", "by hand"]),
        ("sh -c 'exit 1'", 0, &["did not say why"]),
        // The usual way before ProxyJump: that ssh is the user's own, and finds nobody to ask.
        ("ssh -F CONFIG -W %h:%p bastion", 1, &["Host key verification failed", "ssh -F"]),
        ("ssh -F CONFIG -o StrictHostKeyChecking=no -W %h:%p bastion", 1, &["Permission denied (publickey"]),
    ] {
        behind.configure("127.0.9.9", behind.bastion.port(), &format!("ProxyCommand {command}"));
        let before = behind.bastion.connections();
        for error in behind.failures(behind.options()).await {
            let text = error.to_string();
            assert!(text.contains("the ProxyCommand of ssh's configuration"), "{text}");
            parts.iter().for_each(|part| assert!(text.contains(part), "{part} is missing: {text}"));
        }
        assert_eq!(behind.bastion.connections() - before, connections, "{command}");
    }
    assert_eq!(fs::read_to_string(count).unwrap().lines().count(), 3, "one attempt for each machine");
}

#[tokio::test]
async fn an_ssh_that_waits_for_a_jump_host_is_ended_with_the_rest() {
    for dropped in [false, true] {
        let behind = Behind::start();
        let sessions = Sessions::new(behind.options()).unwrap();
        let folder = folder_of(&sessions.open(&host("127.0.1.1")).await.unwrap());
        let sessions_before = processes_of(&folder).len();
        behind.bastion.freeze();
        let waits = || processes_of(&folder).iter().filter(|(_, line)| line.contains(" -W ")).count() == 2;
        let second = host("127.0.1.2");
        tokio::select! {
            outcome = sessions.open(&second) => panic!("{outcome:?}"),
            () = eventually("it connects to the jump host", waits) => {}
        }
        assert!(processes_of(&folder).len() > sessions_before);
        if dropped {
            drop(sessions)
        } else {
            sessions.finish().await
        }
        eventually("all is gone", || processes_of(&folder).is_empty() && !folder.exists()).await;
        behind.bastion.thaw();
    }
}
