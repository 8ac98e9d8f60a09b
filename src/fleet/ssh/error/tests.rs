//! What ssh says, as OpenSSH 9.2 said it, and what becomes of it.

use super::*;

fn error(log: &str) -> SshError {
    error_behind(log, "", &[], None)
}

fn error_behind(log: &str, way: &str, jumps: &[&str], proxy_command: Option<&str>) -> SshError {
    let host = Host { name: "vm1".into(), user: None, address: "vm1".into(), port: None };
    let jumps: Vec<Jump> =
        jumps.iter().map(|name| Jump { name: (*name).to_owned(), locked_keys: Vec::new() }).collect();
    let facts = Facts {
        host: &host,
        user: None,
        key: None,
        key_is_encrypted: false,
        connect_timeout: Duration::from_secs(10),
        jumps: &jumps,
        proxy_command,
        locked_keys: &[],
    };
    facts.error(log, way)
}

const CLOSED: &str =
    "kex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535\n";

#[test]
fn the_jump_host_that_failed_is_named() {
    let denied = "me@10.0.0.1: Permission denied (publickey).\n";
    let refused = "channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed\n";
    for (way, kind, attempts, part) in [
        (denied.to_owned(), Kind::Denied, 1, "its jump host c did not let us in (me@10.0.0.1"),
        (format!("Authorised use only!\n{denied}{CLOSED}"), Kind::Denied, 1, "its jump host b did not let us in (me@"),
        (format!("{denied}{CLOSED}{CLOSED}"), Kind::Denied, 1, "its jump host a did not let us in"),
        (refused.to_owned(), Kind::Refused, 2, "its jump host c gets no connection to it"),
        (
            format!("{refused}{CLOSED}"),
            Kind::Refused,
            1,
            "its jump host b gets no connection to the next jump host, c,",
        ),
        (CLOSED.to_owned(), Kind::Dropped, 8, "its jump host c hung up before the login, again and again"),
        (format!("{CLOSED}{CLOSED}"), Kind::Dropped, 8, "its jump host b hung up"),
        (
            "channel 0: open failed: administratively prohibited: open failed\nstdio forwarding failed".to_owned(),
            Kind::Forwarding,
            1,
            "AllowTcpForwarding",
        ),
        ("ssh: connect to host c port 1: Connection refused".to_owned(), Kind::Refused, 1, "on its jump host c"),
        // Silence, or a greeting alone: the jump hosts did their part.
        (String::new(), Kind::Dropped, 8, "vm1: the server hung up before the login"),
        ("Authorised use only!\n".to_owned(), Kind::Dropped, 8, "vm1: the server hung up before the login"),
    ] {
        let error = error_behind(CLOSED, &way, &["a", "b", "c"], None);
        assert_eq!((error.kind(), error.attempts()), (kind, attempts), "{way}: {error}");
        assert!(error.to_string().starts_with("vm1: ") && error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains("Authorised"), "{error}");
    }
    // What the host itself says is not blamed on the way.
    let error = error_behind("me@vm1: Permission denied (publickey).", "Warning: Permanently added 'a'", &["a"], None);
    assert!(error.to_string().starts_with("vm1: user me was not let in"), "{error}");
}

