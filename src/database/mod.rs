//! Everything that talks to Postgres outside of the measured request.
//!
//! - [`conninfo`], [`passfile`], [`secret`]: what a connection string means. Pure.
//! - [`tls`], [`connect`]: opening a connection. [`link`]: using one in a single task.
//! - [`schema`]: the tables, and which are ours. [`rights`]: what the role may do with them. [`preflight`]: what the server
//!   says of itself.
//! - [`clock`]: how far this VM's clock is from the database's.
//! - [`verify`]: what the database holds of a run.
//! - [`ephemeral`]: the throwaway server.

pub mod clock;
pub mod connect;
pub mod conninfo;
pub mod ephemeral;
pub mod link;
pub mod passfile;
pub mod preflight;
pub mod rights;
pub mod schema;
pub mod secret;
pub mod tls;
pub mod verify;
