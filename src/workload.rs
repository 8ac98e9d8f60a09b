//! What one request writes, how it goes over the wire, and what the database must hold afterwards. Pure: knows no clock,
//! no socket, no thread.
//!
//! A workload is a folder here, and the line `pub use` below registers it. The rest of the program sees [`Workload`],
//! tables and counts by the names that it gives them, and nothing of what they mean. For every workload there are:
//!
//! - [`script`]: a request as messages of the protocol. [`batch`]: one encoded request.
//! - [`payload`]: documents, cut from a pool of random text. [`ids`]: row IDs that tell whose rows they are.
//! - [`table`]: what a workload says of its tables.

pub mod batch;
mod ids;
pub mod payload;
pub mod script;
pub(crate) mod size;
pub mod table;
mod tensorzero;

use tensorzero::Write;
pub use tensorzero::{DataOptions, Request, RequestMaker, TOTAL, Workload};
