//! `load_test`'s end of a test on many VMs: orders come in on standard input, events go out on standard output.
//!
//! - [`protocol`]: the messages.
//! - `outbox`: what is to be sent, and the thread that sends it: a stalled connection holds nobody up.
//! - `coordinator`: the thread that listens, and the one that notices silence.
//! - `conversation`: the phases, from the plan to the result.
//!
//! The connection string comes with the plan, on standard input, and stands nowhere else. Where it is absent, the
//! default of `--postgres-url` counts; `POSTGRES_URL` in the agent's own surroundings does not, since what a VM
//! happens to have there must not decide which database one part of a test writes to. The `PG…` variables and the
//! password file of the VM do count, below what the connection string says.

mod conversation;
mod coordinator;
mod outbox;
pub mod protocol;

use std::io::{Read, Write};
use std::time::Duration;

use crate::machine::raise_open_files;
use crate::signals::Stops;
use crate::version::BUILD;
use conversation::{Conversation, End};
use coordinator::Coordinator;
use protocol::{AgentEvent, Hello};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The result has been delivered.
    Done,
    /// It could not go on, and has told the coordinator so.
    Failed,
    /// The coordinator is gone: why, in a sentence.
    Abandoned(String),
}

/// How long a last line may take to be read by the coordinator.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Talks to the coordinator until the test is over. Needs a tokio runtime with I/O and time; what it starts on it, such
/// as looking up a name, may still be going on when it returns, so do not wait for that when shutting down.
///
/// When the coordinator is gone, it drops everything and returns at once. Should the runtime's thread be stuck then,
/// `on_hang` is called 2 s later from another thread, for the process to be ended. It is also called where the process
/// still lives by then for other reasons.
pub async fn serve(
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    on_hang: impl FnOnce() + Send + 'static,
) -> Ending {
    let hello = hello(raise_open_files());
    let opened = Stops::listen().and_then(|stops| Ok((stops, Coordinator::open(input, output, hello, on_hang)?)));
    let (stops, coordinator) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ending::Abandoned(format!("the agent cannot listen: {error}")),
    };
    let outbox = coordinator.outbox.clone();
    let mut conversation = Conversation::new(coordinator, stops);
    let end = match conversation.run().await {
        Ok(result) => conversation.linger(result).await,
        Err(end) => end,
    };
    match end {
        End::Done => Ending::Done,
        End::Gone(reason) => Ending::Abandoned(reason),
        End::Failed(message) => {
            let last = outbox.say(AgentEvent::Failed { message });
            tokio::select! {
                biased;
                () = outbox.written(last) => Ending::Failed,
                reason = conversation.gone() => Ending::Abandoned(reason),
                () = tokio::time::sleep(LAST_WORDS) => Ending::Abandoned("the coordinator does not listen".to_owned()),
            }
        }
    }
}

/// Who this is; `open_files` is how many files the process may open.
fn hello(open_files: Option<u64>) -> Hello {
    Hello {
        build: BUILD.to_owned(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        hostname: crate::machine::hostname(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        open_files,
    }
}
