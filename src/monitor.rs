//! What is watched next to a run.
//!
//! - [`docker`]: CPU and memory of a container, from the Docker Engine.
//! - [`server`]: counters, settings and wait events of the database server.
//!
//! A monitor is a file here, a line in [`Monitors::attach`], and its field in [`Findings`], which is part of the result
//! document. Times are nanoseconds of the monotonic clock.

pub mod docker;
pub mod server;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use docker::{ContainerError, ContainerMonitor, ContainerUsage};
use server::{ServerMonitor, ServerStats, Watched, WindowTimes};

/// Something that is watched. It is attached before T0 and takes its samples by itself. What goes wrong from then on
/// never stops the run: it becomes a warning in the findings.
pub trait Monitor: Send {
    /// T0 is known, and with it the measured window.
    fn expect_window(&mut self, _: WindowTimes) {}

    /// The measured window begins: what was seen before does not count.
    fn begin_window(&mut self);

    /// The newest reading for the live line, the most important figure first; empty where there is none.
    fn live(&self) -> Vec<String>;

    /// The measured window is over: adds what was seen in it.
    fn finish(&self, findings: &mut Findings);

    /// The load is over, and the connections are closed: adds what can be known only now. Takes some seconds at most, and
    /// may be dropped. It is left out of a run that must end at once.
    fn conclude<'a>(&'a mut self, _: &'a mut Findings) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
}

/// What the monitors saw in the measured window: fields of the result document, with their doc comments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Findings {
    /// CPU and memory of the container of `--docker-container`; `null` without one.
    pub container: Option<ContainerUsage>,
    /// What the server's statistics said of the window; `null` with `--no-server-stats`, and for every VM but
    /// the first one.
    pub server_stats: Option<ServerStats>,
}

impl Findings {
    /// What the reader of the figures should know of them.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.container.iter().filter_map(|container| container.warning.clone())
    }
}

/// All monitors of a run.
pub struct Monitors {
    monitors: Vec<Box<dyn Monitor>>,
    window: Window,
}

/// How far the measured window is. Its ends are `None` before T0 is known.
enum Window {
    Ahead(Option<WindowTimes>),
    Open { ends_ns: u64 },
    Closed(Box<Findings>),
}

impl Monitors {
    /// Attaches those that are asked for.
    ///
    /// # Errors
    /// One cannot watch what it should.
    pub async fn attach(docker_container: Option<&str>) -> Result<Self, ContainerError> {
        let mut monitors: Vec<Box<dyn Monitor>> = Vec::new();
        if let Some(name) = docker_container {
            monitors.push(Box::new(ContainerMonitor::attach(name).await?));
        }
        Ok(Self { monitors, window: Window::Ahead(None) })
    }

    /// Watches the server, too. The load's connections are open: they come first.
    pub async fn attach_server(&mut self, watched: Watched) {
        // Its word comes first in the live line.
        self.monitors.insert(0, Box::new(ServerMonitor::attach(watched).await));
    }

    /// T0 is known, and with it the measured window.
    pub fn expect_window(&mut self, window: WindowTimes) {
        self.monitors.iter_mut().for_each(|monitor| monitor.expect_window(window));
        self.window = Window::Ahead(Some(window));
    }

    /// Follows the measured window. May be dropped and called again.
    pub async fn follow(&mut self) -> Infallible {
        loop {
            match self.window {
                Window::Ahead(Some(WindowTimes { from_ns, to_ns: ends_ns, .. })) if !self.monitors.is_empty() => {
                    sleep_until(from_ns).await;
                    self.monitors.iter_mut().for_each(|monitor| monitor.begin_window());
                    self.window = Window::Open { ends_ns };
                }
                Window::Open { ends_ns } => {
                    sleep_until(ends_ns).await;
                    self.close();
                }
                Window::Ahead(_) | Window::Closed(_) => std::future::pending().await,
            }
        }
    }

    /// The window is over, perhaps early.
    pub fn close(&mut self) {
        if !matches!(self.window, Window::Closed(_)) {
            let mut findings = Box::<Findings>::default();
            self.monitors.iter().for_each(|monitor| monitor.finish(&mut findings));
            self.window = Window::Closed(findings);
        }
    }

    /// The load is over: waits for what can be known only now, some seconds at most. May be dropped.
    pub async fn conclude(&mut self) {
        self.close();
        if let Window::Closed(findings) = &mut self.window {
            for monitor in &mut self.monitors {
                monitor.conclude(findings).await;
            }
        }
    }

    /// The newest readings, for the live line.
    pub fn live(&self) -> Vec<String> {
        self.monitors.iter().flat_map(|monitor| monitor.live()).collect()
    }

    pub fn into_findings(mut self) -> Findings {
        self.close();
        match self.window {
            Window::Closed(findings) => *findings,
            Window::Ahead(_) | Window::Open { .. } => Findings::default(),
        }
    }
}

async fn sleep_until(at_ns: u64) {
    tokio::time::sleep(Duration::from_nanos(at_ns.saturating_sub(clock::now_ns()))).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Diary(Arc<Mutex<Vec<&'static str>>>);

    impl Monitor for Diary {
        fn begin_window(&mut self) {
            self.0.lock().unwrap().push("begin");
        }

        fn live(&self) -> Vec<String> {
            vec!["live".to_owned()]
        }

        fn finish(&self, _: &mut Findings) {
            self.0.lock().unwrap().push("finish");
        }
    }

    #[tokio::test]
    async fn the_window_begins_and_ends_once() {
        let diary = Arc::new(Mutex::new(Vec::new()));
        let mut monitors = Monitors { monitors: vec![Box::new(Diary(diary.clone()))], window: Window::Ahead(None) };
        let now_ns = clock::now_ns();
        monitors.expect_window(WindowTimes { t0_ns: now_ns, from_ns: now_ns, to_ns: now_ns + 1_000_000 });
        let followed = tokio::time::timeout(Duration::from_millis(200), monitors.follow()).await;
        assert!(followed.is_err());
        assert_eq!(*diary.lock().unwrap(), ["begin", "finish"]);
        monitors.close();
        assert_eq!(monitors.live(), ["live"]);
        monitors.into_findings();
        assert_eq!(*diary.lock().unwrap(), ["begin", "finish"]);
    }

    #[tokio::test]
    async fn a_run_that_is_stopped_early_closes_the_window() {
        let diary = Arc::new(Mutex::new(Vec::new()));
        let mut monitors = Monitors { monitors: vec![Box::new(Diary(diary.clone()))], window: Window::Ahead(None) };
        monitors.close();
        assert!(tokio::time::timeout(Duration::from_millis(5), monitors.follow()).await.is_err());
        assert_eq!(*diary.lock().unwrap(), ["finish"]);
    }
}
