//! The binary gets where it is missing, and nothing of it stays where it cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;
use crate::harness::processes::running_from;
use crate::harness::{TmpFs, entries, skipped};
use crate::library::{DeployErrorKind, DeployMode::*};

#[track_caller]
fn assert_says(error: &DeployError, kind: DeployErrorKind, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    parts.iter().for_each(|part| assert!(text.contains(part), "{part} is missing: {text}"));
    assert!(text.starts_with("127.0.0.1: "), "{text}");
}

#[tokio::test]
async fn it_is_sent_once_and_used_again() {
    let bench = Bench::start().await;
    let options = deploy_options("~/tool", Auto);
    let file = file_of(&options.binaries[0]);
    let installed = bench.sshd.home().join("tool").join(&file);
    let first = bench.launch(&options).await.unwrap();
    assert!(first.deployed);
    assert_eq!(first.probe.sha256, None);
    assert_eq!((first.probe.system.as_str(), first.probe.machine.as_str()), ("Linux", std::env::consts::ARCH));
    assert_eq!(fs::read(&installed).unwrap(), &*options.binaries[0].bytes);
    assert_eq!(entries(&bench.sshd.home().join("tool")), [file.as_str()]);

    let second = bench.launch(&options).await.unwrap();
    assert!(!second.deployed);
    assert_eq!(second.probe.path, installed.to_str().unwrap());
    assert_eq!(second.probe.sha256.as_ref(), Some(&options.binaries[0].sha256));
    assert!(!bench.launch(&deploy_options("~/tool", Never)).await.unwrap().deployed);

    // What may still be running cannot be written to.
    fs::remove_file(&installed).unwrap();
    fs::write(&installed, "another").unwrap();
    assert!(bench.launch(&options).await.unwrap().deployed);
    assert!(bench.launch(&deploy_options("~/tool", Always)).await.unwrap().deployed);
    bench.finish().await;
}

/// The same program, and other bytes.
fn other_build(sshd: &TestSshd) -> AgentBinary {
    let path = sshd.home().with_file_name("other_build");
    let mut bytes = fs::read(small_binary()).unwrap();
    bytes.extend([0; 4096]);
    fs::write(&path, bytes).unwrap();
    AgentBinary::read(&path).unwrap()
}

#[tokio::test]
async fn two_builds_brought_to_one_path_at_once_do_not_replace_each_other() {
    let bench = Bench::start().await;
    let one = deploy_options("tool", Auto);
    let other = DeployOptions { binaries: vec![other_build(&bench.sshd)], ..one.clone() };
    let always = DeployOptions { mode: Always, ..other.clone() };
    let (first, second, third, fourth) =
        tokio::join!(bench.launch(&one), bench.launch(&other), bench.launch(&one), bench.launch(&always));
    let launched = [first, second, third, fourth].map(|launched| launched.unwrap());
    let mut files = [file_of(&one.binaries[0]), file_of(&other.binaries[0])];
    files.sort();
    let folder = bench.sshd.home().join("tool");
    let mut twice = [files.clone(), files.clone()].concat();
    twice.sort();
    eventually("each runs the build that it was sent", || running_from(&folder) == twice).await;
    assert_eq!(entries(&folder), files);
    drop(launched);
    bench.finish().await;
}

#[tokio::test]
async fn builds_that_nobody_has_used_for_a_day_are_removed_when_another_comes() {
    let bench = Bench::start().await;
    let options = deploy_options("tool", Auto);
    let folder = bench.sshd.home().join("tool");
    fs::create_dir_all(&folder).unwrap();
    let [old, new, notes] = ["load_test-0123456789abcdef", "load_test-fedcba9876543210", "load_test-notes-0123456"];
    for (name, age) in [(old, "2 days ago"), (new, "1 hour ago"), (notes, "2 days ago")] {
        fs::write(folder.join(name), "x").unwrap();
        assert!(Command::new("touch").args(["-d", age]).arg(folder.join(name)).status().unwrap().success());
    }
    assert!(bench.launch(&options).await.unwrap().deployed);
    let mut expected = [file_of(&options.binaries[0]), new.to_owned(), notes.to_owned()];
    expected.sort();
    assert_eq!(entries(&folder), expected);
    bench.finish().await;
}

