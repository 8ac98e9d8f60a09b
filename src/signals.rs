//! The signals that ask a process to stop. Needs a tokio runtime.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP, all of which ask to stop.
pub struct Stops {
    signals: [Signal; 3],
}

impl Stops {
    /// From here on the signals no longer end the process.
    ///
    /// # Errors
    /// The system does not let them be handled.
    pub fn listen() -> io::Result<Self> {
        let of = |kind| signal(kind);
        let signals = [of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?];
        Ok(Self { signals })
    }

    /// Completes with the next signal. May be dropped and called again.
    pub async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
