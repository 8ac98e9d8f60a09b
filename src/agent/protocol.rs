//! The messages between the coordinator and `load_test --agent`: one JSON object a line, both ways.
//!
//! The agent speaks first: [`AgentEvent::Hello`], so that a coordinator of another build can turn away before it has sent
//! anything. Then the coordinator sends [`Order::Plan`], which holds the connection string and is the only message with
//! a secret, and one order for each phase:
//!
//! | order | what the agent does | answer |
//! |---|---|---|
//! | `plan` | resolves the options, reaches the database, changes nothing | `preflight` |
//! | `set_up` | database and tables (`--setup`), emptying, the pool for server-side data | `set_up` |
//! | `connect` | opens every connection, prepares every statement, draws the payloads | `ready` |
//! | `start` | waits for T0 on its own clock, then runs its share | `started`, a `second` each second, `watched` now and then, `result` |
//! | `stop` | closes the window now, waits for what is in flight | `result` |
//! | `abort` | abandons what is in flight | `result` |
//! | `count_total` | after the result: reads the workload's total of the whole test | `total` |
//! | `ping` | nothing | `pong`, at once |
//!
//! `failed` comes in place of any answer, and the agent ends after it. It ends at once, too, when its standard input
//! ends or is silent for [`COORDINATOR_SILENCE`]: then the coordinator is gone. The other way round, the coordinator
//! takes an agent for lost that says nothing for [`AGENT_SILENCE`]; an agent therefore says `alive` every
//! [`HEARTBEAT`], and the coordinator pings as often.
//!
//! Every line of the agent begins with the field `agent`, which holds [`VERSION`]. Lines on its standard output that
//! do not are somebody else's (a login shell's greeting) and are passed over.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::options::LoadTestOptions;
use crate::measure::bins::Bins;
use crate::measure::counters::Counters;
use crate::measure::encoded::{EncodedHistogram, HistogramError};
use crate::measure::figures::Histograms;
use crate::measure::outcome::ErrorCount;
use crate::measure::recorder::Recorder;
use crate::result::{ClockVsDatabase, Config, RunResult, ServerInfo};
use crate::schedule::Share;

/// Raised with every change of a message.
pub const VERSION: u32 = 5;

/// How often each side says something.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// An agent that has said nothing for so long is lost. With a check four times a second it is noticed within 5 s.
pub const AGENT_SILENCE: Duration = Duration::from_millis(4_000);

/// An agent that has heard nothing for so long stops. All is over within 10 s of a cut.
pub const COORDINATOR_SILENCE: Duration = Duration::from_secs(6);

/// The longest line that either side takes in, bytes: more than twice the longest that is sent, which is a result of
/// up to 400 KB. A line takes up to sixteen times its length while it is being understood.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    Plan(Box<PlanOrder>),
    SetUp,
    Connect,
    Start {
        /// T0 on the agent's own wall clock, nanoseconds since 1970.
        at_unix_ns: u64,
    },
    /// Close the window, wait for what is in flight, send the result.
    Stop,
    /// Abandon what is in flight, send the result.
    Abort,
    /// With `--verify`, once all VMs have delivered: read the workload's total of the whole test.
    CountTotal,
    Ping {
        number: u64,
    },
}

