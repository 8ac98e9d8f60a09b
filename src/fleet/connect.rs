//! From nothing to an agent that has said hello, on every machine at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openssh::Session;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::binary::AgentBinary;
use super::deploy::{self, DeployMode, Launched};
use super::hosts::Host;
use super::listen::hear;
use super::member::{Link, Member};
use super::plan::FleetPlan;
use super::{Fleet, FleetError, channel, ssh};
use crate::clock::now_ns;

/// A machine on which the agent has been started.
pub(super) struct Connected {
    session: Arc<Session>,
    launched: Launched,
    took: Duration,
}

impl Fleet {
    /// Connects to all machines, brings the program there where it lacks, and starts it. `tell` hears how many are
    /// there.
    ///
    /// # Errors
    /// Machines that cannot be had, all of them, unless the plan says to go on without.
    pub async fn connect(&mut self, tell: &mut dyn FnMut(usize)) -> Result<(), FleetError> {
        let uploads = Arc::new(Semaphore::new(self.plan.ssh.concurrency));
        for (index, member) in self.members.iter().enumerate() {
            let (sessions, deploy) = (Arc::clone(&self.sessions), Arc::clone(&self.deploy));
            let (host, uploads) = (member.host.clone(), Arc::clone(&uploads));
            self.connecting.spawn(async move {
                let begun = Instant::now();
                let session = match sessions.open(&host).await {
                    Ok(session) => session,
                    Err(error) => return (index, Err(unnamed(&host, &error))),
                };
                match deploy::launch(Arc::clone(&session), &host, &deploy, &uploads).await {
                    Ok(launched) => (index, Ok(Connected { session, launched, took: begun.elapsed() })),
                    Err(error) => {
                        sessions.close(session).await;
                        (index, Err(unnamed(&host, &error)))
                    }
                }
            });
        }
        loop {
            tell(self.members.iter().filter(|member| member.hello.is_some()).count());
            let decided = self.members.iter().all(|member| member.hello.is_some() || !member.is_present());
            if self.connecting.is_empty() && decided {
                break;
            }
            tokio::select! {
                Some(joined) = self.connecting.join_next() => match joined {
                    Ok((index, Ok(connected))) => self.take_in(index, connected),
                    Ok((index, Err(reason))) => self.lose(index, reason),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                heard = hear(&mut self.heard, &mut self.ticks) => {
                    _ = self.take(heard);
                }
            }
        }
        self.all_or("connecting")
    }

    fn take_in(&mut self, index: usize, connected: Connected) {
        let Connected { session, launched, took } = connected;
        let Launched { stdin, stdout, stderr, child, deployed, probe } = launched;
        let carrier = Arc::clone(&session);
        let orders = channel::open(index, stdin, stdout, stderr, move || ssh::words_of(&carrier), self.speak.clone());
        let member = &mut self.members[index];
        member.link = Some(Link { session, orders, child });
        member.connected_in = took;
        member.deployed = deployed;
        member.identity = probe.identity;
        member.last_heard_ns = now_ns();
    }
}

/// Names that are one machine, as a warning.
pub(super) fn same_machine_warnings(members: &[Member]) -> Vec<String> {
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for member in members.iter().filter(|member| !member.identity.is_empty()) {
        names.entry(&member.identity).or_default().push(&member.host.name);
    }
    let same = names.into_values().filter(|names| names.len() > 1);
    let warnings = same.map(|names| {
        let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
        let names = names[..names.len().min(3)].join(", ");
        format!(
            "{names}{more} are one machine under several names: it runs all of their shares with its one processor and \
             network. Give each machine once"
        )
    });
    warnings.collect()
}

/// Without the machine's name in front, which is said wherever the reason is.
fn unnamed(host: &Host, error: &dyn std::error::Error) -> String {
    let sentence = error.to_string();
    let reason = sentence.strip_prefix(&format!("{host}: ")).unwrap_or(&sentence);
    reason.strip_suffix('.').unwrap_or(reason).to_owned()
}

/// The programs that can be sent, read before anything is connected.
pub(super) fn binaries(plan: &FleetPlan) -> Result<Vec<AgentBinary>, FleetError> {
    if plan.deploy == DeployMode::Never {
        return Ok(Vec::new());
    }
    if !plan.agent_binaries.is_empty() {
        return Ok(plan.agent_binaries.iter().map(|path| AgentBinary::read(path)).collect::<Result<_, _>>()?);
    }
    let here = std::env::current_exe().map_err(FleetError::NoBinary)?;
    let beside = here.with_file_name("load_test");
    if let Err(error) = std::fs::metadata(&beside) {
        return Err(FleetError::NoBinary(error));
    }
    Ok(vec![AgentBinary::read(&beside)?])
}
