//! The channel to the agent, through whatever login shell and noise there is.

use super::*;
use crate::harness::is_installed;
use crate::library::DeployMode::*;

/// Says two things at once, before and after it has read a line, and ends with its input.
const ECHO: &str =
    "printf 'first\\nsecond\\n'; echo error >&2; read -r line; echo \"heard $line\"; cat >/dev/null; echo last";

async fn assert_agent_is_heard(bench: &Bench, options: &DeployOptions) {
    install_script(&bench.installed("tool"), ECHO);
    let launched = bench.launch(options).await.unwrap_or_else(|error| panic!("{error}\n{}", bench.sshd.log()));
    let (out, errors) = talk(launched, "go").await;
    assert_eq!(out, "first\nsecond\nheard go\nlast\n");
    assert_eq!(errors, "error\n\n@plt ended 0\n");
}

#[tokio::test]
async fn not_a_byte_of_the_agent_is_lost() {
    let bench = Bench::start().await;
    assert_agent_is_heard(&bench, &deploy_options("tool", Never)).await;
    // Far more than any buffer, at once.
    install_script(&bench.installed("tool"), "seq 1 200000");
    let launched = bench.launch(&deploy_options("tool", Never)).await.unwrap();
    let (out, _) = talk(launched, "").await;
    assert!(out.lines().eq((1..=200_000).map(|number| number.to_string())), "{} bytes", out.len());
    bench.finish().await;
}

#[tokio::test]
async fn the_agent_sees_the_end_of_its_input_when_the_session_is_closed() {
    let bench = Bench::start().await;
    let mark = bench.sshd.home().join("ended");
    install_script(&bench.installed("tool"), &format!("echo up; cat >/dev/null; touch '{}'", mark.display()));
    let mut launched = bench.launch(&deploy_options("tool", Never)).await.unwrap();
    // Until it speaks, "run" may still be on its way, and would be lost with the session.
    assert_eq!(launched.stdout.read_u8().await.unwrap(), b'u');
    assert!(!mark.exists());
    bench.sessions.close(Arc::clone(&bench.session)).await;
    eventually("it ends", || mark.exists()).await;
    drop(launched);
    bench.finish().await;
}

#[tokio::test]
async fn login_shells_of_all_kinds() {
    for shell in ["/bin/bash", "/bin/dash", "/usr/bin/fish", "/usr/bin/tcsh", "/usr/bin/zsh"] {
        if !is_installed(shell) {
            continue;
        }
        // As sshd would start it for an account whose shell it is.
        let bench = Bench::start_with(&format!("ForceCommand exec {shell} -c \"$SSH_ORIGINAL_COMMAND\"")).await;
        assert_agent_is_heard(&bench, &deploy_options("tool", Never)).await;
        assert!(bench.launch(&deploy_options("other", Auto)).await.unwrap().deployed, "{shell}");
        bench.finish().await;
    }
}

#[tokio::test]
async fn what_login_shells_print_is_overlooked() {
    let noise = "echo Welcome; printf '\\377\\376 not UTF-8\\n'; head -c 300000 /dev/zero | tr '\\0' x; echo oops >&2; \
                 printf '@plt system=Lies\\nno line break: '";
    let bench = Bench::start_with(&format!("ForceCommand {noise}; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"")).await;
    assert_agent_is_heard(&bench, &deploy_options("tool", Never)).await;
    let launched = bench.launch(&deploy_options("other", Auto)).await.unwrap();
    assert!(launched.deployed && launched.probe.system == "Linux", "{:?}", launched.probe);
    bench.finish().await;
}

#[tokio::test]
async fn small_systems_do_busybox() {
    if !is_installed("busybox") {
        return;
    }
    let bench = Bench::start_with(
        // Not every build of busybox installs a link of its own name.
        "ForceCommand mkdir -p ~/applets && busybox --install -s ~/applets && ln -sf $(command -v busybox) ~/applets; \
         PATH=~/applets; exec busybox sh -c \"$(echo \"$SSH_ORIGINAL_COMMAND\" | sed 's,/bin/sh,busybox sh,')\"",
    )
    .await;
    assert_agent_is_heard(&bench, &deploy_options("tool", Never)).await;
    let launched = bench.launch(&deploy_options("other", Auto)).await.unwrap();
    assert!(launched.deployed, "{:?}", launched.probe);
    bench.finish().await;
}
