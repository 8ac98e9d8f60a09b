//! From a session to the running agent: one channel a host for the whole run, on which a script there first tells what
//! the VM is, takes the binary where it is missing or another, and then becomes the agent. Owns that conversation
//! and the choice of the binary; must not know what the agent says. Never sends a secret.

mod channel;
mod error;
mod script;

use std::sync::Arc;

use openssh::{Child, ChildStderr, ChildStdin, ChildStdout, Session};
use tokio::io::BufReader;
use tokio::sync::Semaphore;

pub use self::error::{DeployError, DeployErrorKind};

use self::channel::Channel;
use self::error::Cause;
use super::binary::{AgentBinary, Mismatch, Probe};
use super::hosts::Host;
pub use crate::cli::options::DeployMode;

/// What to run, and where it is kept.
#[derive(Debug, Clone)]
pub struct DeployOptions {
    /// A folder for a `load_test` of each build, or the path of the binary where there is a file of that name. Relative paths, and `~`,
    /// begin at the home directory there.
    pub remote_path: String,
    pub mode: DeployMode,
    /// What can be sent: the first that fits a host is the one for it. Unused with [`DeployMode::Never`].
    pub binaries: Vec<AgentBinary>,
}

/// A running agent, with which nothing has been spoken yet. Its end: close `stdin`, read `stdout` to its end, then wait
/// for `child`.
#[derive(Debug)]
pub struct Launched {
    /// End-of-file here is the agent's order to stop.
    pub stdin: ChildStdin,
    /// From the agent's first byte on; what a login shell prints into it later cannot be told apart.
    pub stdout: BufReader<ChildStdout>,
    /// Nobody reads it yet: an agent that writes more than a pipe holds would stand still.
    pub stderr: ChildStderr,
    pub child: Child<Arc<Session>>,
    pub probe: Probe,
    pub deployed: bool,
}

/// Starts the agent on a host. `uploads` bounds how many hosts are sent the binary at once.
///
/// # Errors
/// When the host does not answer, no binary fits it, or the binary cannot be put there or run there. Dropping the future
/// ends the channel, and the script there removes what is half done.
pub async fn launch(
    session: Arc<Session>,
    host: &Host,
    options: &DeployOptions,
    uploads: &Semaphore,
) -> Result<Launched, DeployError> {
    let error = |cause| DeployError::new(host, &options.remote_path, cause);
    let script = script::script(&options.remote_path).map_err(error)?;
    let mut channel = Channel::open(session).await.map_err(error)?;
    let (probe, deployed) = match converse(&mut channel, &script, options, uploads).await {
        Ok(outcome) => outcome,
        Err(cause) => return Err(error(channel.explained(cause).await)),
    };
    let (stdin, stdout, stderr, child) = channel.into_parts();
    Ok(Launched { stdin, stdout, stderr, child, probe, deployed })
}

async fn converse(
    channel: &mut Channel,
    script: &str,
    options: &DeployOptions,
    uploads: &Semaphore,
) -> Result<(Probe, bool), Cause> {
    channel.order(script).await?;
    let facts = channel.facts().await?;
    let probe = facts.probe;
    let deployed = match wanted(options, &probe)? {
        None if !facts.present => return Err(Cause::Missing(probe.path)),
        // What the host keeps, or was not asked to take.
        None => false,
        Some(_) if !facts.can_hash => return Err(Cause::NoHashTool),
        Some(binary) if options.mode == DeployMode::Auto && probe.sha256.as_ref() == Some(&binary.sha256) => false,
        Some(binary) => {
            let _permit = uploads.acquire().await.map_err(|_| Cause::ended())?;
            channel.put(binary, options.mode == DeployMode::Always).await?
        }
    };
    if !deployed {
        channel.try_out().await?;
    }
    channel.order("run").await?;
    Ok((probe, deployed))
}

/// The binary that the host shall have; `None` where it shall keep what it has.
fn wanted<'a>(options: &'a DeployOptions, probe: &Probe) -> Result<Option<&'a AgentBinary>, Cause> {
    if options.mode == DeployMode::Never {
        return Ok(None);
    }
    let mut mismatches = Vec::new();
    for binary in &options.binaries {
        match binary.fits(probe) {
            Ok(()) => return Ok(Some(binary)),
            Err(mismatch) => mismatches.push(mismatch),
        }
    }
    Err(Cause::NothingFits(match Mismatch::of_all(mismatches) {
        Some(mismatch) => mismatch.to_string(),
        None => {
            format!("it is {}, and there is no load_test to send it: give one with --agent-binary", probe.platform())
        }
    }))
}
