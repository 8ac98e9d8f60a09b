//! After the load: the merged result, and the end of everything on all VMs.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::error::RUNNING;
use super::vm::{self, Connection, Vm};
use super::{Fleet, FleetError, ssh};
use crate::merge;
use crate::result::{FailedVm, RunResult};
use crate::run::TotalCounter;
use crate::verdict;
use crate::workload::table::Total;

/// How long an agent may take to end when its input has ended.
const END_WITHIN: Duration = Duration::from_secs(3);

/// How long [`Fleet::count_total`] may take: the work itself, and the way there and back.
const TOTAL_WITHIN: Duration = TotalCounter::WITHIN.saturating_add(Duration::from_secs(5));

/// Said where `--host-keys off` was given.
pub const HOST_KEYS_OFF: &str = "Host keys were not checked (--host-keys off): anybody between could have read the \
                                 connection string and its password.";

impl Fleet {
    /// The merged result, judged, with what was lost marked. Compares the clocks a last time before. `aborted` tells why
    /// the test was ended early, where it was; `total` is what [`Self::count_total`] found, or why nothing; `stopped`
    /// tells whether a signal came before the end.
    ///
    /// # Errors
    /// No VM has measured anything, or the results contradict themselves.
    pub async fn conclude(
        &mut self,
        aborted: Option<String>,
        total: Result<u64, String>,
        stopped: bool,
    ) -> Result<RunResult, FleetError> {
        self.compare_clocks().await;
        let (mut parts, mut missing) = (Vec::new(), Vec::new());
        for (index, vm) in self.vms.iter().enumerate() {
            match vm.part(self.schedule(index), self.course.t0_unix_ns) {
                // One that contradicts itself must not cost the results of all others.
                Some(part) => match merge::check_whole(&part) {
                    Ok(()) => parts.push(part),
                    Err(error) => missing.push(FailedVm { hostname: part.hostname, error: error.to_string() }),
                },
                None => {
                    let error = vm.lost().unwrap_or("it delivered nothing").to_owned();
                    missing.push(FailedVm { hostname: vm.host.name.clone(), error });
                }
            }
        }
        if parts.is_empty() {
            return Err(FleetError::Vms { phase: RUNNING, failures: missing });
        }
        let is_whole = missing.is_empty();
        let mut result = merge::merge_closed(parts, missing, self.course.closed_ns)?;
        result.run.aborted = aborted.or(result.run.aborted);
        result.run.interrupted |= stopped;
        // The part of a VM whose requests do not count would be too much.
        if let Some(verification) = result.verification.as_mut().filter(|found| found.error.is_none())
            && let Some(Total { table, unit, .. }) = self.plan.plan.workload.total()
        {
            match total.and_then(|count| is_whole.then_some(count).ok_or_else(|| "a VM is missing".to_owned())) {
                Ok(count) => verification.total = Some(count),
                Err(why) => {
                    verification.error = Some(format!("the {unit} in {table} could not be counted: {why}"));
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

    /// How much the workload's total has grown during the whole test, where `--verify` asks for it; otherwise why that is not
    /// known. Takes 20 s at most.
    ///
    /// Asks two VMs where there are as many, since one alone could say anything in the name of all. One that says
    /// nothing is passed over.
    ///
    /// # Errors
    /// What a lost VM has added is not known, and neither is anything where the rows could not be counted; or nobody
    /// can tell.
    pub async fn count_total(&mut self) -> Result<u64, String> {
        let plan = &self.plan.plan;
        if !plan.database.verify || plan.workload.total().is_none() {
            return Err("nobody asked for it".to_owned());
        }
        let counted = |vm: &Vm| {
            let verification = vm.result().and_then(|result| result.verification.as_ref());
            vm.is_present() && verification.is_some_and(|found| found.error.is_none())
        };
        if !self.vms.iter().all(counted) {
            return Err("a VM could not count its rows".to_owned());
        }
        let asked: Vec<usize> = (0..self.vms.len()).take(2).collect();
        asked.iter().for_each(|index| self.vms[*index].ask_for_total());
        let answered = self.until_all(&asked, |vm| !vm.owes_total());
        let _ = tokio::time::timeout(TOTAL_WITHIN, answered).await;
        let told = asked.iter().map(|index| &self.vms[*index]);
        let told = told.filter_map(|vm| Some((vm.host.name.as_str(), vm.total()?)));
        match *told.collect::<Vec<_>>() {
            [] => Err("the database did not tell, or somebody else emptied the table during the run".to_owned()),
            [(one, count), (other, unlike)] if count != unlike => {
                Err(format!("{one} counted {count}, and {other} {unlike}"))
            }
            [(_, count), ..] => Ok(count),
        }
    }

    /// Ends everything on all VMs and here, whatever is under way: agents, sessions, files.
    pub async fn shut_down(mut self) {
        self.sessions.interrupt();
        self.connecting.shutdown().await;
        for connection in self.vms.iter().filter_map(|vm| vm.connection.as_ref()) {
            // The end of its input tells an agent to end.
            connection.orders.close();
        }
        let all = self.present();
        let until_ended = self.until_all(&all, |vm| vm.connection.as_ref().is_none_or(|connection| connection.ended));
        let _ = tokio::time::timeout(END_WITHIN, until_ended).await;
        let mut closing = JoinSet::new();
        for vm in &mut self.vms {
            let Some(Connection { session, child, ended, killing, .. }) = vm.connection.take() else { continue };
            let pool = Arc::clone(&self.sessions);
            let unended = vm.hello.as_ref().map(|hello| hello.pid).filter(|_| !ended);
            closing.spawn(async move {
                // The agent of one that was lost is being killed since; that needs the session for as long as it takes.
                match (killing, unended) {
                    (Some(killing), _) => _ = killing.await,
                    (None, Some(pid)) => vm::kill(&session, pid).await,
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