#[test]
fn a_proxy_command_is_shown_with_its_words() {
    let error = error_behind(CLOSED, "sh: 1: exec: nc9: not found\n", &[], Some("nc9 %h %p"));
    assert_eq!(error.attempts(), 1);
    for part in ["the ProxyCommand", "nc9: not found", "by hand: nc9 %h %p"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = error_behind(CLOSED, "", &[], Some("ssh -q -W %h:%p b"));
    assert_eq!(error.attempts(), 1);
    assert!(error.to_string().contains("did not say why") && error.to_string().contains("without -q"), "{error}");
}

#[test]
fn only_what_is_certain_counts_for_other_hosts_too() {
    let host = |name: &str| Host { name: name.into(), user: None, address: name.into(), port: None };
    let way = "me@10.0.0.1: Permission denied (publickey).";
    let error = error_behind(CLOSED, way, &["a"], None).also_for(&host("vm1"), &host("vm2")).unwrap();
    assert!(error.to_string().starts_with("vm2: its jump host a did not let us in"), "{error}");
    for (log, way) in [(CLOSED, ""), (CLOSED, CLOSED), (way, "")] {
        assert!(error_behind(log, way, &["a"], None).also_for(&host("vm1"), &host("vm2")).is_none(), "{log}, {way}");
    }
}

#[test]
fn ssh_s_words_fall_into_kinds() {
    for (log, kind) in [
        ("root@vm1: Permission denied (publickey,password).", Kind::Denied),
        ("Received disconnect from ::1 port 22:2: Too many authentication failures", Kind::Denied),
        ("bob@jump: Permission denied (publickey).\nConnection closed by UNKNOWN port 65535", Kind::Denied),
        ("ssh: Could not resolve hostname nope: Name or service not known", Kind::Unresolved),
        ("ssh: Could not resolve hostname nope: Temporary failure in name resolution", Kind::ResolverFailed),
        ("ssh: connect to host vm1 port 1: Connection refused", Kind::Refused),
        ("ssh: connect to host vm1 port 1: No route to host", Kind::Unreachable),
        ("ssh: connect to host vm1 port 1: Network is unreachable", Kind::Unreachable),
        ("ssh: connect to host vm1 port 1: Connection timed out", Kind::Timeout),
        ("Connection timed out during banner exchange\nConnection to vm1 port 22 timed out", Kind::Timeout),
        ("kex_exchange_identification: read: Connection reset by peer\nConnection reset by 1 port 2", Kind::Dropped),
        ("kex_exchange_identification: Connection closed by remote host", Kind::Dropped),
        ("kex_exchange_identification: banner line 0: Not allowed at this time", Kind::Dropped),
        ("Connection closed by 127.0.0.1 port 22", Kind::Closed),
        (
            "/x/config: line 1: Bad configuration option: nope\n/x/config: terminating, 1 bad configuration options",
            Kind::Config,
        ),
        ("Bad owner or permissions on /x/config", Kind::Config),
        (
            "No ED25519 host key is known for vm1 and you have requested strict checking.\nHost key verification failed.",
            Kind::HostKeyUnknown,
        ),
        ("Unable to negotiate with ::1 port 22: no matching key exchange method found.", Kind::Other),
        ("", Kind::Other),
    ] {
        let error = error(log);
        assert_eq!(error.kind(), kind, "{log}");
        assert!(error.to_string().starts_with("vm1: "), "{error}");
    }
}

#[test]
fn a_changed_key_tells_where_it_is_known_and_how_to_forget_it() {
    let log = "@@@@@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@@@@@@\nOffending ED25519 key in /me/known_hosts:3\n\
               Host key for [vm1]:2222 has changed and you have requested strict checking.\nHost key verification failed.";
    let text = error(log).to_string();
    assert!(
        text.contains("(/me/known_hosts:3)") && text.contains("ssh-keygen -f '/me/known_hosts' -R '[vm1]:2222'"),
        "{text}"
    );
}

/// Whoever stands between can say goodbye in any words, before any key is looked at.
#[test]
fn what_is_to_be_put_into_a_shell_holds_nothing_from_afar() {
    let log = "Received disconnect from ::1 port 22:2: HOST IDENTIFICATION HAS CHANGED Host key for x'; reboot; ' has \
               changed Offending key in /x'; reboot; ':1";
    let text = error(log).to_string();
    assert!(text.contains("run ssh-keygen -R 'vm1'."), "{text}");
}

#[test]
fn who_was_not_let_in_is_read_from_ssh() {
    let text = error(
        "Warning: Permanently added 'x' (ED25519) to the list of known hosts.\nbob@vm1: Permission denied (publickey).",
    );
    assert!(text.to_string().contains("user bob was not let in with any key"), "{text}");
}

#[test]
fn words_from_afar_are_short_and_steer_no_terminal() {
    let text = error(&format!("\u{1b}]0;owned\u{7}\u{1b}[31m {}\n", "x".repeat(10_000))).to_string();
    assert!(text.chars().count() < 450 && !text.chars().any(char::is_control), "{text}");
}
