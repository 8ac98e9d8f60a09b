//! The signals that ask a process to stop. Needs a tokio runtime.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask to stop.
const STOPS: [Number; 3] = [Number::INT, Number::TERM, Number::HUP];

/// SIGINT, SIGTERM and SIGHUP, except those that were ignored when the program started: `nohup` ignores SIGHUP, and a
/// shell without job control ignores SIGINT of what it starts in the background.
pub struct Stops {
    signals: Vec<Signal>,
}

impl Stops {
    /// From here on the signals no longer end the process. Call it before anything else handles them.
    ///
    /// # Errors
    /// The system does not let them be handled.
    pub fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let heeded = STOPS.into_iter().filter(|number| ignored & mask(*number) == 0);
        let signals = heeded.map(|number| signal(SignalKind::from_raw(number.as_raw()))).collect::<io::Result<_>>()?;
        Ok(Self { signals })
    }

    /// Completes with the next signal. May be dropped and called again.
    pub async fn next(&mut self) {
        poll_fn(|cx| {
            let came = self.signals.iter_mut().any(|signal| matches!(signal.poll_recv(cx), Poll::Ready(Some(()))));
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// A signal's bit in the masks of `/proc/self/status`.
fn mask(number: Number) -> u64 {
    1 << (number.as_raw() - 1)
}

/// The signals that this process ignores. Only Linux tells (proc(5), `SigIgn`); elsewhere none is taken to be.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
