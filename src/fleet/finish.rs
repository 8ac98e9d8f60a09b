//! After the load: the merged result, and the end of everything on all machines.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::error::RUNNING;
use super::listen::{REASON_CHARS, hear};
use super::member::{self, Link, Member};
use super::{Fleet, FleetError, ssh};
use crate::agent::protocol::Order;
use crate::merge;
use crate::result::{FailedVm, RunResult};
use crate::run::TicketCounter;
use crate::text::terminal::brief_lines;
use crate::verdict;

/// How long an agent may take to end when its input has ended.
const END_WITHIN: Duration = Duration::from_secs(3);

/// How long [`Fleet::count_tickets`] may take: the work itself, and the way there and back.
const TICKETS_WITHIN: Duration = TicketCounter::WITHIN.saturating_add(Duration::from_secs(5));

/// Said where `--host-keys off` was given.
pub const HOST_KEYS_OFF: &str = "Host keys were not checked (--host-keys off): anybody between could have read the \
                                 connection string and its password.";

impl Fleet {
    /// The merged result, judged, with what was lost marked. Compares the clocks a last time before. `aborted` tells why
    /// the test was ended early, where it was; `tickets` is what [`Self::count_tickets`] found, or why nothing; `stopped`
    /// tells whether a signal came before the end.
    ///
    /// # Errors
    /// No machine has measured anything, or the results contradict themselves.
    pub async fn conclude(
        &mut self,
        aborted: Option<String>,
        tickets: Result<u64, String>,
        stopped: bool,
    ) -> Result<RunResult, FleetError> {
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
                    let reason = member.lost.as_ref().or(member.distrusted.as_ref());
                    let error =
                        reason.map_or_else(|| "it delivered nothing".to_owned(), |why| brief_lines(why, REASON_CHARS));
                    missing.push(FailedVm { hostname: member.host.name.clone(), error });
                }
            }
        }
        if parts.is_empty() {
            return Err(FleetError::Machines { phase: RUNNING, failures: missing });
        }
        let is_whole = missing.is_empty();
        let mut result = merge::merge_closed(parts, missing, self.closed_ns)?;
        result.run.aborted = aborted.or(result.run.aborted);
        result.run.interrupted |= stopped;
        // Tickets of a machine whose requests do not count would be too many.
        if let Some(verification) = result.verification.as_mut().filter(|found| found.error.is_none())
            && self.plan.plan.workload.rate_limiting
        {
            match tickets.and_then(|taken| is_whole.then_some(taken).ok_or_else(|| "a machine is missing".to_owned())) {
                Ok(taken) => verification.tickets_taken = Some(taken),
                Err(why) => {
                    verification.error = Some(format!("the tickets in resource_bucket could not be counted: {why}"));
                }
            }
        }
        result.config.target_rps_per_vm = self.plan.rps_per_vm.or(result.config.target_rps_per_vm);
        if self.plan.ssh.host_keys == ssh::HostKeys::Off {
            result.warnings.push(HOST_KEYS_OFF.to_owned());
        }
        verdict::judge(&mut result, &self.plan.plan.criteria);
        Ok(result)
    }

    /// How many tickets the whole test has taken, where `--verify` asks for it; otherwise why that is not known. Takes
    /// 20 s at most.
    ///
    /// Asks two machines where there are as many, since one alone could say anything in the name of all. One that says
    /// nothing is passed over.
    ///
    /// # Errors
    /// What a lost machine has taken is not known, and neither is anything where the rows could not be counted; or nobody
    /// can tell.
    pub async fn count_tickets(&mut self) -> Result<u64, String> {
        let plan = &self.plan.plan;
        if !plan.database.verify || !plan.workload.rate_limiting {
            return Err("nobody asked for them".to_owned());
        }
        let counted = |member: &Member| {
            let verification = member.result.as_ref().and_then(|result| result.verification.as_ref());
            member.is_present()
                && member.distrusted.is_none()
                && verification.is_some_and(|found| found.error.is_none())
        };
        if !self.members.iter().all(counted) {
            return Err("a machine could not count its rows".to_owned());
        }
        let asked: Vec<usize> = (0..self.members.len()).take(2).collect();
        for index in &asked {
            self.members[*index].is_asked_for_tickets = true;
            self.members[*index].send(&Order::CountTickets);
        }
        let answered =
            self.until_all(&asked, |member| member.tickets.is_some() || member.distrusted.is_some() || member.ended);
        let _ = tokio::time::timeout(TICKETS_WITHIN, answered).await;
        let told = asked.iter().filter_map(|index| {
            let member = &self.members[*index];
            Some((member.host.name.as_str(), member.tickets.flatten()?))
        });
        match *told.collect::<Vec<_>>() {
            [] => Err("the database did not tell, or somebody else emptied the table during the run".to_owned()),
            [(one, count), (other, unlike)] if count != unlike => {
                Err(format!("{one} counted {count}, and {other} {unlike}"))
            }
            [(_, count), ..] => Ok(count),
        }
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
