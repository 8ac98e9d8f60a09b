//! Watches the CPU and the memory of one container through the Docker Engine API, beside a run.
//!
//! Knows tokio and the engine's protocol; knows neither what drives the load nor how a report looks. CPU is in percent
//! of one core, memory in MiB.
//!
//! An engine takes a reading a second, and a sample needs two. What goes wrong before the run is a [`ContainerError`];
//! what goes wrong during it never stops the run: it becomes the warning of the [`ContainerUsage`].

mod engine;
mod follower;
mod usage;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;
use tokio::time::timeout;

use engine::{Engine, Lines, PATIENCE};
use follower::Follower;
use usage::Reading;
pub use usage::{ContainerSample, ContainerUsage};

use crate::text::words::name_list;

/// Where docker's own CLI looks when `DOCKER_HOST` is not set.
const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";

/// Names listed in an error before the rest is only counted.
const NAMES_SHOWN: usize = 10;

/// Why a container cannot be watched. Each message is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error(
        "the Docker engine's address {address:?} is neither unix:///PATH nor tcp://HOST:PORT: \
         set DOCKER_HOST to one of these, or unset it for the default socket"
    )]
    Address { address: String },
    /// Nobody answers there, or not as an engine would.
    #[error(
        "the Docker engine at {address} cannot be asked ({reason}): start it, give this user access to its socket, \
         or set DOCKER_HOST to where it listens"
    )]
    Engine { address: String, reason: String },
    /// With the names of those that are running there, sorted.
    #[error("there is no container {name:?} at {address}: {}", running_text(.running))]
    NoSuchContainer { name: String, address: String, running: Vec<String> },
    /// With the engine's word for its state, such as `exited`.
    #[error("container {name:?} is not running ({status}): start it first, with `docker start {name}`")]
    NotRunning { name: String, status: String },
    #[error(
        "the Docker engine gives no statistics of container {name:?} ({reason}): \
         leave out the container, or give the engine access to its cgroups"
    )]
    NoStatistics { name: String, reason: String },
}

/// Follows one container from [`attach`](Self::attach) until it is dropped.
///
/// Readings arrive on the tokio runtime it was attached on: a runtime that nobody drives receives none.
#[derive(Debug)]
pub struct ContainerMonitor {
    name: String,
    follower: Arc<Mutex<Follower>>,
    task: JoinHandle<()>,
}

impl ContainerMonitor {
    /// Finds the container, by name or id, on the engine that `DOCKER_HOST` names (`unix://` or `tcp://`), or at the
    /// default socket; waits for its first reading, 10 s at most.
    ///
    /// # Errors
    /// Any [`ContainerError`], all of them meant to be shown before a run.
    pub async fn attach(container: &str) -> Result<Self, ContainerError> {
        // One that is empty or unreadable is no address, and must not become the default.
        let address = std::env::var_os("DOCKER_HOST").map(|address| address.to_string_lossy().into_owned());
        Self::attach_at(address.as_deref().unwrap_or(DEFAULT_ADDRESS), container).await
    }

    /// As [`attach`](Self::attach), with the engine's address given: `unix:///PATH` or `tcp://HOST:PORT`.
    ///
    /// # Errors
    /// Any [`ContainerError`].
    pub async fn attach_at(address: &str, container: &str) -> Result<Self, ContainerError> {
        let engine = Engine::at(address).ok_or_else(|| ContainerError::Address { address: address.to_owned() })?;
        let (id, name) = find_running(&engine, address, container).await?;
        let no_statistics = |reason| ContainerError::NoStatistics { name: name.clone(), reason };
        // By id, so that another container that takes over the name is not mistaken for this one.
        let mut readings = engine.statistics(&id).await.map_err(no_statistics)?;
        let first = first_reading(&mut readings).await.map_err(no_statistics)?;
        let follower = Arc::new(Mutex::new(Follower::starting_with(first)));
        let task = tokio::spawn(follow(readings, Arc::clone(&follower)));
        Ok(Self { name, follower, task })
    }

