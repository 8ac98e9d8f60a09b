//! A VM that lies: its program is somebody else's. It is refused by name, the others' results stay, and nothing that
//! it says reaches the terminal as it is.

use std::fs;

use super::early::install_script;
use super::trio::{Trio, assert_no_secret};
use crate::harness::{Ran, count, small_binary};
use crate::library::BUILD;

const ARGUMENTS: [&str; 8] = ["--rps", "20", "--duration", "3", "--deploy", "never", "--remote-path", "~/installed"];

/// Three VMs that have the program; what the third one does is up to the test.
fn trio() -> Trio {
    let trio = Trio::start();
    let here = trio.fleet.sshd.home().join("installed");
    fs::create_dir(&here).unwrap();
    fs::copy(small_binary(), here.join("load_test")).unwrap();
    fs::copy(small_binary(), trio.prey.home().join("load_test")).unwrap();
    trio
}

/// The real program, whose words `sed` changes.
fn install_liar(trio: &Trio, lie: &str) {
    let real = trio.prey.home().join("load_test");
    install_script(&trio.prey.home(), &format!("'{}' --agent | sed -u -E '{lie}'", real.display()));
}

/// Nothing steers the terminal, and nobody has to read megabytes.
#[track_caller]
fn assert_tame(ran: &Ran) {
    for text in [&ran.stdout, &ran.stderr] {
        let wild = text.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert!(wild.is_none(), "{wild:?} in {text:?}");
    }
    assert!(ran.stderr.len() < 10_000, "{}", ran.stderr);
    assert_no_secret(ran);
}

