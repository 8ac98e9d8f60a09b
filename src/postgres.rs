//! Reaching a Postgres server: what a connection string means, TLS, and connections.
//!
//! - [`conninfo`], [`passfile`], [`secret`]: what a connection string means. Pure.
//! - [`tls`], [`connect`]: opening a connection. [`link`]: using one in a single task.

pub mod connect;
pub mod conninfo;
pub mod link;
pub mod passfile;
pub mod secret;
pub mod tls;
