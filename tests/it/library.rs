//! All that the tests take from the library, so that a module that moves is followed here alone. Whatever can be tested by
//! the programs and their documents does without it.

// The conversation with an agent.
pub use postgres_load_test::agent::protocol::{
    AgentEvent as Event, COORDINATOR_SILENCE, Hello, Line, Order, PlanOrder, Preflight, ReadyToRun as Ready, Snapshot,
    VERSION,
};
pub use postgres_load_test::cli::options::LoadTestOptions;
pub use postgres_load_test::clock;
pub use postgres_load_test::schedule::Share;
pub use postgres_load_test::version::BUILD;

// Results.
pub use postgres_load_test::measure::counters::Counts;
pub use postgres_load_test::measure::figures::Figures;
pub use postgres_load_test::measure::recorder::Recorder;
pub use postgres_load_test::result::{EncodedHistogram, RunResult};

// Connections.
pub use postgres_load_test::database::limits::{SessionLimits, lacking};
pub use postgres_load_test::engine::wire::Wire;
pub use postgres_load_test::postgres::connect::{ConnectError, ConnectErrorKind, Connection, Connector, Driver};
pub use postgres_load_test::postgres::conninfo::{ConnectionSpec, Environment};
pub use postgres_load_test::postgres::link::Link;
pub use postgres_load_test::workload::batch::Outgoing;

// The throwaway server.
pub use postgres_load_test::throwaway::{ThrowawayError, ThrowawayOptions, ThrowawayServer};

// SSH, and how the program gets to a VM.
pub use postgres_load_test::fleet::binary::AgentBinary;
pub use postgres_load_test::fleet::deploy::{self, DeployError, DeployErrorKind, DeployMode, DeployOptions, Launched};
pub use postgres_load_test::fleet::hosts::{self, Host};
pub use postgres_load_test::fleet::ssh::{HostKeys, Sessions, SshError, SshErrorKind, SshOptions};

// The container monitor.
pub use postgres_load_test::monitor::docker::{ContainerError, ContainerMonitor};
