//! After the load: the merged result, and the end of everything on all machines.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::error::RUNNING;
use super::listen::hear;
use super::member::{self, Link, Member};
use super::{Fleet, FleetError, ssh};
use crate::agent::protocol::Order;
use crate::merge;
use crate::result::{FailedVm, RunResult};
use crate::run::TicketCounter;
use crate::verdict;

/// How long an agent may take to end when its input has ended.
const END_WITHIN: Duration = Duration::from_secs(3);

/// How much longer than the work itself an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Said where `--host-keys off` was given.
pub const HOST_KEYS_OFF: &str = "Host keys were not checked (--host-keys off): anybody between could have read the \
                                 connection string and its password.";

impl Fleet {
    /// The merged result, judged, with what was lost marked. Compares the clocks a last time before. `aborted` tells why
    /// the test was ended early, where it was.
    ///
    /// # Errors
    /// No machine has measured anything, or the results contradict themselves.
    pub async fn conclude(&mut self, aborted: Option<String>) -> Result<RunResult, FleetError> {
        self.compare_clocks().await;
        let (mut parts, mut missing) = (Vec::new(), Vec::new());
        for index in 0..self.members.len() {
            match self.members[index].part(self.schedule(index), self.t0_unix_ns) {
                // One that contradicts itself must not cost the results of all others.
                Some(part) => match merge::check_whole(&part) {
                    Ok(()) => parts.push(part),
                    Err(error) => missing.push(FailedVm { hostname: part.hostname, error: error.to_string() }),
                },
                None => {
                    let member = &self.members[index];
                    let error = member.lost.clone().unwrap_or_else(|| "it delivered nothing".to_owned());
                    missing.push(FailedVm { hostname: member.host.name.clone(), error });
                }
            }
        }
        if parts.is_empty() {
            return Err(FleetError::Machines { phase: RUNNING, failures: missing });
        }
        let mut result = merge::merge(parts, missing)?;
        result.run.aborted = aborted.or(result.run.aborted);
        if let Some(verification) = &mut result.verification
            && self.plan.plan.workload.rate_limiting
        {
            verification.tickets_taken = self.tickets().await;
            if verification.tickets_taken.is_none() {
                verification.error.get_or_insert("the tickets in resource_bucket could not be counted".to_owned());
            }
        }
        result.config.target_rps_per_vm = self.plan.rps_per_vm.or(result.config.target_rps_per_vm);
        if self.plan.ssh.host_keys == ssh::HostKeys::Off {
            result.warnings.push(HOST_KEYS_OFF.to_owned());
        }
        verdict::judge(&mut result, &self.plan.plan.criteria);
        Ok(result)
    }

    /// How many tickets the whole test has taken, from the first machine that can tell. What a lost machine has taken is
    /// not known, so that then the number would prove nothing.
    async fn tickets(&mut self) -> Option<u64> {
        if self.members.iter().any(|member| !member.is_present()) {
            return None;
        }
        for index in self.present() {
            self.members[index].send(&Order::CountTickets);
            let only = [index];
            let answered = self.until_all(&only, |member| member.tickets.is_some());
            let _ = tokio::time::timeout(TicketCounter::WITHIN + ANSWER_WITHIN, answered).await;
            if let Some(taken) = self.members[index].tickets.flatten() {
                return Some(taken);
            }
        }
        None
    }

    /// Ends everything on all machines and here, whatever is under way: agents, sessions, files.
    pub async fn shut_down(mut self) {
        self.sessions.interrupt();
        self.connecting.shutdown().await;
        // The end of its input tells an agent to end. Its channel has to stay open meanwhile, or nobody would see it end.
        let open: Vec<_> = self
            .members
            .iter_mut()
            .map(|member| member.link.take().map(|Link { session, child, .. }| (session, child)))
            .collect();
        let until_ended = async {
            let expected = |member: &Member| member.is_present() && !member.ended;
            while self.members.iter().zip(&open).any(|(member, open)| open.is_some() && expected(member)) {
                let heard = hear(&mut self.heard, &mut self.ticks).await;
                _ = self.take(heard);
            }
        };
        let _ = tokio::time::timeout(END_WITHIN, until_ended).await;
        let mut closing = JoinSet::new();
        for (member, open) in self.members.iter_mut().zip(open) {
            let Some((session, child)) = open else { continue };
            let pool = Arc::clone(&self.sessions);
            let killing = member.killing.take();
            let unended = member.hello.as_ref().map(|hello| hello.pid).filter(|_| !member.ended);
            closing.spawn(async move {
                // One that was lost is being killed since; that needs the session for as long as it takes.
                match (killing, unended) {
                    (Some(killing), _) => _ = killing.await,
                    (None, Some(pid)) => member::kill(&session, pid).await,
                    (None, None) => {}
                }
                drop(child);
                pool.close(session).await;
            });
        }
        while closing.join_next().await.is_some() {}
        if let Some(sessions) = Arc::into_inner(self.sessions) {
            sessions.finish().await;
        }
    }
}
