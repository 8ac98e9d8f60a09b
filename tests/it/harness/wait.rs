//! Waiting, and facts about this machine.

use std::fmt::{Debug, Display};
use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long anything may take on a busy machine before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `done`; `what` completes the sentence "waited in vain until".
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let (begun, mut pause) = (Instant::now(), Duration::from_millis(10));
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(pause);
        // To ask takes more of the processor than to wait, and many tests wait at the same time.
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Waits until nothing is left; what is left in the end is in the message.
#[track_caller]
pub fn wait_until_gone<T: Debug>(what: &str, mut left: impl FnMut() -> Vec<T>) {
    let begun = Instant::now();
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} left: {left:?}");
        sleep(Duration::from_millis(100));
    }
}

/// Says that this test cannot run here, and why. Not by `eprintln!`, whose text is shown only if the test fails.
pub fn skipped(reason: impl Display) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "SKIPPED {}: {reason}", thread.name().unwrap_or("a test"));
}

/// Whether a program is on this machine, by its name or its path; says so if not.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    if !found {
        skipped(format!("{program} is not installed"));
    }
    found
}

/// A port on which nobody listens. It lies below those that the system gives to outgoing connections, and no two calls
/// return the same one, so tests that run side by side do not take it from each other.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Another run of the tests starts elsewhere.
    let begin = std::process::id() as usize * 997;
    for _ in 0..COUNT {
        let port = FIRST + ((begin + usize::from(NEXT.fetch_add(1, Ordering::Relaxed))) % usize::from(COUNT)) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// For `--start-at`: an instant so many seconds ahead.
pub fn start_at(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now.as_secs() + seconds).to_string()
}

/// The user of this process.
pub fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
