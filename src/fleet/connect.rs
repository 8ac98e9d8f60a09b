//! From nothing to an agent that has said hello, on every VM at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openssh::Session;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::binary::AgentBinary;
use super::deploy::{self, DeployMode, Launched};
use super::hosts::Host;
use super::plan::FleetPlan;
use super::vm::{Connection, Vm};
use super::{Fleet, FleetError, lines, ssh};
use crate::clock::now_ns;
use crate::text::words::name_list;

/// A VM on which the agent has been started.
pub(super) struct Connected {
    session: Arc<Session>,
    launched: Launched,
    took: Duration,
}

impl Fleet {
    /// Connects to all VMs, brings the program there where it lacks, and starts it. `tell` hears how many are
    /// there.
    ///
    /// # Errors
    /// All VMs that cannot be had, unless the plan says to go on without.
    pub async fn connect(&mut self, tell: &mut dyn FnMut(usize)) -> Result<(), FleetError> {
        let uploads = Arc::new(Semaphore::new(self.plan.ssh.concurrency));
        for (index, vm) in self.vms.iter().enumerate() {
            let (sessions, deploy) = (Arc::clone(&self.sessions), Arc::clone(&self.deploy));
            let (host, uploads) = (vm.host.clone(), Arc::clone(&uploads));
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
            tell(self.vms.iter().filter(|vm| vm.hello.is_some()).count());
            let decided = self.vms.iter().all(|vm| vm.hello.is_some() || !vm.is_present());
            if self.connecting.is_empty() && decided {
                break;
            }
            tokio::select! {
                Some(joined) = self.connecting.join_next() => match joined {
                    Ok((index, Ok(connected))) => self.take_in(index, connected),
                    Ok((index, Err(reason))) => _ = self.lose(index, reason),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                heard = self.hearing.next() => {
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
        let speak = self.hearing.speak.clone();
        let orders = lines::open(index, stdin, stdout, stderr, move || ssh::words_of(&carrier), speak);
        self.vms[index].connection = Some(Connection {
            session,
            orders,
            child,
            took,
            deployed,
            identity: probe.identity,
            heard_ns: now_ns(),
            ended: false,
            killing: None,
        });
    }
}

/// Names that are one VM, as a warning.
pub(super) fn same_vm_warnings(vms: &[Vm]) -> Vec<String> {
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for vm in vms {
        let identity = vm.connection.as_ref().map_or("", |connection| &connection.identity);
        if !identity.is_empty() {
            names.entry(identity).or_default().push(&vm.host.name);
        }
    }
    let same = names.into_values().filter(|names| names.len() > 1);
    let warnings = same.map(|names| {
        format!(
            "{} are one VM under several names: it runs all of their shares with its one processor and network. Give \
             each VM once",
            name_list(&names, 3)
        )
    });
    warnings.collect()
}

/// Without the host's name in front, which is said wherever the reason is.
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
