//! What keeps a VM from taking part is told before any load begins, of all VMs at once, with what to do.

use std::fs;
use std::path::Path;

use super::fleet::TestFleet;
use super::trio::{Trio, assert_no_secret};
use crate::harness::sshd::{TestSshd, generate_key};
use crate::harness::{
    PASSWORD, Ran, TestServer, TmpFs, coordinator, count, entries, free_port, small_binary, text, write_script,
};
use crate::library::{BUILD, VERSION};

const VMS: &str = "127.0.1.[1-3]";
const NAMES: [&str; 3] = ["127.0.1.1", "127.0.1.2", "127.0.1.3"];
const SHORT: [&str; 4] = ["--rps", "20", "--duration", "3"];

/// Nothing was run, nothing is left, and each of `parts` is told.
#[track_caller]
fn assert_refused(fleet: &TestFleet, ran: Ran, parts: &[&str]) {
    let ran = ran.expect_refusal(3, parts);
    assert_no_secret(&ran);
    assert_eq!(fleet.rows("chat_inference"), 0);
    fleet.assert_nothing_left();
    eprintln!("{}", ran.stderr.trim());
}

#[track_caller]
fn assert_run_refused(fleet: &TestFleet, vms: &str, arguments: &[&str], parts: &[&str]) {
    assert_refused(fleet, fleet.run(vms, &[&SHORT[..], arguments].concat()), parts);
}

/// With another connection string.
#[track_caller]
fn assert_url_refused(fleet: &TestFleet, url: &str, parts: &[&str]) {
    let ran = fleet.command(VMS, &SHORT).env("POSTGRES_URL", url).run();
    assert_refused(fleet, ran, &[&NAMES, parts].concat());
}

#[test]
fn folders_that_cannot_take_the_program_are_named() {
    let fleet = TestFleet::start();
    let file = fleet.sshd.known_hosts().with_file_name("a_file");
    fs::write(&file, "").unwrap();
    let below = file.join("folder").display().to_string();
    let parts = [&NAMES[..], &["cannot be written", &below, "--remote-path"]].concat();
    assert_run_refused(&fleet, VMS, &["--remote-path", &below], &parts);
    for (options, words) in [("size=64k", "disk is full"), ("ro", "cannot be written"), ("noexec", "noexec")] {
        let Some(mounted) = TmpFs::mount(options) else { continue };
        let parts = [&NAMES[..], &[words, text(mounted.path()), "--remote-path"]].concat();
        assert_run_refused(&fleet, VMS, &["--remote-path", text(mounted.path())], &parts);
        assert_eq!(entries(mounted.path()), [""; 0], "{options}");
    }
}

#[test]
fn vms_that_cannot_be_reached_are_named_and_none_of_the_others_begins() {
    let mut fleet = TestFleet::start();
    let down = format!("127.0.2.1:{}", free_port());
    assert_run_refused(&fleet, &format!("127.0.1.[1-9],{down}"), &[], &["a VM failed", &down, "refused"]);
    let unknown = "no-such-machine.invalid";
    // The reasons of all come together.
    let vms = format!("127.0.1.1,{unknown},{down}");
    let told = format!("\n  {down}: nothing listens there");
    assert_run_refused(&fleet, &vms, &[], &["2 VMs failed", unknown, "--vms", &told, "refused"]);
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("other");
    generate_key(&key);
    // The configuration's key would be let in, so it is left out.
    let config = fs::read_to_string(fleet.sshd.config()).unwrap();
    let without: Vec<&str> = config.lines().filter(|line| !line.contains("IdentityFile")).collect();
    let config_without = keys.path().join("config");
    fs::write(&config_without, without.join("\n")).unwrap();
    let given = [&SHORT[..], &["--ssh-key", key.to_str().unwrap()]].concat();
    let ran = fleet.command(VMS, &given).set_option("--ssh-config", text(&config_without)).run();
    assert_refused(&fleet, ran, &[&NAMES[..], &["other", "authorized_keys"]].concat());
    assert_run_refused(&fleet, "127.0.1.1,127.0.2.2:1", &[], &["127.0.2.2:1"]);
    // By now the host keys are known.
    fleet.sshd.change_host_key();
    assert_run_refused(&fleet, VMS, &[], &[&NAMES[..], &["ssh-keygen", "host key"]].concat());
}