#[tokio::test]
async fn one_vm_is_known_under_all_of_its_names() {
    let bench = Bench::start().await;
    let options = deploy_options("tool", Auto);
    let identity = bench.launch(&options).await.unwrap().probe.identity;
    let again = bench.sessions.open(&host("127.0.0.2")).await.unwrap();
    let again = bootstrap::launch(again, &host("127.0.0.2"), &options, &Semaphore::new(1)).await.unwrap();
    assert!(!identity.is_empty());
    assert_eq!(identity, again.probe.identity);
    bench.finish().await;
    // Containers of one machine, with its name, are machines of their own.
    let bench = Bench::start_with("ForceCommand exec unshare -n /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"").await;
    match bench.launch(&options).await {
        Ok(container) => assert_ne!(identity, container.probe.identity),
        Err(error) if error.to_string().contains("unshare") => {
            skipped(error.to_string());
        }
        Err(error) => panic!("{error}"),
    }
    bench.finish().await;
}

#[tokio::test]
async fn hosts_that_share_a_disk_are_sent_it_once() {
    let bench = Bench::start().await;
    let (options, uploads) = (deploy_options("shared", Auto), Semaphore::new(1));
    let launch = || bootstrap::launch(Arc::clone(&bench.session), &bench.host, &options, &uploads);
    let (first, second, third) = tokio::join!(launch(), launch(), launch());
    let deployed = [first, second, third].map(|launched| launched.unwrap().deployed);
    assert_eq!(deployed.iter().filter(|&&deployed| deployed).count(), 1, "{deployed:?}");
    assert_eq!(entries(&bench.sshd.home().join("shared")), [file_of(&options.binaries[0])]);
    bench.finish().await;
}

#[tokio::test]
async fn never_runs_what_is_there_or_says_that_nothing_is() {
    let bench = Bench::start().await;
    let options = deploy_options("tool", Never);
    let error = bench.launch(&options).await.unwrap_err();
    assert_says(&error, DeployErrorKind::Missing, &["tool/load_test", "--deploy never"]);
    install_script(&bench.installed("tool"), "echo here");
    let launched = bench.launch(&options).await.unwrap();
    assert!(!launched.deployed);
    assert_eq!(talk(launched, "").await.0, "here\n");
    fs::set_permissions(bench.installed("tool"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = bench.launch(&options).await.unwrap_err();
    assert_says(&error, DeployErrorKind::NotExecutable, &["not executable", "--remote-path"]);
    bench.finish().await;
}

#[tokio::test]
async fn the_path_of_a_file_is_the_binary_itself() {
    let bench = Bench::start().await;
    let path = bench.sshd.home().join("bin/my_tool");
    install_script(&path, "echo mine");
    let launched = bench.launch(&deploy_options(path.to_str().unwrap(), Never)).await.unwrap();
    assert_eq!(launched.probe.path, path.to_str().unwrap());
    assert_eq!(talk(launched, "").await.0, "mine\n");
    assert!(bench.launch(&deploy_options("~/bin/my_tool", Auto)).await.unwrap().deployed);
    assert_eq!(entries(path.parent().unwrap()), ["my_tool"]);
    bench.finish().await;
}

#[tokio::test]
async fn a_path_with_spaces_quotes_and_what_shells_expand() {
    let bench = Bench::start().await;
    let name = "it's \"my\" $HOME `touch x` $(touch y) \\ * tool/";
    let launched = bench.launch(&deploy_options(name, Auto)).await.unwrap();
    assert!(launched.deployed);
    assert_eq!(entries(&bench.sshd.home()), [name.trim_end_matches('/')]);
    assert!(!bench.launch(&deploy_options(&format!("~/{name}/"), Auto)).await.unwrap().deployed);
    bench.finish().await;
}

#[tokio::test]
async fn a_full_disk() {
    let bench = Bench::start().await;
    let folder = bench.sshd.home().join("small");
    let Some(mount) = TmpFs::mount_at(&folder, "size=512k") else { return };
    let error = bench.launch(&deploy_options("small", Auto)).await.unwrap_err();
    assert_says(&error, DeployErrorKind::DiskFull, &["No space left on device", "--remote-path"]);
    eventually("the half is removed", || entries(&folder).is_empty()).await;
    drop(mount);
    bench.finish().await;
}

#[tokio::test]
async fn a_disk_from_which_nothing_may_run() {
    let bench = Bench::start().await;
    let folder = bench.sshd.home().join("noexec");
    let Some(mount) = TmpFs::mount_at(&folder, "size=256m,noexec") else { return };
    let error = bench.launch(&deploy_options("noexec", Auto)).await.unwrap_err();
    assert_says(&error, DeployErrorKind::NotExecutable, &["noexec", "--remote-path"]);
    eventually("it is removed", || entries(&folder).is_empty()).await;
    drop(mount);
    bench.finish().await;
}

#[tokio::test]
async fn a_path_that_cannot_be_written() {
    let bench = Bench::start().await;
    // /proc takes no folders, not even from root.
    for path in ["/proc/load_test", "/dev/null/tool"] {
        let error = bench.launch(&deploy_options(path, Auto)).await.unwrap_err();
        assert_says(&error, DeployErrorKind::NotWritable, &[path, "--remote-path"]);
    }
    let options = deploy_options("tool", Auto);
    fs::create_dir_all(bench.sshd.home().join("tool").join(file_of(&options.binaries[0]))).unwrap();
    let error = bench.launch(&options).await.unwrap_err();
    assert_says(&error, DeployErrorKind::NotWritable, &["is a folder"]);
    let error = bench.launch(&deploy_options("~other/tool", Auto)).await.unwrap_err();
    assert_says(&error, DeployErrorKind::WrongPath, &["--remote-path"]);
    bench.finish().await;
}

#[tokio::test]
async fn a_binary_for_another_processor() {
    let bench = Bench::start().await;
    let mut bytes = fs::read(small_binary()).unwrap();
    // e_machine: EM_RISCV
    bytes[18..20].copy_from_slice(&[243, 0]);
    let patched = bench.sshd.home().join("patched");
    fs::write(&patched, bytes).unwrap();
    let mut options = deploy_options("tool", Auto);
    let fitting = std::mem::replace(&mut options.binaries, vec![AgentBinary::read(&patched).unwrap()]);
    let error = bench.launch(&options).await.unwrap_err();
    let target = format!("--target {}-unknown-linux", std::env::consts::ARCH);
    assert_says(&error, DeployErrorKind::NothingFits, &["riscv64", &target, "--agent-binary"]);
    assert_eq!(entries(&bench.sshd.home()), ["patched"]);
    // Of several the one that fits is sent.
    options.binaries.extend(fitting);
    assert!(bench.launch(&options).await.unwrap().deployed);
    options.binaries.clear();
    assert_says(&bench.launch(&options).await.unwrap_err(), DeployErrorKind::NothingFits, &["--agent-binary"]);
    bench.finish().await;
}

#[tokio::test]
async fn what_does_not_run_there_is_not_left_there() {
    let bench = Bench::start().await;
    let mut bytes = fs::read(small_binary()).unwrap();
    let interpreter = bytes.windows(7).position(|part| part == b"/lib64/").expect("a program with an interpreter");
    bytes[interpreter..interpreter + 7].copy_from_slice(b"/nolib/");
    let patched = bench.sshd.home().join("patched");
    fs::write(&patched, bytes).unwrap();
    let options =
        DeployOptions { binaries: vec![AgentBinary::read(&patched).unwrap()], ..deploy_options("tool", Auto) };
    let error = bench.launch(&options).await.unwrap_err();
    // In the words of the shell, or of the tool that limits its time.
    assert_says(&error, DeployErrorKind::NotExecutable, &["--agent-binary"]);
    let words = ["not found", "No such file"];
    assert!(words.iter().any(|word| error.to_string().contains(word)), "{error}");
    eventually("it is removed", || entries(&bench.sshd.home().join("tool")).is_empty()).await;
    bench.finish().await;
}

/// Makes the program so large that sending it is caught in the middle.
fn make_huge(options: &mut DeployOptions) {
    let mut bytes = options.binaries[0].bytes.to_vec();
    bytes.resize(bytes.len() + (256 << 20), 0);
    options.binaries[0].bytes = bytes.into();
}

fn is_half_sent(folder: &Path) -> bool {
    entries(folder).iter().any(|name| name.starts_with(".load_test."))
}

#[tokio::test]
async fn a_connection_that_is_cut_in_the_middle_leaves_no_half() {
    let bench = Bench::start().await;
    let folder = bench.sshd.home().join("tool");
    let mut options = deploy_options("tool", Auto);
    make_huge(&mut options);
    let socket = bench.session.control_socket().to_owned();
    let half = || is_half_sent(&folder);
    let (outcome, ()) = tokio::join!(bench.launch(&options), async {
        eventually("it has begun", half).await;
        bench.sessions.close(Arc::clone(&bench.session)).await;
    });
    let error = outcome.unwrap_err();
    // The script there may have just so much time to say that the half is not the whole.
    let expected = [DeployErrorKind::Ended, DeployErrorKind::NoAnswer, DeployErrorKind::Damaged];
    assert!(expected.contains(&error.kind()), "{:?}: {error}", error.kind());
    assert!(!socket.exists());
    eventually("the half is removed", || entries(&folder).is_empty()).await;

    // And where it is not the network, but the one who wants it: the future is dropped.
    let session = bench.sessions.open(&bench.host).await.unwrap();
    let uploads = Semaphore::new(1);
    tokio::select! {
        _ = bootstrap::launch(session, &bench.host, &options, &uploads) => panic!("it cannot be through"),
        () = eventually("it has begun", half) => {}
    }
    eventually("the half is removed", || entries(&folder).is_empty()).await;
    bench.finish().await;
}

#[tokio::test]
async fn what_arrives_is_compared() {
    let bench = Bench::start().await;
    let mut options = deploy_options("tool", Auto);
    options.binaries[0].sha256 = "0".repeat(64);
    let error = bench.launch(&options).await.unwrap_err();
    assert_says(&error, DeployErrorKind::Damaged, &["SHA-256"]);
    eventually("it is removed", || entries(&bench.sshd.home().join("tool")).is_empty()).await;
    bench.finish().await;
}

#[tokio::test]
async fn a_vm_whose_path_is_empty() {
    for path in ["", "/nonexistent"] {
        let command = format!("ForceCommand PATH={path}; export PATH; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"");
        let bench = Bench::start_with(&command).await;
        let launched = bench.launch(&deploy_options("tool", Auto)).await.unwrap_or_else(|error| panic!("{error}"));
        assert!(launched.deployed && launched.probe.system == "Linux", "{:?}", launched.probe);
        bench.finish().await;
    }
}

#[tokio::test]
async fn accounts_that_run_no_commands_are_told_in_their_own_words() {
    for (command, parts) in [
        ("/usr/sbin/nologin", &["not available", "exit status 1"][..]),
        ("/bin/false", &["exit status 1"]),
        ("/bin/true", &["exit status 0"]),
        ("/nowhere/shell", &["/nowhere/shell", "exit status 127"]),
        ("echo go away; exit 3", &["go away", "exit status 3"]),
    ] {
        let bench = Bench::start_with(&format!("ForceCommand {command}")).await;
        let error = bench.launch(&deploy_options("tool", Auto)).await.unwrap_err();
        assert_says(&error, DeployErrorKind::Ended, &[&["ForceCommand", "may log in with a shell"], parts].concat());
        bench.finish().await;
    }
}

#[tokio::test]
async fn an_upload_that_breaks_is_not_blamed_on_the_shell() {
    let bench = Bench::start().await;
    let folder = bench.sshd.home().join("tool");
    let mut options = deploy_options("tool", Auto);
    make_huge(&mut options);
    let half = || is_half_sent(&folder);
    let (outcome, ()) = tokio::join!(bench.launch(&options), async {
        eventually("it has begun", half).await;
        bench.sshd.sessions().into_iter().for_each(|session| bench.sshd.kill_session(session));
    });
    let error = outcome.unwrap_err();
    assert_says(&error, DeployErrorKind::Ended, &["ended while load_test was sent", "check the network"]);
    assert!(!error.to_string().contains("/bin/sh"), "{error}");
    bench.finish().await;
}
