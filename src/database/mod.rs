//! Everything that talks to Postgres outside of the measured request.
//!
//! - [`conninfo`], [`passfile`], [`secret`]: what a connection string means. Pure.
//! - [`tls`], [`connect`]: opening a connection. [`link`]: using one in a single task.
//! - [`schema`]: the tables, and which are ours. [`foreign`]: those that are not. [`rights`]: what the role may do with them.
//!   [`writable`]: whether the session may write. [`preflight`]: what the server says of itself.
//! - [`mark`]: a test makes the tables its own while it lasts. [`verify`]: what the database holds of a run. [`evidence`]: what
//!   else could explain that rows are missing.
//! - [`clock`]: how far this VM's clock is from the database's.
//! - [`ephemeral`]: the throwaway server.

pub mod clock;
pub mod connect;
pub mod conninfo;
pub mod ephemeral;
pub mod evidence;
pub mod foreign;
pub mod limits;
pub mod link;
pub mod mark;
pub mod passfile;
pub mod preflight;
pub mod rights;
pub mod schema;
pub mod secret;
pub mod tls;
pub mod verify;
pub mod writable;