#[test]
fn a_result_that_cannot_be_is_left_out_by_name_and_the_others_stay() {
    let trio = trio();
    let name = trio.name();
    for (lie, reason) in [
        // More than there was to do, and faster.
        (r#"/"event":"result"/s/("accounting":\{"scheduled":[0-9]+,"ok":)[0-9]+/\14000/"#, "are accounted for"),
        (r#"/"event":"result"/s/("warmup":\{"ok":)[0-9]+/\14000/"#, "requests of a warm-up, and none was asked for"),
        (r#"/"event":"result"/s/"p99":[0-9.]+/"p99":0.001/"#, "its latency_ms.p99 is 0.001, and its histograms"),
        (r#"/"event":"second"/s/"ok":[1-9][0-9]*/"ok":4000/"#, "requests were answered"),
        (r#"/"event":"second"/s/"base64":"HIST[^"]*/"base64":"HISTFAAAAB94nJNpmSzMwMD/"#, "its histogram of latency"),
        (r#"/"event":"result"/s/"hostname":"[^"]*/"hostname":"\\u001b]0;owned\\u0007\\u009b2J/"#, "control characters"),
    ] {
        install_liar(&trio, lie);
        let ran = trio.fleet.run(&trio.vms(), &[&ARGUMENTS[..], &["--json-output"]].concat()).expect(1);
        assert_tame(&ran);
        assert!(ran.stderr.contains(&format!("LOST {name}: ")) && ran.stderr.contains(reason), "{}", ran.stderr);
        let json = ran.json();
        assert_eq!((json["status"].as_str(), json["num_vms"].as_u64()), (Some("INVALID"), Some(3)));
        assert_eq!(json["failed_vms"][0]["hostname"], name.as_str());
        assert!(json["failed_vms"][0]["error"].as_str().unwrap().contains(reason), "{json}");
        assert!(json["reason"].as_str().unwrap().contains(&name), "{json}");
        // 20 a second each for 3 s; what the third one did is not known.
        assert_eq!((count(&json, "scheduled"), count(&json, "unreported")), (180, 60));
        assert_eq!(json["per_vm_results"].as_array().unwrap().len(), 2);
        trio.assert_nothing_left();
    }
}

#[test]
fn what_cannot_be_before_the_load_keeps_it_from_beginning() {
    let trio = trio();
    let name = trio.name();
    for (lie, reason) in [
        (r#"/"event":"hello"/s/"hostname":"[^"]*/"hostname":"\\u001b[31m\\u009b2J/"#, "its hostname holds control"),
        (r#"/"event":"preflight"/s/"workers":[0-9]+/"workers":18446744073709551615/"#, "workers is"),
        (r#"/"event":"ready"/s/"phases":\[/&"a","b","c","d","e","f","g","h",/"#, "round trips"),
        (r#"/"event":"preflight"/s/"event":"[a-z]*"/"event":"\\u001b[31m\\u202e"/"#, "not understood"),
        (r#"/"event":"preflight"/s/.*/{"agent":5,"event":"set_up"}/"#, r#"said "set_up" out of turn"#),
    ] {
        install_liar(&trio, lie);
        let ran = trio.fleet.run(&trio.vms(), &ARGUMENTS).expect_refusal(3, &["a VM failed", &name, reason]);
        assert_tame(&ran);
        assert_eq!(trio.fleet.rows("chat_inference"), 0);
        trio.assert_nothing_left();
    }
}

#[test]
fn the_liar_is_named_also_where_it_is_the_first_of_all() {
    let trio = trio();
    let name = trio.name();
    let vms: Vec<String> = trio.vms().rsplit(',').map(str::to_owned).collect();
    assert_eq!(vms.len(), 2);
    for (lie, reason) in [
        (
            r#"/"event":"preflight"/s/"database":"[^"]*/"database":"elsewhere/"#,
            "another database server than 127.0.1.1",
        ),
        (r#"/"event":"ready"/s/"database":"[^"]*/"database":"elsewhere/"#, "another database server than 127.0.1.1"),
        (r#"/"event":"ready"/s/"target":"[^"]*/"target":"elsewhere/"#, "it connects to elsewhere, and 127.0.1.1 to"),
        (r#"/"event":"ready"/s/"seed":"[0-9]+/"seed":"77/"#, r#"otherwise than here: seed is "1" and "77""#),
        (r#"/"event":"ready"/s/"phases":\[[^]]*/"phases":["commit"/"#, "other round trips than were asked for"),
    ] {
        install_liar(&trio, lie);
        let ran = trio.fleet.run(&vms.join(","), &ARGUMENTS).expect_refusal(3, &["a VM failed", reason]);
        assert!(ran.stderr.contains(&format!("{name}: ")) && !ran.stderr.contains("127.0.1.1: "), "{}", ran.stderr);
        trio.assert_nothing_left();
    }
}

#[test]
fn floods_and_megabytes_end_the_conversation() {
    let trio = trio();
    let name = trio.name();
    let hello = format!(
        r#"echo '{{"agent":5,"event":"hello","build":"{BUILD}","tool_version":"0","pid":999999999,"hostname":"h","processors":1,"open_files":null}}'"#
    );
    let alive = r#"{"agent":5,"event":"alive"}"#;
    let much = "head -c 900000 /dev/zero | tr '\\0' x";
    for (body, reason) in [
        (format!("{hello}; yes '{alive}'"), "far more than it could have to say"),
        (format!("{hello}; tr '\\0' x </dev/zero"), "a line of more than"),
        (format!(r#"{hello}; printf '{{"agent":5,"event":"failed","message":"\\u009b2J%s"}}\n' "$({much})""#), "xxxxx"),
        // It would have been waited for, for ever, once it had delivered.
        (format!(r#"{hello}; echo '{{"agent":5,"event":"started","ahead_ms":1}}'"#), "out of turn"),
        ("printf '\\033]0;owned\\007 \\302\\2332J no space' >&2; exit 1".to_owned(), "no space"),
        (format!("{much} >&2; exit 1"), "xxxxx"),
    ] {
        install_script(&trio.prey.home(), &body);
        let ran = trio.fleet.run(&trio.vms(), &ARGUMENTS).expect_refusal(3, &["a VM failed", &name, reason]);
        assert_tame(&ran);
        trio.assert_nothing_left();
    }
}