#[test]
fn a_database_that_cannot_be_used_is_refused_by_every_vm() {
    let fleet = TestFleet::start();
    let (url, nobody) = (fleet.server.url(), free_port());
    let at = url.rsplit_once('@').unwrap().1;
    let wrong = format!("postgresql://postgres:hunter2%2F%40@{at}");
    let ran = fleet.command(VMS, &SHORT).env("POSTGRES_URL", wrong).run();
    assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
    assert_refused(&fleet, ran, &[&NAMES[..], &["password"]].concat());
    let (user, port_and_database) = url.rsplit_once(':').unwrap();
    let database = port_and_database.split_once('/').unwrap().1;
    assert_url_refused(&fleet, &format!("{user}:{nobody}/{database}"), &["refused"]);
    fleet.server.create_database("empty");
    assert_url_refused(&fleet, &fleet.server.url_of("empty"), &["--setup"]);
    assert_url_refused(&fleet, &fleet.server.url_of("nowhere"), &["nowhere", "--setup"]);
}

#[test]
fn more_connections_than_the_server_has_are_refused() {
    let server = TestServer::setup().tables().tcp(PASSWORD).set("max_connections", "20").start();
    let fleet = TestFleet::of(TestSshd::start(), server);
    // What each VM wants fits; what all want does not.
    let ran = fleet.command(VMS, &SHORT).set_option("--workers", "10").run();
    assert_refused(&fleet, ran, &["connections", "--workers", "127.0.1."]);
}

/// Installs a script instead of `load_test`; `body` is what it does as an agent.
pub fn install_script(home: &Path, body: &str) {
    write_script(&home.join("installed/load_test"), &format!("[ \"$1\" = --version ] && exit 0\n{body}"));
}

#[test]
fn an_installed_program_of_another_build_is_turned_away_and_hears_no_secret() {
    let trio = Trio::start();
    let here = trio.fleet.sshd.home().join("installed");
    fs::create_dir(&here).unwrap();
    fs::copy(small_binary(), here.join("load_test")).unwrap();
    let name = format!("127.0.1.3:{}", trio.prey.port());
    let hello = |protocol: u32, build: &str| {
        format!(
            r#"{{"agent":{protocol},"event":"hello","build":"{build}","tool_version":"0.0.1","pid":1,"hostname":"h","processors":1,"open_files":null}}"#
        )
    };
    for (line, word) in [(hello(VERSION, "another"), "another"), (hello(77, BUILD), "version 77")] {
        let heard = trio.prey.home().with_file_name("heard");
        install_script(&trio.prey.home(), &format!("echo '{line}'\nexec cat > '{}'", heard.display()));
        let arguments = ["--deploy", "never", "--remote-path", "~/installed"];
        assert_run_refused(&trio.fleet, &trio.vms(), &arguments, &["a VM failed", &name, word, "--deploy never"]);
        let heard = fs::read_to_string(heard).unwrap();
        assert!(!heard.contains("secret") && !heard.contains("postgres"), "{heard}");
        trio.assert_nothing_left();
    }
    fs::remove_dir_all(trio.prey.home().join("installed")).unwrap();
    let arguments = ["--deploy", "never", "--remote-path", "~/installed"];
    assert_run_refused(&trio.fleet, &trio.vms(), &arguments, &[&name, "there is no", "--deploy never"]);
}

/// By then the others are about to begin, so nobody may wait for long.
#[test]
fn a_vm_that_does_not_hear_the_order_to_begin_stops_all_or_is_left_out() {
    let trio = Trio::start();
    let here = trio.fleet.sshd.home().join("installed");
    fs::create_dir(&here).unwrap();
    fs::copy(small_binary(), here.join("load_test")).unwrap();
    let real = trio.prey.home().join("load_test");
    fs::copy(small_binary(), &real).unwrap();
    let body = format!("grep --line-buffered -v '\"order\":\"start\"' | '{}' --agent", real.display());
    install_script(&trio.prey.home(), &body);
    let arguments = [&SHORT[..], &["--deploy", "never", "--remote-path", "~/installed"]].concat();
    let ran = trio.fleet.run(&trio.vms(), &arguments).expect(3);
    let name = format!("127.0.1.3:{}", trio.prey.port());
    for part in ["all were stopped as the load began", "did not answer the order to begin", &name] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert_no_secret(&ran);
    trio.assert_nothing_left();
    let arguments = [&arguments[..], &["--on-host-loss", "continue", "--json-output"]].concat();
    let ran = trio.fleet.run(&trio.vms(), &arguments).expect(1);
    let json = ran.json();
    assert_eq!((count(&json, "scheduled"), count(&json, "unreported")), (180, 60));
    assert_eq!(json["status"], "INVALID");
    assert_eq!((&json["failed_vms"][0]["hostname"], &json["num_vms"]), (&name.clone().into(), &3.into()));
    assert!(ran.stderr.contains(&format!("LOST {name}")), "{}", ran.stderr);
    assert_eq!(trio.fleet.rows("chat_inference"), count(&json, "ok"));
    trio.assert_nothing_left();
}