    /// The last sample, for a progress line; `None` before the first one and when none has come for 5 s.
    pub fn latest(&self) -> Option<ContainerSample> {
        lock(&self.follower).latest()
    }

    /// Begins the measured window: only samples that lie wholly after this count. Without it, the window begins with
    /// the monitor.
    pub fn mark_start(&self) {
        lock(&self.follower).begin_window();
    }

    /// What was seen since the window began. Does not wait for anything.
    pub fn usage(&self) -> ContainerUsage {
        lock(&self.follower).usage(&self.name)
    }
}

impl super::Monitor for ContainerMonitor {
    fn begin_window(&mut self) {
        self.mark_start();
    }

    fn live(&self) -> Vec<String> {
        let texts = |sample: ContainerSample| {
            vec![format!("CPU: {:.1}%", sample.cpu_percent), format!("Mem: {:.0}MiB", sample.memory_mib)]
        };
        self.latest().map(texts).unwrap_or_default()
    }

    fn finish(&self, findings: &mut super::Findings) {
        findings.container = Some(self.usage());
    }
}

impl Drop for ContainerMonitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A panic elsewhere is no reason to lose the figures: each update leaves them whole.
fn lock(follower: &Mutex<Follower>) -> MutexGuard<'_, Follower> {
    follower.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The id and the name of a container that is running.
async fn find_running(engine: &Engine, address: &str, asked: &str) -> Result<(String, String), ContainerError> {
    let fault = |reason| ContainerError::Engine { address: address.to_owned(), reason };
    // A name goes into the path of a URL as it stands, so one that no container can have stays here.
    let found = if is_container_name(asked) { engine.container(asked).await.map_err(fault)? } else { None };
    let Some(found) = found else {
        let running = engine.running_names().await.map_err(fault)?;
        return Err(ContainerError::NoSuchContainer { name: asked.to_owned(), address: address.to_owned(), running });
    };
    let name = found.name.trim_start_matches('/').to_owned();
    if !found.state.running {
        return Err(ContainerError::NotRunning { name, status: found.state.status });
    }
    Ok((found.id, name))
}

/// The engine's own rule for names; ids fit it, too.
fn is_container_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn running_text(names: &[String]) -> String {
    match names {
        [] => "no container is running there, start it first".to_owned(),
        names => format!("running there: {}", name_list(names, NAMES_SHOWN)),
    }
}

async fn first_reading(readings: &mut Lines) -> Result<Reading, String> {
    match timeout(PATIENCE, readings.next()).await {
        Ok(Ok(Some(stats))) => Reading::from_stats(&stats).ok_or_else(|| "its readings are empty".to_owned()),
        Ok(Ok(None)) => Err("it ended the stream".to_owned()),
        Ok(Err(reason)) => Err(reason),
        Err(_) => Err(format!("no reading within {} s", PATIENCE.as_secs())),
    }
}

async fn follow(mut readings: Lines, follower: Arc<Mutex<Follower>>) {
    let reason = loop {
        match readings.next().await {
            Ok(Some(stats)) => lock(&follower).take(Reading::from_stats(&stats)),
            Ok(None) => break "the engine closed the stream".to_owned(),
            Err(reason) => break reason,
        }
    };
    lock(&follower).end(reason);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_container_can_have_never_reach_a_url() {
        for good in ["db", "postgres-1", "a.b_c", "97ac4b1f5cf5"] {
            assert!(is_container_name(good), "{good}");
        }
        for bad in ["", "-x", "../images", "a/b", "a?all=1", "a b", "ä"] {
            assert!(!is_container_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_long_list_of_running_containers_is_cut() {
        let names: Vec<String> = (1..=12).map(|n| format!("c{n}")).collect();
        assert_eq!(running_text(&names[..2]), "running there: c1, c2");
        assert!(running_text(&names).ends_with("c9, c10 and 2 more"));
        assert!(running_text(&[]).starts_with("no container is running"));
    }
}
