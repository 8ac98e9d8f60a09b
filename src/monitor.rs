//! What is watched next to a run.
//!
//! - [`docker`]: CPU and memory of a container, from the Docker Engine.

pub mod docker;