#[test]
fn the_others_go_on_where_that_was_asked_for() {
    let fleet = TestFleet::start();
    let down = format!("127.0.2.1:{}", free_port());
    let vms = format!("127.0.1.1,{down},127.0.1.2");
    let more = ["--on-host-loss", "continue", "--json-output"];
    let ran = fleet.run(&vms, &[&SHORT[..], &more].concat()).expect(1);
    assert_no_secret(&ran);
    let json = ran.json();
    assert_eq!((json["status"].as_str(), json["num_vms"].as_u64()), (Some("INVALID"), Some(3)));
    assert_eq!(json["success"], false);
    // 20 a second each for 3 s; the slots of the one that is not there are nobody's.
    assert_eq!((count(&json, "scheduled"), count(&json, "unreported")), (180, 60));
    assert_eq!(fleet.rows("chat_inference"), count(&json, "ok"));
    assert_eq!(json["failed_vms"].as_array().unwrap().len(), 1);
    assert_eq!(json["failed_vms"][0]["hostname"], down.as_str());
    assert!(ran.stderr.contains(&format!("* {down}: nothing listens there")), "{}", ran.stderr);
    fleet.assert_nothing_left();
}

/// A connection string may mean something else on every VM: here the folder of the socket does.
#[test]
fn vms_that_reach_different_servers_are_refused() {
    let (fleet, servers) = (TestFleet::start(), [TestServer::start(), TestServer::start()]);
    let vms = servers.each_ref().map(|server| {
        let folder = server.socket_dir().display().to_string();
        let sshd =
            TestSshd::start_with(&format!("ForceCommand cd '{folder}' && exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\""));
        sshd.let_in(&fleet.sshd);
        sshd
    });
    let vms = format!("127.0.1.1:{},127.0.1.2:{}", vms[0].port(), vms[1].port());
    let (user, rest) = servers[0].url().split_once('@').map(|(user, rest)| (user.to_owned(), rest.to_owned())).unwrap();
    let place = &rest[rest.find([':', '/']).unwrap()..];
    let url = format!("{user}@%2Fproc%2Fself%2Fcwd{place}");
    for setup in [&[][..], &["--setup"]] {
        let mut command = fleet.command(&vms, &[&["--rps", "10", "--duration", "1"], setup].concat());
        if !setup.is_empty() {
            // A database that neither has yet.
            command.env("POSTGRES_URL", format!("{}fresh", url.trim_end_matches("postgres")));
        } else {
            command.env("POSTGRES_URL", &url);
        }
        let ran = command.run();
        ran.expect_refusal(3, &["127.0.1.2", "another database server than 127.0.1.1", "--postgres-url"]);
    }
    assert_eq!(fleet.rows("chat_inference"), 0);
    fleet.assert_nothing_left();
}

/// A program that is given a terminal finds nobody there to ask either.
#[test]
fn an_unknown_jump_host_asks_nobody_on_a_terminal() {
    let (bastion, vm) = (TestSshd::start(), TestSshd::start());
    bastion.let_in(&vm);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    let own = fs::read_to_string(vm.config()).unwrap();
    for (way, part) in [
        ("ProxyJump bastion".to_owned(), "the host key of its jump host bastion"),
        (format!("ProxyCommand ssh -F {} -W %h:%p bastion", config.display()), "Host key verification failed"),
    ] {
        let port = bastion.port();
        let text = format!("Host bastion\n  HostName 127.0.9.9\n  Port {port}\nMatch host 127.0.1.1\n  {way}\n{own}");
        fs::write(&config, text).unwrap();
        let mut program = coordinator(&["--vms", "127.0.1.1", "--host-keys", "strict", "--duration", "1"]);
        program.arg("--ssh-config").arg(&config).arg("--agent-binary").arg(small_binary());
        program.env("POSTGRES_URL", "postgres://nobody@127.0.0.1:1/x");
        let said = program.on_terminal().run().expect(3).stdout;
        assert!(said.contains(part), "{said}");
        assert!(!said.contains("yes/no"), "{said}");
        assert_eq!(bastion.connections(), usize::from(way.contains("ProxyCommand")) + 1, "{}", bastion.log());
    }
}

/// The limits of an account, found by what dies of them.
#[test]
fn a_program_that_gets_no_memory_is_told_with_its_own_words() {
    let fleet = TestFleet::start_with("ForceCommand ulimit -v 20000; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"");
    let ran = fleet.run("127.0.1.1", &SHORT).expect(3);
    eprintln!("{}", ran.stderr);
    assert!(!ran.stderr.contains("RUST_BACKTRACE") && !ran.stderr.contains("without a word"), "{}", ran.stderr);
    let words = ["Resource temporarily unavailable", "memory allocation", "Cannot allocate memory"];
    assert!(words.iter().any(|word| ran.stderr.contains(word)), "{}", ran.stderr);
    fleet.assert_nothing_left();
}
