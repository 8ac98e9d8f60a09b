//! All that the tests take from the library, so that a module that moves is followed here alone. Whatever can be tested by
//! the programs and their documents does without it.

// The conversation with an agent.
pub use postgres_load_test::agent::protocol::{
    COORDINATOR_SILENCE, Event, Hello, Line, Order, PlanOrder, Preflight, Ready, Snapshot, VERSION,
};
pub use postgres_load_test::clock;
pub use postgres_load_test::options::{BUILD, LoadTestOptions};
pub use postgres_load_test::schedule::Share;

// Results.
pub use postgres_load_test::recorder::{Durations, Recorder, coarse_histogram};
pub use postgres_load_test::result::{EncodedHistogram, RunResult, encode};

// Connections.
pub use postgres_load_test::database::connect::{ConnectError, ConnectErrorKind, Connection, Connector, Driver};
pub use postgres_load_test::database::conninfo::{ConnectionSpec, Environment};
pub use postgres_load_test::database::limits::{SessionLimits, lacking};
pub use postgres_load_test::database::link::Link;
pub use postgres_load_test::engine::batch::Outgoing;
pub use postgres_load_test::engine::wire::Wire;

// The throwaway server.
pub use postgres_load_test::database::ephemeral::{ThrowawayError, ThrowawayOptions, ThrowawayServer};

// SSH, and how the program gets to a VM.
pub use postgres_load_test::fleet::binary::AgentBinary;
pub use postgres_load_test::fleet::deploy::{self, DeployError, DeployErrorKind, DeployMode, DeployOptions, Launched};
pub use postgres_load_test::fleet::hosts::{self, Host};
pub use postgres_load_test::fleet::ssh::{HostKeys, Sessions, SshError, SshErrorKind, SshOptions};

// The container monitor.
pub use postgres_load_test::docker::{ContainerError, ContainerMonitor};