/// What to run. There is no `Debug`: it holds secrets.
#[derive(Clone, Serialize, Deserialize)]
pub struct PlanOrder {
    /// As on the command line; the connection string is in `target.postgres_url`, unless the agent's default is meant.
    pub options: LoadTestOptions,
    /// Names the test: the same for all agents, and another one for each test.
    pub test: u32,
    /// The agent's part of the schedule; `load.rps` is the rate of the whole test.
    pub share: Share,
    /// `PGPASSWORD` of the coordinator's surroundings.
    pub pgpassword: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// [`VERSION`]
    pub agent: u32,
    #[serde(flatten)]
    pub event: AgentEvent,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AgentEvent {
    /// The agent is there. Its first line.
    Hello(Hello),
    /// The database has been reached, or will be made.
    Preflight(Box<Preflight>),
    /// Database and tables are ready.
    SetUp,
    /// Every connection is open and has prepared its statements.
    Ready(Box<ReadyToRun>),
    Started {
        /// How far ahead T0 still was when the order came, milliseconds.
        ahead_ms: f64,
    },
    Second(Box<Snapshot>),
    /// What its monitors show, where that has changed: a few words each.
    Watched {
        readings: Vec<String>,
    },
    /// The first error of a kind.
    Incident {
        class: String,
        message: String,
    },
    /// The run is over. The last answer but `total`.
    Result(Box<RunResult>),
    /// How much the workload's total has grown since the run began, by all VMs together.
    Total {
        /// `null` where the database did not tell.
        count: Option<u64>,
    },
    /// It cannot go on. The last answer.
    Failed {
        /// A sentence, with a remedy.
        message: String,
    },
    Pong {
        number: u64,
        /// The agent's wall clock, nanoseconds since 1970.
        unix_ns: u64,
    },
    /// Nothing to say, but there.
    Alive,
}

/// Which message it is, as its field `event` or `order` has it.
pub fn name_of(message: &impl Serialize, field: &str) -> String {
    let message = serde_json::to_value(message).unwrap_or_default();
    message[field].as_str().unwrap_or_default().to_owned()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::version::BUILD`]
    pub build: String,
    pub tool_version: String,
    /// Its process, so that it can be ended from beside.
    pub pid: u32,
    pub hostname: String,
    /// Processors that it may use.
    pub processors: usize,
    /// How many files it may open, after it has raised the limit as far as it is allowed.
    pub open_files: Option<u64>,
}

/// What the agent found before anything was changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Preflight {
    /// Version and settings of the server, without tables. `null` where the database does not exist yet.
    pub server: Option<ServerInfo>,
    /// Names the database server and database, the same for every host that reaches the same; `null` where unknown.
    pub database: Option<String>,
    /// Where the database is, as the agent understands it; never a password.
    pub target: String,
    /// Connections that it will open.
    pub workers: usize,
    /// How its clock compares with the database's; `null` where the database does not tell.
    #[serde(default)]
    pub clock_vs_database: Option<ClockVsDatabase>,
}

/// What the agent is about to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadyToRun {
    /// What was asked for, as the agent understands it.
    pub config: Config,
    /// Version and settings of the server, with the tables.
    pub server: ServerInfo,
    /// As in [`Preflight`]; known also where the database was created meanwhile.
    pub database: Option<String>,
    /// Names of the recorded round trips.
    pub phases: Vec<String>,
    /// To be said with the result.
    pub warnings: Vec<String>,
    /// As in [`Preflight`], anew.
    #[serde(default)]
    pub clock_vs_database: Option<ClockVsDatabase>,
}

/// What an agent recorded in one second. Their sum is the run so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which second since T0, from 0.
    pub index: u64,
    pub counters: Counters,
    /// The latest due time of a request that was started or skipped, nanoseconds after T0.
    pub last_started_due_ns: Option<u64>,
    pub errors: Vec<ErrorCount>,
    /// Of the measured window.
    pub histograms: Histograms,
    /// Of the warm-up.
    pub warmup_latency: EncodedHistogram,
    /// What came of requests by when they were due, and what was done in this second.
    pub bins: Bins<EncodedHistogram>,
}

impl Snapshot {
    /// Of what was recorded in second `index`.
    pub fn new(index: u64, recorded: &Recorder) -> Self {
        Self {
            index,
            counters: recorded.counters,
            last_started_due_ns: recorded.last_started_due_ns,
            errors: recorded.errors.counts(),
            histograms: recorded.figures.encode(),
            warmup_latency: EncodedHistogram::new(&recorded.warmup_latency),
            bins: recorded.bins.encode(),
        }
    }

    /// What was recorded; round trips with two significant digits.
    ///
    /// # Errors
    /// The name of a histogram that is not one of ours, and why.
    pub fn recorded(&self) -> Result<Recorder, (String, HistogramError)> {
        let mut recorder = Recorder::with(self.histograms.decode()?);
        recorder.counters = self.counters;
        recorder.last_started_due_ns = self.last_started_due_ns;
        recorder.bins = self.bins.decode().map_err(|error| ("bins".to_owned(), error))?;
        recorder.errors.merge(&self.errors);
        recorder.warmup_latency = self.warmup_latency.decode().map_err(|error| ("warmup_latency".to_owned(), error))?;
        Ok(recorder)
    }
}
