//! What a run asks of the database outside of the measured load: before it, and after it.
//!
//! - [`schema`]: the tables, and which are ours. [`foreign`]: those that are not. [`rights`]: what the role may do with them.
//!   [`writable`]: whether the session may write. [`limits`]: how many sessions there may be. [`preflight`]: what the server
//!   reports.
//! - [`mark`]: a test makes the tables its own while it lasts. [`verify`]: what the database holds of a run. [`evidence`]: what
//!   else could explain that rows are missing.
//! - [`clock`]: how far this VM's clock is from the database's.

pub mod clock;
pub mod evidence;
pub mod foreign;
pub mod limits;
pub mod mark;
pub mod preflight;
pub mod rights;
pub mod schema;
pub mod verify;
pub mod writable;
