//! All that the tests take from the library, so that a module that moves is followed here alone. Whatever can be tested by
//! the programs and their documents does without it.

// The conversation with an agent.
pub use postgres_load_test::testing::BUILD;
pub use postgres_load_test::testing::LoadTestOptions;
pub use postgres_load_test::testing::Share;
pub use postgres_load_test::testing::protocol::{
    AgentEvent as Event, COORDINATOR_SILENCE, Hello, Line, Order, PlanOrder, Preflight, ReadyToRun as Ready, Snapshot,
    VERSION,
};
pub use postgres_load_test::testing::unix_ns as wall_clock_ns;

// Results.
pub use postgres_load_test::testing::Counts;
pub use postgres_load_test::testing::Figures;
pub use postgres_load_test::testing::Recorder;
pub use postgres_load_test::testing::{EncodedHistogram, RunResult};

// Connections.
pub use postgres_load_test::testing::Link;
pub use postgres_load_test::testing::Outgoing;
pub use postgres_load_test::testing::Wire;
pub use postgres_load_test::testing::{ConnectError, ConnectErrorKind, Connection, Connector, Driver};
pub use postgres_load_test::testing::{ConnectionSpec, Environment};
pub use postgres_load_test::testing::{SessionLimits, lacking};

// The throwaway server.
pub use postgres_load_test::testing::{ThrowawayError, ThrowawayOptions, ThrowawayServer};

// SSH, and how the program gets to a VM.
pub use postgres_load_test::testing::AgentBinary;
pub use postgres_load_test::testing::deploy::{
    self, DeployError, DeployErrorKind, DeployMode, DeployOptions, Launched,
};
pub use postgres_load_test::testing::hosts::{self, Host};
pub use postgres_load_test::testing::{HostKeys, Sessions, SshError, SshErrorKind, SshOptions};

// The container monitor.
pub use postgres_load_test::testing::{ContainerError, ContainerMonitor};
